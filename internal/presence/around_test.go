package presence_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/disconnect"
	"rollcall/internal/presence"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/setaside"
)

// faulty is an engine whose batches and reads can be made to fail, and which
// counts what of it is open.
type faulty struct {
	store.Engine
	mu     sync.Mutex
	fail   func() error // of the next batch, which is not applied then
	broken error        // of every iterator
	bad    []byte       // the key whose value cannot be read
	tries  int          // batches that were submitted
	open   int          // snapshots and iterators
}

func (e *faulty) with(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// failing makes the next n batches fail.
func (e *faulty) failing(n int, err error) {
	e.with(func() {
		e.tries = 0
		e.fail = func() error {
			if n--; n < 0 {
				return nil
			}
			return err
		}
	})
}

func (e *faulty) Submit(b *store.Batch, done func(store.Result)) {
	var err error
	e.with(func() {
		e.tries++
		if e.fail != nil {
			err = e.fail()
		}
	})
	if err != nil {
		go done(store.Result{Err: err})
		return
	}
	e.Engine.Submit(b, done)
}

func (e *faulty) Snapshot() store.Snapshot {
	e.with(func() { e.open++ })
	return &faultyView{e.Engine.Snapshot(), e}
}

type faultyView struct {
	store.Snapshot
	e *faulty
}

func (v *faultyView) Get(key []byte) ([]byte, store.Revision, error) {
	value, rev, err := v.Snapshot.Get(key)
	v.e.with(func() {
		if v.e.bad != nil && bytes.Equal(key, v.e.bad) {
			value = []byte{99}
		}
	})
	return value, rev, err
}

func (v *faultyView) Close() {
	v.e.with(func() { v.e.open-- })
	v.Snapshot.Close()
}

func (v *faultyView) Iter(lower, upper []byte) store.Iterator {
	it := &faultyIter{Iterator: v.Snapshot.Iter(lower, upper), e: v.e}
	v.e.with(func() {
		v.e.open++
		it.err = v.e.broken
	})
	return it
}

type faultyIter struct {
	store.Iterator
	e   *faulty
	err error
}

func (i *faultyIter) Next() bool { return i.err == nil && i.Iterator.Next() }

func (i *faultyIter) Err() error { return errors.Join(i.err, i.Iterator.Err()) }

func (i *faultyIter) Close() error {
	i.e.with(func() { i.e.open-- })
	return i.Iterator.Close()
}

// spy is a connection that remembers what it was told.
type spy struct {
	link
	mu   sync.Mutex
	told []string
}

func (s *spy) tell(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, what)
}

func (s *spy) Freeze()                  { s.tell("freeze") }
func (s *spy) Unfreeze()                { s.tell("unfreeze") }
func (s *spy) Evict(by presence.Origin) { s.tell("evict by " + by.Remote) }

func (s *spy) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.told, ", ")
}

// figures returns the ledger's metrics by name and label.
func figures(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]float64{}
	for _, f := range all {
		for _, one := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "rollcall_presence_")
			for _, l := range one.GetLabel() {
				name += " " + l.GetValue()
			}
			m[name] = one.GetCounter().GetValue() + one.GetGauge().GetValue()
		}
	}
	return m
}

var gone = disconnect.Evidence{Kind: disconnect.Transport}

