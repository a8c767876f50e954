package grid_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"rollcall/internal/fault"
	"rollcall/internal/grid"
	"rollcall/internal/store"
)

// held is an endpoint that answers a handshake when it is let go.
type held struct {
	*httptest.Server
	asked, let chan struct{}
	once       sync.Once
}

func (h *held) release() { h.once.Do(func() { close(h.let) }) }

func newHeld(t *testing.T, status int) *held {
	h := &held{asked: make(chan struct{}, 10), let: make(chan struct{})}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var events []struct {
			Data struct{ ValidationCode string }
		}
		if json.NewDecoder(q.Body).Decode(&events) != nil || len(events) != 1 {
			return
		}
		h.asked <- struct{}{}
		<-h.let
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": events[0].Data.ValidationCode})
	}))
	t.Cleanup(func() {
		h.release()
		h.Close()
	})
	return h
}

// The consent of an endpoint that was replaced while it was asked is not that
// of the new one, to which nobody would send events otherwise.
func TestOutdatedHandshakeIsNobodysConsent(t *testing.T) {
	f := newFixture(t)
	f.start()
	first, second := newHeld(t, 200), newHeld(t, 400)
	f.put("one", properties(first.URL))
	<-first.asked
	f.put("one", properties(second.URL))
	<-second.asked
	first.release()
	first.Close() // its answer has been sent
	for range 50 {
		changed, err := f.grid.Watch(source, "one")
		if err != nil {
			t.Fatal(err)
		}
		s, err := f.grid.Get(source, "one")
		if err != nil {
			t.Fatal(err)
		}
		if s.State != grid.Creating || s.Matching {
			t.Fatalf("the consent of the first endpoint made it %s", s.State)
		}
		select {
		case <-changed:
		case <-time.After(5 * time.Millisecond):
		}
	}
	second.release()
	if s := f.awaitState("one", grid.Failed); s.Matching {
		t.Error("it matches events though its endpoint has refused")
	}
}

// meddler is an engine that lets something happen just before a subscription
// is deleted.
type meddler struct {
	store.Engine
	mu     sync.Mutex
	before func()
}

func (m *meddler) meddle(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = f
}

func (m *meddler) Submit(b *store.Batch, done func(store.Result)) {
	deletes := false
	_ = b.Each(func(o store.Op) error {
		deletes = deletes || o.Kind == store.OpDelete && store.Table(o.Key[1]) == store.TableSub
		return nil
	})
	if deletes {
		m.mu.Lock()
		f := m.before
		m.before = nil
		m.mu.Unlock()
		if f != nil {
			f()
		}
	}
	m.Engine.Submit(b, done)
}

// A subscription that changes after it was judged and before it is deleted is
// judged again: it is not what was to be deleted any more.
func TestRemovalJudgesWhatItRemoves(t *testing.T) {
	f := newFixture(t)
	m := &meddler{Engine: f.engine}
	f.engine = m
	f.start()
	r := newReceiver(t)
	f.put("one", properties(r.URL))
	s := f.awaitState("one", grid.Succeeded)
	m.meddle(func() {
		if _, err := f.grid.Pause(context.Background(), source, "one"); err != nil {
			t.Error(err)
		}
	})
	_, err := f.grid.Delete(context.Background(), source, "one", grid.Condition{Revision: s.Revision})
	if !hasCode(err, fault.PreconditionFailed) {
		t.Errorf("deleting what has changed: %v", err)
	}
	if s, err := f.grid.Get(source, "one"); err != nil || !s.Properties.Paused {
		t.Errorf("after the refused removal: %+v, %v", s, err)
	}

	p := properties(r.URL)
	p.Expiration = time.Now().Add(200 * time.Millisecond)
	extended := make(chan struct{})
	m.meddle(func() { // just when it has expired
		never := time.Time{}
		if _, err := f.grid.Patch(context.Background(), source, "two", grid.Patch{Expiration: &never}, grid.Condition{}); err != nil {
			t.Error(err)
		}
		close(extended)
	})
	f.put("two", p)
	select {
	case <-extended:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not expire")
	}
	for range 20 {
		if _, err := f.grid.Get(source, "two"); err != nil {
			t.Fatalf("it expired though it had been given more time: %v", err)
		}
		changed, err := f.grid.Watch(source, "two")
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		case <-time.After(5 * time.Millisecond):
		}
	}
}
