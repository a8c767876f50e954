package stored_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

// modelEntry is what a queue must hold.
type modelEntry struct {
	body     string
	id       uint16
	qos      packet.QoS
	released bool
	share    string
	ref      stored.Ref
}

type modelSession struct {
	state   stored.Session
	subs    map[string]stored.Subscription
	inbound map[uint16]bool
	queue   []modelEntry // in commit order
	settled map[uint64]bool
}

// world is a Store beside a plain model of it, on a disk whose power may fail.
type world struct {
	t        *testing.T
	random   *rand.Rand
	fs       *vfs.MemFS
	engine   *pebble.Engine
	st       *stored.Store
	stop     func()
	sessions map[string]*modelSession
	epoch    uint64
	messages int
}

func (w *world) open() {
	w.t.Helper()
	e, err := pebble.Open(pebble.Options{Dir: "/s", FS: w.fs})
	must(w.t, "open", err)
	w.engine = e
	w.st, err = stored.Open(stored.Options{Engine: e, Grace: 50 * time.Millisecond, Interval: time.Millisecond})
	must(w.t, "open", err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.st.Run(ctx) }()
	w.stop = func() {
		cancel()
		must(w.t, "run", <-done)
		must(w.t, "close", e.Close())
	}
}

// reopen stops the Store, sometimes by a power cut, and checks everything.
func (w *world) reopen() {
	w.t.Helper()
	if w.random.IntN(3) > 0 {
		clone := w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: w.random.IntN(101), RNG: rand.New(rand.NewPCG(w.random.Uint64(), 1))})
		w.stop()
		w.fs = clone
	} else {
		w.stop()
	}
	w.open()
	if w.random.IntN(2) == 0 {
		eventually(w.t, "everything is counted", w.st.Counted)
	}
	got := load(w.t, w.st)
	if len(got) != len(w.sessions) {
		w.t.Fatalf("%d sessions were loaded, want %d", len(got), len(w.sessions))
	}
	for name, s := range w.sessions {
		l := got[realm+"/"+name]
		want := slices.SortedFunc(maps.Values(s.subs), func(a, b stored.Subscription) int { return cmpString(a.Filter, b.Filter) })
		if l.session != s.state || !slices.Equal(l.subs, want) {
			w.t.Fatalf("session %s: got %+v, want %+v, %+v", name, l, s.state, want)
		}
		w.checkInbound(s)
		// What was settled last may be back; then it is settled again.
		live := make(map[uint16]bool)
		for _, e := range s.queue {
			live[e.id] = true
		}
		for _, e := range w.pending(s) {
			if s.settled[e.Ref.Index<<16|uint64(e.Ref.Ordinal)] {
				if live[e.PacketID] {
					w.t.Fatalf("session %s: settled entry %+v came back beside a newer one with its identifier", name, e.Ref)
				}
				w.st.Settle(s.state.Key(), e.Ref)
			}
		}
		w.checkQueue(s)
	}
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (w *world) pending(s *modelSession) []stored.Entry {
	w.t.Helper()
	return pending(w.t, w.st, s.state.Key(), 1+w.random.IntN(20))
}

func (w *world) checkInbound(s *modelSession) {
	w.t.Helper()
	ids, err := w.st.Inbound(s.state.Key())
	must(w.t, "inbound", err)
	if want := slices.Sorted(maps.Keys(s.inbound)); !slices.Equal(ids, want) {
		w.t.Fatalf("inbound of %s: got %d, want %d", s.state.Name, ids, want)
	}
}

