package presence_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/presence"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/pebble"
)

const realm = "default"

// link is a connection as the ledger sees it.
type link struct {
	frozen, evicted, gone atomic.Bool
	evictedBy             atomic.Pointer[presence.Origin]
}

func (l *link) Freeze()   { l.frozen.Store(true) }
func (l *link) Unfreeze() { l.frozen.Store(false) }
func (l *link) Gone() bool {
	return l.gone.Load()
}
func (l *link) Evict(by presence.Origin) {
	l.evictedBy.Store(&by)
	l.evicted.Store(true)
}

func open(t *testing.T, e store.Engine) *presence.Ledger {
	t.Helper()
	l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// claim waits for the outcome of a claim.
func claim(l *presence.Ledger, session, owner string, c *link) (*presence.Hold, error) {
	type result struct {
		h   *presence.Hold
		err error
	}
	ch := make(chan result, 1)
	l.Claim(presence.Claim{
		Realm: realm, Session: session, Owner: owner, Conn: c,
		Origin: presence.Origin{Protocol: "MQTT 5.0", Transport: "tcp", Remote: "127.0.0.1:1", Method: "anonymous"},
	}, func(h *presence.Hold, err error) { ch <- result{h, err} })
	r := <-ch
	return r.h, r.err
}

func mustClaim(t *testing.T, l *presence.Ledger, session string, c *link) *presence.Hold {
	t.Helper()
	h, err := claim(l, session, session, c)
	if err != nil {
		t.Fatalf("claim %s: %v", session, err)
	}
	return h
}

var goodbye = disconnect.Evidence{Kind: disconnect.Packet, Packet: "DISCONNECT", HasCode: true, Detail: "the client disconnected"}

func release(t *testing.T, h *presence.Hold, r disconnect.Reason, v disconnect.Evidence) {
	t.Helper()
	h.Release(r, v, nil)
	<-h.Released()
}

// check sees that the history of a session alternates, rises and pairs, and
// returns it.
func check(t *testing.T, l *presence.Ledger, session string) []presence.Transition {
	t.Helper()
	ts, more, err := l.History(realm, session, presence.Page{Limit: 1 << 20})
	if err != nil || more {
		t.Fatalf("history of %s: more %v, %v", session, more, err)
	}
	for i, tr := range ts {
		kind, number := presence.Connected, uint64(i/2+1)
		if i%2 == 1 {
			kind = presence.Disconnected
		}
		if tr.Kind != kind || tr.Number != number {
			t.Fatalf("%s: transition %d is %s %d, want %s %d", session, i, tr.Kind, tr.Number, kind, number)
		}
		if i > 0 && !tr.Time.After(ts[i-1].Time) {
			t.Fatalf("%s: transition %d at %v is not after %v", session, i, tr.Time, ts[i-1].Time)
		}
		if (tr.Kind == presence.Disconnected) != tr.Reason.Valid() {
			t.Fatalf("%s: %s %d has reason %q", session, tr.Kind, tr.Number, tr.Reason)
		}
		if tr.EventID == "" {
			t.Fatalf("%s: transition %d has no event id", session, i)
		}
	}
	return ts
}

func TestP1ComeGoTakeOver(t *testing.T) {
	e := mem.New()
	defer e.Close()
	l := open(t, e)
	var a, b link
	h1 := mustClaim(t, l, "s", &a)
	h2 := mustClaim(t, l, "s", &b)
	if !a.evicted.Load() || a.evictedBy.Load().Transport != "tcp" {
		t.Error("the old connection was not evicted")
	}
	<-h1.Released()
	h1.Release(disconnect.ConnectionLost, disconnect.Evidence{}, nil) // too late: must change nothing
	release(t, h2, disconnect.ClientInitiatedDisconnect, goodbye)
	h3 := mustClaim(t, l, "s", new(link))
	if h3.Number() != 3 {
		t.Errorf("third number is %d", h3.Number())
	}
	ts := check(t, l, "s")
	if len(ts) != 5 || ts[1].Reason != disconnect.SessionTakenOver || ts[3].Reason != disconnect.ClientInitiatedDisconnect {
		t.Errorf("history %+v", ts)
	}
	if ts[3].Evidence != goodbye {
		t.Errorf("evidence %+v, want %+v", ts[3].Evidence, goodbye)
	}
	st, err := l.Show(realm, "s")
	if err != nil || !st.Open() || st.Number != 3 || st.Reason != disconnect.ClientInitiatedDisconnect {
		t.Errorf("state %+v, %v", st, err)
	}
	if _, err := l.Show(realm, "nobody"); !errors.Is(err, presence.ErrUnknownSession) {
		t.Errorf("an unknown session: %v", err)
	}
}

func TestOwnerMismatch(t *testing.T) {
	e := mem.New()
	defer e.Close()
	l := open(t, e)
	var a link
	h := mustClaim(t, l, "s", &a)
	if _, err := claim(l, "s", "other", new(link)); !errors.Is(err, presence.ErrOwned) {
		t.Errorf("got %v", err)
	}
	if a.frozen.Load() || a.evicted.Load() {
		t.Error("a refused claim touched the holder")
	}
	if _, err := claim(l, "s", "S", new(link)); err != nil {
		t.Errorf("owners are compared ignoring case: %v", err)
	}
	<-h.Released()
}

func TestGoneConnectionIsNotCommitted(t *testing.T) {
	e := mem.New()
	defer e.Close()
	l := open(t, e)
	var c link
	c.gone.Store(true)
	if _, err := claim(l, "s", "s", &c); !errors.Is(err, presence.ErrGone) {
		t.Errorf("got %v", err)
	}
	if ts, _, _ := l.History(realm, "s", presence.Page{Limit: 1}); len(ts) != 0 {
		t.Errorf("history %v", ts)
	}
}

// TestP3CrashTruth reopens on what a first ledger left, as after kill -9: some
// sessions are swept, some are met by a claim first.
func TestP3CrashTruth(t *testing.T) {
	e := mem.New()
	defer e.Close()
	first := open(t, e)
	const n = 300
	for i := range n {
		mustClaim(t, first, fmt.Sprintf("s%03d", i), new(link))
	}
	second := open(t, e)
	if second.Self().Boot != first.Self().Boot+1 {
		t.Fatalf("boots %v, %v", first.Self(), second.Self())
	}
	var wg sync.WaitGroup
	for i := 0; i < n; i += 3 {
		wg.Go(func() { mustClaim(t, second, fmt.Sprintf("s%03d", i), new(link)) })
	}
	if _, err := second.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for i := range n {
		ts := check(t, second, fmt.Sprintf("s%03d", i))
		if len(ts) < 2 || ts[1].Reason != disconnect.ServerError || ts[1].Evidence.Kind != disconnect.Crash {
			t.Fatalf("s%03d: %+v", i, ts)
		}
		want := 2
		if i%3 == 0 {
			want = 3
		}
		if len(ts) != want {
			t.Fatalf("s%03d: %d transitions, want %d", i, len(ts), want)
		}
	}
	if found, err := second.Sweep(t.Context()); found != 0 || err != nil {
		t.Errorf("a second sweep found %d, %v", found, err)
	}
}

// TestStorm lets many connections claim few sessions at once, on engines that
// are slow and that fail, and checks that every history is serial and that
// every hold was told the number that history gives it.
func TestStorm(t *testing.T) {
	engines := map[string]func(t *testing.T) store.Engine{
		"mem": func(*testing.T) store.Engine { return mem.New() },
		"pebble": func(t *testing.T) store.Engine {
			e, err := pebble.Open(pebble.Options{Dir: t.TempDir() + "/data"})
			if err != nil {
				t.Fatal(err)
			}
			return e
		},
		"slow": func(*testing.T) store.Engine {
			return delay.New(mem.New(), delay.Options{Max: 3 * time.Millisecond, Seed: 1})
		},
		"faulty": func(*testing.T) store.Engine {
			r := rand.New(rand.NewPCG(1, 2))
			return delay.New(mem.New(), delay.Options{Max: time.Millisecond, Seed: 1, Fault: func(b *store.Batch) delay.Fault {
				switch r.IntN(20) {
				case 0:
					return delay.Conflict
				case 1:
					return delay.UnknownApplied
				case 2:
					return delay.UnknownLost
				case 3:
					return delay.Full
				}
				return delay.None
			}})
		},
	}
	for name, make := range engines {
		t.Run(name, func(t *testing.T) {
			e := make(t)
			defer e.Close()
			var l *presence.Ledger
			for l == nil { // the faulty engine may fail this too
				l, _ = presence.Open(t.Context(), presence.Options{Engine: e, Node: "n1"})
			}
			storm(t, l)
		})
	}
}

func storm(t *testing.T, l *presence.Ledger) {
	const sessions, workers, rounds = 4, 16, 20
	var wg sync.WaitGroup
	var granted atomic.Int64
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(w)))
			for range rounds {
				session := fmt.Sprintf("s%d", r.IntN(sessions))
				c := new(link)
				h, err := claim(l, session, "owner", c)
				if err != nil {
					if c.evicted.Load() {
						t.Errorf("a refused connection was evicted")
					}
					continue
				}
				granted.Add(1)
				if r.IntN(2) == 0 {
					h.Release(disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport}, nil)
				} else if r.IntN(2) == 0 {
					runtime.Gosched()
					h.Release(disconnect.ClientInitiatedDisconnect, goodbye, nil)
				} else {
					defer h.Release(disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport}, nil)
				}
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := l.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	total := 0
	for i := range sessions {
		ts := check(t, l, fmt.Sprintf("s%d", i))
		if len(ts)%2 != 0 {
			t.Errorf("s%d is left open", i)
		}
		total += len(ts) / 2
	}
	if total != int(granted.Load()) {
		t.Errorf("%d connections were granted and the ledger has %d", granted.Load(), total)
	}
}

