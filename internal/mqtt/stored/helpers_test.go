package stored_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/pebble"
)

const (
	realm    = "default"
	patience = 30 * time.Second
)

var epoch0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// onEngines runs f on every engine.
func onEngines(t *testing.T, f func(t *testing.T, e store.Engine)) {
	for _, kind := range []struct {
		name string
		open func() (store.Engine, error)
	}{
		{"mem", func() (store.Engine, error) { return mem.New(), nil }},
		{"pebble", func() (store.Engine, error) { return pebble.Open(pebble.Options{Dir: "/s", FS: vfs.NewMem()}) }},
		{"delay", func() (store.Engine, error) {
			return delay.New(mem.New(), delay.Options{Max: 2 * time.Millisecond, Seed: 3}), nil
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			e, err := kind.open()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := e.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			f(t, e)
		})
	}
}

// open opens a Store whose background work is quick.
func open(t *testing.T, e store.Engine) *stored.Store {
	t.Helper()
	st, err := stored.Open(stored.Options{Engine: e, Grace: time.Nanosecond, Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// run runs st until the test ends or stop is called.
func run(t *testing.T, st *stored.Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- st.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !f(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func commit(t *testing.T, e store.Engine, f func(b *store.Batch)) {
	t.Helper()
	b := store.NewBatch(store.Normal)
	f(b)
	if _, err := store.Commit(t.Context(), e, b); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

// wait returns what f reports to its done.
func wait(f func(done func(error))) error {
	ch := make(chan error, 1)
	f(func(err error) { ch <- err })
	return <-ch
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func message(from, topic, payload string, qos packet.QoS) *session.Message {
	return &session.Message{
		Publish:  packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos},
		From:     from,
		Received: epoch0,
	}
}

type outcome struct {
	receipt stored.Receipt
	err     error
}

// publish commits publications of one publisher in one batch.
func publish(st *stored.Store, from string, ps ...*stored.Publication) []outcome {
	ch := make(chan outcome, len(ps))
	b := st.Begin(st.Partition(realm, from))
	for _, p := range ps {
		p.Realm = realm
		b.Add(p, func(r stored.Receipt, err error) { ch <- outcome{r, err} })
	}
	b.Submit()
	var all []outcome
	for range ps {
		all = append(all, <-ch)
	}
	return all
}

// pending reads a queue in pages of n.
func pending(t *testing.T, st *stored.Store, k stored.SessionKey, n int) []stored.Entry {
	t.Helper()
	var all []stored.Entry
	var after *stored.Cursor
	for {
		page, err := st.Pending(k, after, n, 1<<20)
		must(t, "pending", err)
		all = append(all, page.Entries...)
		if !page.More {
			return all
		}
		if len(page.Entries) == 0 {
			t.Fatal("an empty page says that there is more")
		}
		after = &page.Cursor
	}
}

// texts are the payloads of entries, with packet identifiers.
func texts(es []stored.Entry) (all []string) {
	for _, e := range es {
		s := "released"
		if !e.Released {
			s = string(e.Message.Payload)
		}
		all = append(all, fmt.Sprintf("%s %d", s, e.PacketID))
	}
	return all
}

func wantTexts(t *testing.T, es []stored.Entry, want ...string) {
	t.Helper()
	if got := texts(es); !slices.Equal(got, want) {
		t.Fatalf("pending: got %q, want %q", got, want)
	}
}

// keys counts the keys of the tables given, all of this package if none.
func keys(t *testing.T, e store.Engine, tables ...store.Table) int {
	t.Helper()
	s := e.Snapshot()
	defer s.Close()
	it := s.Iter(nil, nil)
	n := 0
	for it.Next() {
		table := store.Table(it.Key()[1])
		if len(tables) == 0 && table >= store.TableSessionState && table <= store.TableRetained || slices.Contains(tables, table) {
			n++
		}
	}
	must(t, "count keys", errors.Join(it.Err(), it.Close()))
	return n
}

func key(name string) stored.SessionKey { return stored.SessionKey{Realm: realm, Name: name, Epoch: 1} }

// begin stores a session of epoch 1.
func begin(t *testing.T, e store.Engine, st *stored.Store, name string) *stored.Session {
	t.Helper()
	s := &stored.Session{Realm: realm, Name: name, Owner: name, Epoch: 1, Expiry: 100}
	commit(t, e, func(b *store.Batch) { st.StageSession(b, nil, s) })
	return s
}

func end(t *testing.T, e store.Engine, st *stored.Store, s *stored.Session) {
	t.Helper()
	commit(t, e, func(b *store.Batch) { st.StageEnd(b, s) })
}

func to(name string, id uint16) stored.Target {
	return stored.Target{Session: name, Epoch: 1, PacketID: id, QoS: packet.QoS1}
}

// count adds up what waits for a session.
func count(st *stored.Store, k stored.SessionKey) (messages int, size int64, ids []uint16, err error) {
	err = st.Survey(k, func(w stored.Waiting) bool {
		messages++
		size += int64(w.Size)
		ids = append(ids, w.PacketID)
		return true
	})
	return messages, size, ids, err
}