func (w *world) checkQueue(s *modelSession) {
	w.t.Helper()
	es := w.pending(s)
	bad := len(es) != len(s.queue)
	ids := make(map[uint16]bool)
	for i := 0; i < len(es) && !bad; i++ {
		e, m := es[i], s.queue[i]
		bad = e.Ref != m.ref && !(m.released && e.Ref.Cursor() == m.ref.Cursor()) || e.PacketID != m.id || e.QoS != m.qos || e.Released != m.released
		if !m.released {
			bad = bad || string(e.Message.Payload) != m.body || e.Share != m.share
		}
		ids[m.id] = true
	}
	if bad {
		w.t.Fatalf("queue of %s: got %+v, want %+v", s.state.Name, es, s.queue)
	}
	n, _, got, err := count(w.st, s.state.Key())
	must(w.t, "count", err)
	slices.Sort(got)
	if n != len(s.queue) || !slices.Equal(got, slices.Sorted(maps.Keys(ids))) {
		w.t.Fatalf("count of %s: got %d and %d, want %+v", s.state.Name, n, got, s.queue)
	}
}

func (w *world) any() *modelSession {
	names := slices.Sorted(maps.Keys(w.sessions))
	if len(names) == 0 {
		return w.connect(fmt.Sprint("s", w.random.IntN(12)))
	}
	return w.sessions[names[w.random.IntN(len(names))]]
}

func (w *world) connect(name string) *modelSession {
	w.t.Helper()
	w.epoch++
	s := &modelSession{
		state: stored.Session{Realm: realm, Name: name, Owner: name, Epoch: w.epoch, Expiry: uint32(w.random.IntN(3)) * 1000},
		subs:  make(map[string]stored.Subscription), inbound: make(map[uint16]bool), settled: make(map[uint64]bool),
	}
	commit(w.t, w.engine, func(b *store.Batch) { w.st.StageSession(b, nil, &s.state) })
	w.sessions[name] = s
	return s
}

// id returns a free packet identifier, the lowest for a good chance that one
// is used again soon.
func (s *modelSession) id() uint16 {
	used := make(map[uint16]bool)
	for _, e := range s.queue {
		used[e.id] = true
	}
	for id := uint16(1); ; id++ {
		if !used[id] {
			return id
		}
	}
}

func (w *world) publish(from *modelSession) {
	w.t.Helper()
	var ps []*stored.Publication
	var targets [][]*modelSession
	for range 1 + w.random.IntN(3) {
		w.messages++
		p := &stored.Publication{Message: message(from.state.Name, "t", fmt.Sprint("m", w.messages), 1)}
		var to []*modelSession
		for _, name := range slices.Sorted(maps.Keys(w.sessions)) {
			s := w.sessions[name]
			if w.random.IntN(3) > 0 {
				continue
			}
			e := modelEntry{body: string(p.Message.Payload), id: s.id(), qos: packet.QoS(1 + w.random.IntN(2)), share: []string{"", "g/t"}[w.random.IntN(2)]}
			s.queue = append(s.queue, e)
			to = append(to, s)
			p.Targets = append(p.Targets, stored.Target{Session: name, Epoch: s.state.Epoch, PacketID: e.id, QoS: e.qos, Share: e.share})
		}
		if id := uint16(1 + w.random.IntN(5)); w.random.IntN(2) == 0 && !from.inbound[id] {
			p.Inbound = &stored.Inbound{Session: from.state.Name, Epoch: from.state.Epoch, PacketID: id}
			from.inbound[id] = true
		}
		ps, targets = append(ps, p), append(targets, to)
	}
	seen := make(map[*modelSession]int)
	outcomes := publish(w.st, from.state.Name, ps...)
	for i := len(ps) - 1; i >= 0; i-- {
		must(w.t, "publish", outcomes[i].err)
		for j, s := range targets[i] {
			seen[s]++
			s.queue[len(s.queue)-seen[s]].ref = outcomes[i].receipt.Target(j)
		}
	}
}