// TestP7Full: a full disk refuses claims and leaves the holder as it was; a
// release waits for the reserve to return.
func TestP7Full(t *testing.T) {
	e := mem.New()
	defer e.Close()
	l := open(t, e)
	var a link
	h := mustClaim(t, l, "s", &a)
	e.SetFull(true)
	if _, err := claim(l, "s", "s", new(link)); !errors.Is(err, presence.ErrFull) {
		t.Errorf("a take-over on a full disk: %v", err)
	}
	if a.frozen.Load() || a.evicted.Load() {
		t.Error("the holder is frozen or evicted after a failed take-over")
	}
	if _, err := claim(l, "new", "new", new(link)); !errors.Is(err, presence.ErrFull) {
		t.Errorf("a connect on a full disk: %v", err)
	}
	e.SetExhausted(true)
	h.Release(disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport}, nil)
	for {
		// Refused at once, not left to wait behind the release.
		if _, err := claim(l, "s", "s", new(link)); errors.Is(err, presence.ErrFull) {
			break
		}
	}
	e.SetExhausted(false)
	<-h.Released()
	e.SetFull(false)
	mustClaim(t, l, "s", new(link))
	if ts := check(t, l, "s"); len(ts) != 3 || ts[1].Reason != disconnect.ConnectionLost {
		t.Errorf("history %+v", ts)
	}
}