// TestConflictsAreDecidedAgain up to three times, for everything that writes: a
// claim gives up then, an amendment says so, and a release never gives up.
func TestConflictsAreDecidedAgain(t *testing.T) {
	for conflicts := range 6 {
		synctest.Test(t, func(t *testing.T) {
			e := &faulty{Engine: mem.New()}
			l := open(t, e)
			old := new(spy)
			var hold *presence.Hold
			take := func(c presence.Connection) (h *presence.Hold, err error) {
				done := make(chan struct{})
				l.Claim(presence.Claim{Realm: realm, Session: "s", Owner: "s", Conn: c, Origin: presence.Origin{Remote: "10.0.0.1:1"}}, func(got *presence.Hold, e error) {
					h, err = got, e
					close(done)
				})
				<-done
				return h, err
			}
			hold, err := take(old)
			if err != nil {
				t.Fatal(err)
			}

			e.failing(conflicts, store.ErrConflict)
			h, err := take(new(spy))
			if conflicts > 3 {
				if !errors.Is(err, store.ErrConflict) || old.heard() != "freeze, unfreeze" || e.tries != 4 {
					t.Fatalf("%d conflicts: %v, the holder heard %q, %d tries", conflicts, err, old.heard(), e.tries)
				}
				h = hold
			} else if err != nil || h.Number() != 2 || old.heard() != "freeze, evict by 10.0.0.1:1" || e.tries != conflicts+1 {
				t.Fatalf("%d conflicts: %v, the holder heard %q, %d tries", conflicts, err, old.heard(), e.tries)
			}

			e.failing(conflicts, store.ErrConflict)
			outcome := make(chan error, 1)
			l.Amend(realm, "s", func(b *store.Batch, _ uint8, open bool) bool {
				if !open {
					t.Error("nobody holds the session, it is said")
				}
				b.Put([]byte("\x00\xf0amended"), nil)
				return true
			}, func(err error) { outcome <- err })
			if err := <-outcome; errors.Is(err, store.ErrConflict) != (conflicts > 3) {
				t.Fatalf("%d conflicts: amended %v", conflicts, err)
			}

			e.failing(conflicts, store.ErrConflict)
			begun := time.Now()
			release(t, h, disconnect.ConnectionLost, gone)
			if waited := time.Since(begun) > 0; waited != (conflicts > 3) || e.tries != conflicts+1 {
				t.Errorf("%d conflicts: the release waited %v, %d tries", conflicts, waited, e.tries)
			}
			if err := l.Drain(t.Context()); err != nil || l.OpenSessions() != 0 {
				t.Errorf("%d open, %v", l.OpenSessions(), err)
			}
			check(t, l, "s")
			e.Close()
		})
	}
}

// TestNothingToAmend: whoever finds nothing to change is done, and the name's
// turn goes on.
func TestNothingToAmend(t *testing.T) {
	e := &faulty{Engine: mem.New()}
	defer e.Close()
	l := open(t, e)
	for range 2 {
		outcome := make(chan error, 1)
		l.Amend(realm, "s", func(_ *store.Batch, _ uint8, open bool) bool {
			if open {
				t.Error("somebody holds the session, it is said")
			}
			return false
		}, func(err error) { outcome <- err })
		if err := <-outcome; err != nil {
			t.Fatal(err)
		}
	}
	mustClaim(t, l, "s", new(link))
}

// TestUnreadableStoreFailsAndGoesOn: whatever cannot read its session fails,
// and the next one has its turn.
func TestUnreadableStoreFailsAndGoesOn(t *testing.T) {
	e := &shaky{Engine: mem.New()}
	defer e.Close()
	mustClaim(t, open(t, e), "crashed", new(link))
	l := open(t, e)
	e.set(0, true)
	for range 2 {
		outcome := make(chan error, 1)
		l.Amend(realm, "s", func(*store.Batch, uint8, bool) bool { return true }, func(err error) { outcome <- err })
		if err := <-outcome; !errors.Is(err, errBlind) {
			t.Errorf("an amendment: %v", err)
		}
		if _, err := claim(l, "s", "s", new(link)); !errors.Is(err, errBlind) {
			t.Errorf("a claim: %v", err)
		}
		if n, err := l.Sweep(t.Context()); n != 1 || !errors.Is(err, errBlind) {
			t.Errorf("the sweep found %d: %v", n, err)
		}
	}
	e.set(0, false)
	if n, err := l.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("the sweep found %d: %v", n, err)
	}
	mustClaim(t, l, "s", new(link))
	if ts := check(t, l, "crashed"); len(ts) != 2 {
		t.Errorf("%+v", ts)
	}
}

