package presence_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/presence"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/setaside"
)

// keyOf returns the one key of a table that is of a session.
func keyOf(t *testing.T, e store.Engine, table store.Table, session string) []byte {
	t.Helper()
	s := e.Snapshot()
	defer s.Close()
	it := s.Iter(nil, nil)
	defer it.Close()
	for it.Next() {
		if store.TableOf(it.Key()) == table && bytes.Contains(it.Key(), append([]byte(session), 0, 1)) {
			return bytes.Clone(it.Key())
		}
	}
	t.Fatalf("%s has no key in %s", session, table)
	return nil
}

func commit(t *testing.T, e store.Engine, f func(*store.Batch)) uint64 {
	t.Helper()
	b := store.NewBatch(store.Reserve)
	f(b)
	index, err := store.Commit(t.Context(), e, b)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// lose marks n commits as lost, as an engine does that finds the end of its log
// gone.
func lose(t *testing.T, e store.Engine, n uint64) {
	t.Helper()
	at := commit(t, e, func(b *store.Batch) {})
	commit(t, e, func(b *store.Batch) {
		l := store.Loss{From: at, To: at + n, At: time.Unix(1, 0).UTC()}
		l.Stage(b)
	})
	for range n { // an engine goes on above what was lost
		commit(t, e, func(b *store.Batch) {})
	}
}

// history returns a session's transitions, oldest first.
func history(t *testing.T, l *presence.Ledger, session string) []presence.Transition {
	t.Helper()
	ts, _, err := l.History(realm, session, presence.Page{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return ts
}

// P1: what the store lost may have numbered a session's transitions. Their
// numbers are skipped, and the transition after says so.
func TestP1NumbersThatMayHaveBeenLostAreSkipped(t *testing.T) {
	e := mem.New()
	defer e.Close()
	l := open(t, e)
	release(t, mustClaim(t, l, "closed", new(link)), disconnect.ClientInitiatedDisconnect, goodbye)
	mustClaim(t, l, "open", new(link))
	lose(t, e, 40)
	l = open(t, e)
	if _, err := l.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, session := range []string{"closed", "open", "new"} {
		h := mustClaim(t, l, session, new(link))
		if h.Number() <= 41-1 {
			t.Errorf("%s goes on with number %d: up to 40 more may have been given out", session, h.Number())
		}
		release(t, h, disconnect.ClientInitiatedDisconnect, goodbye)
		var skipped uint64
		seen := make(map[[2]uint64]bool)
		for _, tr := range history(t, l, session) {
			if seen[[2]uint64{tr.Number, uint64(tr.Kind)}] {
				t.Errorf("%s: %s %d twice", session, tr.Kind, tr.Number)
			}
			seen[[2]uint64{tr.Number, uint64(tr.Kind)}] = true
			skipped += tr.Skipped
		}
		if skipped != 40 {
			t.Errorf("%s: %d numbers are said to be skipped, want 40: %+v", session, skipped, history(t, l, session))
		}
		// It happens once.
		if again := mustClaim(t, l, session, new(link)); again.Number() != h.Number()+1 {
			t.Errorf("%s: number %d after %d", session, again.Number(), h.Number())
		}
	}
	ts := history(t, l, "open")
	if ts[1].Kind != presence.Disconnected || ts[1].Reason != disconnect.ServerError || ts[1].Number != 41 {
		t.Errorf("what was open is not ended behind what may have been lost: %+v", ts[1])
	}
}

// P1: a state that is gone, because the range that it was in is damaged, is
// taken from the history where that is newer.
func TestP1LostStateIsTakenFromTheHistory(t *testing.T) {
	e := mem.New()
	defer e.Close()
	l := open(t, e)
	release(t, mustClaim(t, l, "s", new(link)), disconnect.ClientInitiatedDisconnect, goodbye)
	mustClaim(t, l, "s", new(link))
	key := keyOf(t, e, store.TableSession, "s")
	commit(t, e, func(b *store.Batch) { b.Delete(key) })
	commit(t, e, func(b *store.Batch) {
		loss := store.Loss{Lower: key, Upper: store.PrefixEnd(key), To: 3}
		loss.Stage(b)
	})
	l = open(t, e)
	mustClaim(t, l, "s", new(link))
	ts := check(t, l, "s") // nothing is skipped: it is known to be the newest
	if len(ts) != 5 || ts[3].Reason != disconnect.ServerError {
		t.Errorf("history %+v", ts)
	}
}

// P1, P3: a state that cannot be read stops nobody else, and its session goes on
// from its history, or above every number that it can have had.
func TestP1UnreadableStateNeverReusesANumber(t *testing.T) {
	for _, withHistory := range []bool{true, false} {
		e := mem.New()
		l := open(t, e)
		for range 3 {
			release(t, mustClaim(t, l, "s", new(link)), disconnect.ClientInitiatedDisconnect, goodbye)
		}
		mustClaim(t, l, "s", new(link))
		mustClaim(t, l, "t", new(link))
		commit(t, e, func(b *store.Batch) {
			b.Put(keyOf(t, e, store.TableSession, "s"), []byte{99, 1, 2})
			if !withHistory {
				prefix := keyOf(t, e, store.TableHistory, "s")[:2]
				b.DeleteRange(prefix, store.PrefixEnd(prefix))
			}
		})
		aside := setaside.New(nil)
		l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n1", SetAside: aside})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Sweep(t.Context()); err != nil {
			t.Errorf("the sweep stopped at it: %v", err)
		}
		if st, err := l.Show(realm, "t"); err != nil || st.Open() {
			t.Errorf("another session was not swept: %+v, %v", st, err)
		}
		if h := mustClaim(t, l, "s", new(link)); h.Number() < 5 {
			t.Errorf("with history %v: number %d is given again", withHistory, h.Number())
		}
		if found, _, err := l.List(t.Context(), presence.Query{Realm: realm, Limit: 10}); err != nil || len(found) != 2 {
			t.Errorf("list: %d sessions, %v", len(found), err)
		}
		if aside.Counts()["sessions"] != 1 {
			t.Errorf("set aside: %v", aside.Counts())
		}
		e.Close()
	}
}

// P3: what a node of another name left open is closed too: a store has one
// node, and this one has been renamed.
func TestP3SessionsOfARenamedNodeAreSwept(t *testing.T) {
	e := mem.New()
	defer e.Close()
	mustClaim(t, open(t, e), "s", new(link))
	l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "renamed"})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := l.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("%d sessions were swept, %v", n, err)
	}
	if ts := check(t, l, "s"); len(ts) != 2 || ts[1].Reason != disconnect.ServerError {
		t.Errorf("history %+v", ts)
	}
}