// step does one random thing.
func (w *world) step() {
	s := w.any()
	k := s.state.Key()
	at := -1
	if len(s.queue) > 0 {
		at = w.random.IntN(len(s.queue))
	}
	switch n := w.random.IntN(100); {
	case n < 5:
		if name := fmt.Sprint("s", w.random.IntN(12)); w.sessions[name] == nil {
			w.connect(name)
		}
	case n < 8:
		end(w.t, w.engine, w.st, &s.state)
		delete(w.sessions, s.state.Name)
	case n < 12:
		old := s.state
		s.state.Offline = []time.Time{{}, epoch0.Add(time.Duration(n))}[w.random.IntN(2)]
		commit(w.t, w.engine, func(b *store.Batch) { w.st.StageSession(b, &old, &s.state) })
	case n < 16:
		f := sub(fmt.Sprint("f", w.random.IntN(5)), packet.Subscription{QoS: packet.QoS(w.random.IntN(3))}, uint32(n))
		s.subs[f.Filter] = f
		must(w.t, "subscribe", wait(func(done func(error)) { w.st.Subscribe(k, []stored.Subscription{f}, done) }))
	case n < 18:
		f := fmt.Sprint("f", w.random.IntN(5))
		delete(s.subs, f)
		must(w.t, "unsubscribe", wait(func(done func(error)) { w.st.Unsubscribe(k, []string{f}, done) }))
	case n < 45:
		w.publish(s)
	case n < 75 && at >= 0:
		w.st.Settle(k, s.queue[at].ref)
		s.settle(at)
	case n < 82 && at >= 0 && s.queue[at].qos == 2:
		e := &s.queue[at]
		e.released = true
		must(w.t, "release", wait(func(done func(error)) { w.st.Release(k, e.ref, e.id, done) }))
	case n < 86:
		for id := range s.inbound {
			delete(s.inbound, id)
			must(w.t, "complete", wait(func(done func(error)) { w.st.Complete(k, id, done) }))
			break
		}
	case n < 92 && at >= 0 && !s.queue[at].released:
		w.move(s, at)
	case n < 99:
		w.checkQueue(s)
	default:
		w.reopen()
	}
}

func (s *modelSession) settle(at int) {
	ref := s.queue[at].ref
	s.settled[ref.Index<<16|uint64(ref.Ordinal)] = true
	s.queue = slices.Delete(s.queue, at, at+1)
}

func (w *world) move(s *modelSession, at int) {
	other := w.any()
	if other == s {
		return
	}
	m := s.queue[at]
	for _, e := range w.pending(s) {
		if e.Ref != m.ref {
			continue
		}
		to := stored.Target{Session: other.state.Name, Epoch: other.state.Epoch, PacketID: other.id(), QoS: 1, Share: "moved"}
		ch := make(chan outcome, 1)
		w.st.Move(s.state.Key(), &e, &to, func(r stored.Receipt, err error) { ch <- outcome{r, err} })
		o := <-ch
		must(w.t, "move", o.err)
		s.queue = slices.Delete(s.queue, at, at+1)
		other.queue = append(other.queue, modelEntry{body: m.body, id: to.PacketID, qos: 1, share: "moved", ref: o.receipt.Target(0)})
		return
	}
	w.t.Fatalf("entry %+v of %s is not pending", m.ref, s.state.Name)
}

// P2: whatever happens in whatever order, also when the power fails, what was
// acknowledged is there, and nothing else is left in the end.
func TestAgainstModel(t *testing.T) {
	number := func(name string, n uint64) uint64 {
		if s := os.Getenv(name); s != "" {
			var err error
			n, err = strconv.ParseUint(s, 10, 64)
			must(t, name, err)
		}
		return n
	}
	seed, steps := number("ROLLCALL_STORED_SEED", uint64(time.Now().UnixNano())), number("ROLLCALL_STORED_STEPS", 600)
	t.Logf("seed %d", seed)
	w := &world{t: t, random: rand.New(rand.NewPCG(seed, 1)), fs: vfs.NewCrashableMem(), sessions: make(map[string]*modelSession)}
	w.open()
	for range steps {
		w.step()
	}
	w.reopen()
	for _, s := range w.sessions {
		w.checkQueue(s)
		end(t, w.engine, w.st, &s.state)
	}
	eventually(t, "nothing is stored", func() bool { return keys(t, w.engine) == 0 })
	eventually(t, "nothing is remembered", func() bool { return w.st.Dying() == 0 })
	w.stop()
}