// TestWhatIsCounted: transitions, refusals by reason, sessions that are open.
func TestWhatIsCounted(t *testing.T) {
	e := &faulty{Engine: mem.New()}
	defer e.Close()
	mustClaim(t, open(t, e), "crashed", new(link))
	l := open(t, e)
	r := prometheus.NewRegistry()
	if err := l.Register(r); err != nil {
		t.Fatal(err)
	}
	if err := l.Register(r); err == nil {
		t.Error("registered twice")
	}
	h := mustClaim(t, l, "s", new(link))
	if l.OpenSessions() != 1 {
		t.Errorf("%d sessions are open", l.OpenSessions())
	}
	if _, err := claim(l, "s", "another", new(link)); !errors.Is(err, presence.ErrOwned) {
		t.Error(err)
	}
	dead := new(link)
	dead.gone.Store(true)
	if _, err := claim(l, "s", "s", dead); !errors.Is(err, presence.ErrGone) {
		t.Error(err)
	}
	for err, n := range map[error]int{store.ErrFull: 1, errBlind: 1, store.ErrConflict: 4} {
		e.failing(n, err)
		if _, got := claim(l, "s", "s", new(link)); !errors.Is(got, err) {
			t.Error(got)
		}
	}
	e.failing(1, store.ErrConflict)
	release(t, h, disconnect.ConnectionLost, gone)
	if _, err := l.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	got := figures(t, r)
	for name, want := range map[string]float64{
		"connected_total": 1, "disconnected_total " + disconnect.ConnectionLost.String(): 1, "disconnected_total " + disconnect.ServerError.String(): 1,
		"claims_refused_total owned": 1, "claims_refused_total gone": 1, "claims_refused_total full": 1,
		"claims_refused_total store": 1, "claims_refused_total conflict": 1, "claims_refused_total busy": 0,
		"open_sessions": 0, "swept_total": 1, "release_retries_total": 1, "trimmed_total": 0,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

// TestClaimsThatWaitAreBounded: beside the one that is decided 32 wait, others
// are refused at once, and everybody who waits has a turn.
func TestClaimsThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &slow{Engine: mem.New(), wait: 0}
		l := open(t, e)
		r := prometheus.NewRegistry()
		if err := l.Register(r); err != nil {
			t.Fatal(err)
		}
		e.wait = time.Second
		var mu sync.Mutex
		granted, busy := 0, 0
		for range 40 {
			l.Claim(presence.Claim{Realm: realm, Session: "s", Owner: "s", Conn: new(link)}, func(h *presence.Hold, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					granted++
				} else if errors.Is(err, presence.ErrBusy) {
					busy++
				}
			})
		}
		synctest.Wait()
		mu.Lock()
		if granted != 0 || busy != 40-33 {
			t.Errorf("%d granted, %d refused before anything is stored", granted, busy)
		}
		mu.Unlock()
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if granted != 33 || busy != 7 {
			t.Errorf("%d granted, %d refused", granted, busy)
		}
		if n := figures(t, r)["claims_refused_total busy"]; n != 7 {
			t.Errorf("%v are counted as refused", n)
		}
		if l.OpenSessions() != 1 {
			t.Errorf("%d sessions are open", l.OpenSessions())
		}
		check(t, l, "s")
		e.Close()
	})
}

// TestAReleaseWithoutRoomHoldsUpNobodyElse: while it is tried again, claims of
// its session are refused, also those that waited; other sessions go on, and
// so does the session when there is room.
func TestAReleaseWithoutRoomHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &faulty{Engine: mem.New()}
		l := open(t, e)
		h := mustClaim(t, l, "s", new(link))
		other := mustClaim(t, l, "other", new(link))
		e.failing(5, store.ErrFull)
		h.Release(disconnect.ConnectionLost, gone, nil)
		amended := make(chan error, 1)
		l.Amend(realm, "s", func(b *store.Batch, _ uint8, open bool) bool { return false }, func(err error) { amended <- err })
		synctest.Wait()
		for range 2 {
			if _, err := claim(l, "s", "s", new(link)); !errors.Is(err, presence.ErrFull) {
				t.Errorf("a claim meanwhile: %v", err)
			}
		}
		select {
		case err := <-amended:
			t.Errorf("an amendment was not in its turn: %v", err)
		default:
		}
		begun := time.Now()
		<-h.Released()
		if waited := time.Since(begun); waited != 5*250*time.Millisecond {
			t.Errorf("it took %v", waited)
		}
		if err := <-amended; err != nil {
			t.Error(err)
		}
		release(t, other, disconnect.ConnectionLost, gone)
		release(t, mustClaim(t, l, "s", new(link)), disconnect.ConnectionLost, gone)
		check(t, l, "s")
		if l.OpenSessions() != 0 {
			t.Errorf("%d sessions are open", l.OpenSessions())
		}
		e.Close()
	})
}

// TestAReleaseAfterTheEnd of the store is not tried again, and holds nobody up.
func TestAReleaseAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &faulty{Engine: mem.New()}
		l := open(t, e)
		h := mustClaim(t, l, "s", new(link))
		e.failing(1000, store.ErrClosed)
		h.Release(disconnect.ConnectionLost, gone, nil)
		time.Sleep(time.Minute)
		if e.tries != 1 {
			t.Errorf("%d tries", e.tries)
		}
		if _, err := claim(l, "s", "s", new(link)); !errors.Is(err, store.ErrClosed) {
			t.Errorf("a claim: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Drain(ctx); err == nil || !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "1 sessions") {
			t.Errorf("drained: %v", err)
		}
		e.Close()
	})
}