// stager counts what is staged and in which order it is committed.
type stager struct {
	mu        sync.Mutex
	committed []uint64
}

func (s *stager) Stage(b *store.Batch, p uint8, tr *presence.Transition) func(store.Result) {
	b.PutSequenced(store.AppendKey(nil, p, store.TableEvent, tr.Realm), []byte(tr.EventID))
	return func(r store.Result) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.committed = append(s.committed, r.Index)
	}
}

func TestStagedEventsAreReportedInCommitOrder(t *testing.T) {
	e := delay.New(mem.New(), delay.Options{Max: 2 * time.Millisecond, Seed: 3})
	defer e.Close()
	s := new(stager)
	l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n", Stager: s})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			h := mustClaim(t, l, fmt.Sprint(i%5), new(link))
			h.Release(disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport}, nil)
		})
	}
	wg.Wait()
	if err := l.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.committed) != 100 {
		t.Errorf("%d events, want 100", len(s.committed))
	}
	for i := 1; i < len(s.committed); i++ {
		if s.committed[i] < s.committed[i-1] {
			t.Fatalf("index %d is reported after %d", s.committed[i], s.committed[i-1])
		}
	}
}

func TestListAndHistoryPages(t *testing.T) {
	e := mem.New()
	defer e.Close()
	l := open(t, e)
	const n = 100
	for i := range n {
		h := mustClaim(t, l, fmt.Sprintf("s%03d", i), new(link))
		if i%2 == 0 {
			release(t, h, disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport})
		}
	}
	for _, onlyOpen := range []bool{false, true} {
		want := n
		if onlyOpen {
			want = n / 2
		}
		var names []string
		for q := (presence.Query{Realm: realm, Limit: 7, Open: onlyOpen}); ; {
			page, more, err := l.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, st := range page {
				if onlyOpen && !st.Open() {
					t.Errorf("%s is not open", st.Session)
				}
				names = append(names, st.Session)
			}
			if !more {
				break
			}
			q.After = page[len(page)-1].Session
		}
		if len(names) != want {
			t.Errorf("open %v: %d sessions, want %d", onlyOpen, len(names), want)
		}
		for i := 1; i < len(names); i++ {
			if names[i] <= names[i-1] {
				t.Errorf("%s comes after %s", names[i], names[i-1])
			}
		}
	}
	for range 5 {
		release(t, mustClaim(t, l, "s000", new(link)), disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport})
	}
	ts, more, err := l.History(realm, "s000", presence.Page{Newest: true, Limit: 3})
	if err != nil || !more || len(ts) != 3 || ts[0].Number != 6 || ts[2].Number != 5 || ts[0].Kind != presence.Disconnected {
		t.Errorf("newest page %+v, more %v, %v", ts, more, err)
	}
	ts, more, err = l.History(realm, "s000", presence.Page{From: 5, Limit: 10})
	if err != nil || more || len(ts) != 4 || ts[0].Number != 5 {
		t.Errorf("page from 5: %+v, more %v, %v", ts, more, err)
	}
}