// What a crash left open is ended with what follows from that, its Will for one,
// whoever ends it: the sweep, or the client that is back before the sweep.
func TestAClaimBeforeTheSweepEndsTheCrashedSessionWithItsStage(t *testing.T) {
	for _, sweep := range []bool{true, false} {
		e := mem.New()
		mustClaim(t, open(t, e), "s", new(link))
		var staged []presence.Transition
		l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n1",
			Crashed: func(_ *store.Batch, _ uint8, tr *presence.Transition) { staged = append(staged, *tr) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if sweep {
			if _, err := l.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		mustClaim(t, l, "s", new(link))
		if len(staged) != 1 || staged[0].Kind != presence.Disconnected || staged[0].Number != 1 {
			t.Errorf("swept first: %v: the stage of a crashed session was called for %+v", sweep, staged)
		}
		e.Close()
	}
}

// Retention goes on behind entries that cannot be read, and they go with those
// that came after them.
func TestRetentionPassesUnreadableEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := mem.New()
		l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n1", Retention: presence.Retention{Age: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			release(t, mustClaim(t, l, "s", new(link)), disconnect.ClientInitiatedDisconnect, goodbye)
		}
		for i, key := range keysOf(e, store.TableTimeline) {
			if i == 0 || i == 3 {
				commit(t, e, func(b *store.Batch) { b.Put(key, []byte{77}) })
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx, nil) }()
		time.Sleep(2 * time.Hour) // virtual
		synctest.Wait()
		if n := len(keysOf(e, store.TableTimeline)); n != 0 {
			t.Errorf("%d entries are left", n)
		}
		if ts := history(t, l, "s"); len(ts) != 2 { // those that unreadable entries named
			t.Errorf("%d transitions are left", len(ts))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		e.Close()
	})
}

// keysOf returns the keys of a table.
func keysOf(e store.Engine, table store.Table) (all [][]byte) {
	s := e.Snapshot()
	defer s.Close()
	it := s.Iter(nil, nil)
	defer it.Close()
	for it.Next() {
		if store.TableOf(it.Key()) == table {
			all = append(all, bytes.Clone(it.Key()))
		}
	}
	return all
}