// TestNothingStaysOpen: no reading leaves a snapshot or an iterator behind,
// whether it ends early, late or with an error.
func TestNothingStaysOpen(t *testing.T) {
	e := &faulty{Engine: mem.New()}
	defer e.Close()
	crashed := open(t, e)
	for i := range 100 {
		mustClaim(t, crashed, fmt.Sprintf("crashed-%d", i), new(link))
	}
	l := open(t, e)
	for i := range 100 {
		release(t, mustClaim(t, l, fmt.Sprintf("s-%d", i), new(link)), disconnect.ConnectionLost, gone)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	list := func(ctx context.Context, limit int) func() error {
		return func() error {
			_, _, err := l.List(ctx, presence.Query{Realm: realm, Limit: limit})
			return err
		}
	}
	read := func(limit int, newest bool) func() error {
		return func() error {
			_, _, err := l.History(realm, "s-7", presence.Page{Limit: limit, Newest: newest})
			return err
		}
	}
	for _, c := range []struct {
		name   string
		do     func() error
		broken error
		want   error
	}{
		{"list", list(t.Context(), 1000), nil, nil},
		{"list a page", list(t.Context(), 3), nil, nil},
		{"list in vain", list(ended, 3), nil, context.Canceled},
		{"list what is broken", list(t.Context(), 3), errBlind, errBlind},
		{"history", read(10, false), nil, nil},
		{"history, a page", read(1, true), nil, nil},
		{"history that is broken", read(10, false), errBlind, errBlind},
		{"trim", func() error { return l.TrimAll(t.Context()) }, nil, nil},
		{"trim in vain", func() error { return l.TrimAll(ended) }, nil, context.Canceled},
		{"trim what is broken", func() error { return l.TrimAll(t.Context()) }, errBlind, errBlind},
		{"sweep what is broken", func() error { _, err := l.Sweep(t.Context()); return err }, errBlind, errBlind},
		{"sweep", func() error { _, err := l.Sweep(t.Context()); return err }, nil, nil},
		{"open", func() error {
			_, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n1"})
			return err
		}, nil, nil},
	} {
		e.with(func() { e.broken = c.broken })
		if err := c.do(); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		e.with(func() {
			if e.broken = nil; e.open != 0 {
				t.Errorf("%s: %d snapshots and iterators are open", c.name, e.open)
				e.open = 0
			}
		})
	}
	// Recovery reads the history.
	lose(t, e, 3)
	mustClaim(t, open(t, e), "s-9", new(link))
	e.with(func() {
		if e.open != 0 {
			t.Errorf("recovery: %d snapshots and iterators are open", e.open)
		}
	})
}

// TestAnUnreadableStateInPlace: damage leaves the revision as it was. The
// history of the same commit knows the number, and nothing is skipped.
func TestAnUnreadableStateInPlace(t *testing.T) {
	for _, open1 := range []bool{false, true} {
		e := &faulty{Engine: mem.New()}
		l := open(t, e)
		release(t, mustClaim(t, l, "s", new(link)), disconnect.ConnectionLost, gone)
		if open1 {
			mustClaim(t, l, "s", new(link))
		}
		e.with(func() { e.bad = keyOf(t, e.Engine, store.TableSession, "s") })
		l = open(t, e)
		h := mustClaim(t, l, "s", new(link))
		want := uint64(2)
		if open1 {
			want = 3
		}
		if h.Number() != want {
			t.Errorf("open %v: number %d, want %d", open1, h.Number(), want)
		}
		release(t, h, disconnect.ConnectionLost, gone)
		check(t, l, "s")
		e.Close()
	}
}

// TestNumbersAreSkippedExactly: a session that was closed goes on behind what
// may have been lost, one that was open is ended there, and the entry of the
// index of open sessions counts for what it knows.
func TestNumbersAreSkippedExactly(t *testing.T) {
	e := mem.New()
	defer e.Close()
	l := open(t, e)
	release(t, mustClaim(t, l, "closed", new(link)), disconnect.ConnectionLost, gone)
	release(t, mustClaim(t, l, "indexed", new(link)), disconnect.ConnectionLost, gone)
	key := keyOf(t, e, store.TableSession, "indexed")
	before, _, err := store.Get(e, key)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		mustClaim(t, l, "indexed", new(link)) // numbers 2 to 5
	}
	commit(t, e, func(b *store.Batch) {
		b.Put(key, before)
		for _, h := range keysOf(e, store.TableHistory) {
			if bytes.Contains(h, []byte("indexed")) {
				b.Delete(h)
			}
		}
	})
	lose(t, e, 40)
	l = open(t, e)
	if n, err := l.Sweep(t.Context()); n != 1 || err != nil {
		t.Fatalf("swept %d: %v", n, err)
	}
	ts := history(t, l, "indexed")
	if len(ts) != 1 || ts[0].Kind != presence.Disconnected || ts[0].Number != 1+40 || ts[0].Skipped != 40-4 {
		t.Errorf("the index knew of number 5: %+v", ts)
	}
	if h := mustClaim(t, l, "closed", new(link)); h.Number() != 1+40+1 {
		t.Errorf("closed goes on with %d", h.Number())
	}
	if h := mustClaim(t, l, "indexed", new(link)); h.Number() != 1+40+1 {
		t.Errorf("indexed goes on with %d", h.Number())
	}
}