// TestRetention runs on virtual time: old transitions go, numbers stay.
func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := mem.New()
		l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n", Retention: presence.Retention{Age: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx, nil) }()
		for range 3 {
			release(t, mustClaim(t, l, "s", new(link)), disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport})
		}
		time.Sleep(59 * time.Minute) // virtual
		release(t, mustClaim(t, l, "s", new(link)), disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport})
		time.Sleep(5 * time.Minute)
		ts, _, err := l.History(realm, "s", presence.Page{Limit: 100})
		if err != nil || len(ts) != 2 || ts[0].Number != 4 {
			t.Errorf("after an hour: %+v, %v", ts, err)
		}
		time.Sleep(2 * time.Hour)
		if ts, _, _ := l.History(realm, "s", presence.Page{Limit: 100}); len(ts) != 0 {
			t.Errorf("after three hours: %+v", ts)
		}
		if h := mustClaim(t, l, "s", new(link)); h.Number() != 5 {
			t.Errorf("the number is %d, want 5", h.Number())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		e.Close()
	})
}

func TestRetentionByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := mem.New()
		l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n", Retention: presence.Retention{Bytes: 1 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx, nil) }()
		for range 3000 { // all in one partition, whose share is 64 KiB
			release(t, mustClaim(t, l, "s", new(link)), disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport})
		}
		time.Sleep(2 * time.Minute)
		ts, _, err := l.History(realm, "s", presence.Page{Limit: 10000})
		if err != nil || len(ts) < 100 || len(ts) > 1000 {
			t.Errorf("%d transitions are left, %v", len(ts), err)
		}
		if len(ts) > 0 && ts[len(ts)-1].Number != 3000 {
			t.Errorf("the newest is %d", ts[len(ts)-1].Number)
		}
		cancel()
		<-done
		e.Close()
	})
}

func BenchmarkConnectDisconnect(b *testing.B) {
	e := mem.New()
	defer e.Close()
	l, err := presence.Open(context.Background(), presence.Options{Engine: e, Node: "n"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var id atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		session := fmt.Sprint(id.Add(1))
		for pb.Next() {
			h, err := claim(l, session, session, new(link))
			if err != nil {
				b.Fatal(err)
			}
			h.Release(disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport}, nil)
			<-h.Released()
		}
	})
}
