package presence_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/presence"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
)

// shaky is an engine that can lose its tongue, its memory and its sight, and
// that counts the snapshots that are open.
type shaky struct {
	store.Engine
	mu     sync.Mutex
	unsure int // so many batches are applied and reported as unknown
	blind  bool
	open   int
}

var errBlind = errors.New("cannot read")

func (e *shaky) set(unsure int, blind bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unsure, e.blind = unsure, blind
}

func (e *shaky) Submit(b *store.Batch, done func(store.Result)) {
	e.mu.Lock()
	unsure := e.unsure > 0
	if unsure {
		e.unsure--
	}
	e.mu.Unlock()
	e.Engine.Submit(b, func(r store.Result) {
		if unsure {
			r = store.Result{Err: store.ErrUnknown}
		}
		done(r)
	})
}

func (e *shaky) Outcome(context.Context, store.ID) (store.Result, bool, error) {
	return store.Result{}, false, nil
}

func (e *shaky) Snapshot() store.Snapshot {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open++
	return &view{Snapshot: e.Engine.Snapshot(), e: e, blind: e.blind}
}

type view struct {
	store.Snapshot
	e     *shaky
	blind bool
	once  sync.Once
}

func (v *view) Get(key []byte) ([]byte, store.Revision, error) {
	if v.blind {
		return nil, 0, errBlind
	}
	return v.Snapshot.Get(key)
}

func (v *view) Close() {
	v.once.Do(func() {
		v.e.mu.Lock()
		v.e.open--
		v.e.mu.Unlock()
	})
	v.Snapshot.Close()
}

// TestP1UnsureReleaseEndsOnce: a Disconnected was committed, but the engine can
// neither say so nor be read for a while. It is not written again.
func TestP1UnsureReleaseEndsOnce(t *testing.T) {
	for _, away := range []time.Duration{time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			e, events := &shaky{Engine: mem.New()}, new(stager)
			l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n", Stager: events})
			if err != nil {
				t.Fatal(err)
			}
			h := mustClaim(t, l, "s", new(link))
			e.set(1, true)
			h.Release(disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport}, nil)
			time.Sleep(away) // virtual
			e.set(0, false)
			<-h.Released()
			release(t, mustClaim(t, l, "s", new(link)), disconnect.ClientInitiatedDisconnect, goodbye)
			if ts := check(t, l, "s"); len(ts) != 4 || ts[1].Reason != disconnect.ConnectionLost {
				t.Errorf("away for %s: %+v", away, ts)
			}
			if n := len(events.committed); n != 4 {
				t.Errorf("away for %s: %d events of 4 transitions", away, n)
			}
			if err := l.Drain(t.Context()); err != nil {
				t.Error(err)
			}
			e.Close()
		})
	}
}

// TestUnsureClaimIsGranted: the same for a Connected.
func TestUnsureClaimIsGranted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &shaky{Engine: mem.New()}
		l := open(t, e)
		mustClaim(t, l, "other", new(link))
		var old link
		mustClaim(t, l, "s", &old)
		e.set(1, true)
		go func() {
			time.Sleep(time.Second)
			e.set(0, false)
		}()
		if h := mustClaim(t, l, "s", new(link)); h.Number() != 2 || !old.evicted.Load() {
			t.Errorf("number %d, evicted %v", h.Number(), old.evicted.Load())
		}
		check(t, l, "s")
		e.Close()
	})
}

// TestDrainWaitsForClaims: a claim that is being committed is not overlooked.
func TestDrainWaitsForClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &slow{Engine: mem.New(), wait: time.Second}
		l := open(t, e)
		l.Claim(presence.Claim{Realm: realm, Session: "s", Owner: "s", Conn: new(link)}, func(h *presence.Hold, err error) {
			if err != nil {
				t.Error(err)
				return
			}
			h.Release(disconnect.ServerInitiatedDisconnect, disconnect.Evidence{Kind: disconnect.Operator}, nil)
		})
		if err := l.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if ts := check(t, l, "s"); len(ts) != 2 || ts[1].Reason != disconnect.ServerInitiatedDisconnect {
			t.Errorf("%+v", ts)
		}
		e.Close()
	})
}

// slow takes its time for each batch.
type slow struct {
	store.Engine
	wait time.Duration
}

func (e *slow) Submit(b *store.Batch, done func(store.Result)) {
	time.AfterFunc(e.wait, func() { e.Engine.Submit(b, done) })
}

// TestTrimLeavesNoSnapshotOpen: retention of more than one batch.
func TestTrimLeavesNoSnapshotOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &shaky{Engine: mem.New()}
		l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n", Retention: presence.Retention{Age: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx, nil) }()
		for range 700 { // 1400 transitions
			release(t, mustClaim(t, l, "s", new(link)), disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport})
		}
		time.Sleep(2 * time.Hour)
		if ts, _, _ := l.History(realm, "s", presence.Page{Limit: 1}); len(ts) != 0 {
			t.Errorf("%+v is left", ts)
		}
		cancel()
		<-done
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.open != 0 {
			t.Errorf("%d snapshots are open", e.open)
		}
		e.Engine.Close()
	})
}

// TestUnsureAmend: the outcome of an amendment that the engine could not tell at
// once is asked for, and only what it does not know at all is reported as
// unknown. Whatever waits for the name's turn goes on.
func TestUnsureAmend(t *testing.T) {
	for _, c := range []struct {
		fault delay.Fault
		want  error
	}{{delay.UnknownApplied, nil}, {delay.UnknownLost, store.ErrUnknown}} {
		synctest.Test(t, func(t *testing.T) {
			var failing bool
			e := delay.New(mem.New(), delay.Options{Max: -1, Fault: func(*store.Batch) delay.Fault {
				if failing {
					return c.fault
				}
				return delay.None
			}})
			l := open(t, e)
			failing = true
			key := []byte("\x00\xf0amended")
			outcome := make(chan error, 1)
			l.Amend(realm, "s", func(b *store.Batch, _ uint8, _ bool) bool {
				b.Put(key, nil)
				return true
			}, func(err error) { outcome <- err })
			if err := <-outcome; !errors.Is(err, c.want) {
				t.Errorf("fault %d: %v", c.fault, err)
			}
			if _, _, err := store.Get(e, key); (err == nil) != (c.want == nil) {
				t.Errorf("fault %d: reading it says %v", c.fault, err)
			}
			failing = false
			release(t, mustClaim(t, l, "s", new(link)), disconnect.ClientInitiatedDisconnect, goodbye)
			check(t, l, "s")
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