// strayKeys puts a key that nobody can have written into each partition, before
// those that are there.
func strayKeys(t *testing.T, e store.Engine, table store.Table) {
	for p := range e.Partitions() {
		commit(t, e, func(b *store.Batch) { b.Put([]byte{uint8(p), byte(table), 'a'}, []byte{1}) })
	}
}

// TestTheSweepPassesWhatIsNotItsOwn: entries of this start, entries that cannot
// be read, and entries that do not say what is, which go.
func TestTheSweepPassesWhatIsNotItsOwn(t *testing.T) {
	const n = 60 // several in each partition
	e := mem.New()
	defer e.Close()
	crashed, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		mustClaim(t, crashed, fmt.Sprintf("crashed-%d", i), new(link))
	}
	release(t, mustClaim(t, crashed, "closed", new(link)), disconnect.ConnectionLost, gone)
	entries := keysOf(e, store.TableOpen)
	stale := bytes.Replace(entries[0], entries[0][bytes.Index(entries[0], []byte("crashed")):], append([]byte("closed"), 0, 1), 1)
	stale[0] = keyOf(t, e, store.TableSession, "closed")[0]
	commit(t, e, func(b *store.Batch) { b.Put(stale, []byte{1}) })
	commit(t, e, func(b *store.Batch) { b.Put(entries[1], nil) }) // the number cannot be read
	strayKeys(t, e, store.TableOpen)
	aside := setaside.New(nil)
	// Its name sorts before the other one's.
	l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "m", SetAside: aside})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		mustClaim(t, l, fmt.Sprintf("mine-%d", i), new(link))
	}
	if found, err := l.Sweep(t.Context()); found != n+1 || err != nil {
		t.Errorf("%d found, %v", found, err)
	}
	for i := range n {
		if ts := check(t, l, fmt.Sprintf("crashed-%d", i)); len(ts) != 2 || ts[1].Reason != disconnect.ServerError {
			t.Fatalf("crashed-%d: %+v", i, ts)
		}
		if st, err := l.Show(realm, fmt.Sprintf("mine-%d", i)); err != nil || !st.Open() {
			t.Fatalf("mine-%d: %+v, %v", i, st, err)
		}
	}
	if ts := check(t, l, "closed"); len(ts) != 2 {
		t.Errorf("what was closed: %+v", ts)
	}
	if left := len(keysOf(e, store.TableOpen)); left != n+e.Partitions() {
		t.Errorf("%d entries are left, want %d and those that cannot be read", left, n)
	}
	total := 0
	for _, c := range aside.Counts() {
		total += int(c)
	}
	if total != e.Partitions()+1 {
		t.Errorf("set aside: %v", aside.Counts())
	}
}

// TestUnreadableRecordsArePassed by those who list, read the history, and look
// for the newest transition.
func TestUnreadableRecordsArePassed(t *testing.T) {
	e := mem.New()
	defer e.Close()
	l := open(t, e)
	for range 3 {
		release(t, mustClaim(t, l, "s", new(link)), disconnect.ConnectionLost, gone)
	}
	mustClaim(t, l, "t", new(link))
	var bad [][]byte
	for _, k := range keysOf(e, store.TableHistory) {
		if bytes.Contains(k, []byte("s\x00\x01")) {
			bad = append(bad, k)
		}
	}
	commit(t, e, func(b *store.Batch) {
		b.Put(bad[1], []byte{77})
		b.Put(bad[5], []byte{77}) // the newest
		b.Put(append(bytes.Clone(bad[5]), 1), []byte{1})
		b.Put(keyOf(t, e, store.TableSession, "s"), []byte{77})
	})
	aside := setaside.New(nil)
	l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n1", SetAside: aside})
	if err != nil {
		t.Fatal(err)
	}
	if ts, more, err := l.History(realm, "s", presence.Page{Limit: 10}); len(ts) != 4 || more || err != nil {
		t.Errorf("%d transitions, more %v, %v", len(ts), more, err)
	}
	if aside.Counts()["history"] != 3 {
		t.Errorf("set aside: %v", aside.Counts())
	}
	if found, _, err := l.List(t.Context(), presence.Query{Realm: realm, Limit: 10}); len(found) != 1 || err != nil {
		t.Errorf("%d sessions, %v", len(found), err)
	}
	if aside.Counts()["sessions"] != 1 {
		t.Errorf("set aside: %v", aside.Counts())
	}
	if h := mustClaim(t, l, "s", new(link)); h.Number() < 4 {
		t.Errorf("number %d is given again", h.Number())
	}
}

// TestRunTriesAgain: the sweep, the first look at the ledger and each trim are
// tried again after an error, and how many sessions were closed is told once.
func TestRunTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &faulty{Engine: mem.New()}
		crashed := open(t, e)
		for i := range 5 {
			mustClaim(t, crashed, fmt.Sprint(i), new(link))
		}
		l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n1", Retention: presence.Retention{Age: time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		strayKeys(t, e, store.TableTimeline)
		broken := func(err error) { e.with(func() { e.broken = err }) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		swept := make(chan int, 10)
		broken(errBlind)
		go func() { done <- l.Run(ctx, func(n int) { swept <- n; broken(errBlind) }) }()
		time.Sleep(10 * time.Second)
		if len(swept) != 0 {
			t.Fatal("it says that the sweep is done")
		}
		broken(nil)
		time.Sleep(2 * time.Second) // the sweep; then the ledger is blind again
		if n := <-swept; n != 5 || len(swept) != 0 {
			t.Errorf("%d were closed, it says", n)
		}
		time.Sleep(10 * time.Minute)
		broken(nil)
		time.Sleep(2 * time.Minute)
		if n := len(keysOf(e, store.TableHistory)); n != 0 {
			t.Errorf("%d transitions are left", n)
		}
		release(t, mustClaim(t, l, "0", new(link)), disconnect.ConnectionLost, gone)
		broken(errBlind)
		time.Sleep(10 * time.Minute)
		broken(nil)
		time.Sleep(2 * time.Minute)
		if n := len(keysOf(e, store.TableHistory)); n != 0 {
			t.Errorf("%d transitions are left after it was blind", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		e.Close()
	})
}

// TestRunEndsWhileItTriesAgain: nothing has to work for it to end.
func TestRunEndsWhileItTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &faulty{Engine: mem.New()}
		l := open(t, e)
		for _, after := range []time.Duration{0, 1500 * time.Millisecond, time.Hour} {
			e.with(func() { e.broken = errBlind })
			ctx, cancel := context.WithTimeout(t.Context(), after)
			told := false
			if err := l.Run(ctx, func(int) { told = true }); err != nil || told {
				t.Errorf("after %v: %v, told %v", after, err, told)
			}
			cancel()
		}
		e.Close()
	})
}

// TestOptionsAreChecked at their bounds.
func TestOptionsAreChecked(t *testing.T) {
	e := mem.New()
	defer e.Close()
	for _, c := range []struct {
		o  presence.Options
		ok bool
	}{
		{presence.Options{Engine: e}, false},
		{presence.Options{Node: "n"}, false},
		{presence.Options{Engine: e, Node: "n"}, true},
		{presence.Options{Engine: e, Node: "n", Retention: presence.Retention{Age: time.Minute, Bytes: 1 << 20}}, true},
		{presence.Options{Engine: e, Node: "n", Retention: presence.Retention{Age: time.Minute - 1}}, false},
		{presence.Options{Engine: e, Node: "n", Retention: presence.Retention{Bytes: 1<<20 - 1}}, false},
		{presence.Options{Engine: e, Node: "n", Retention: presence.Retention{Interval: -1}}, false},
	} {
		if _, err := presence.Open(t.Context(), c.o); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}
