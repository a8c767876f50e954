package stored_test

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

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/setaside"
)

// watched counts the snapshots and iterators that are open, and can break the
// iterators.
type watched struct {
	store.Engine
	mu     sync.Mutex
	open   int
	broken error
}

func (e *watched) add(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open += n
}

func (e *watched) set(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken = err
}

func (e *watched) Snapshot() store.Snapshot {
	e.add(1)
	return &watchedView{e.Engine.Snapshot(), e}
}

type watchedView struct {
	store.Snapshot
	e *watched
}

func (v *watchedView) Close() {
	v.e.add(-1)
	v.Snapshot.Close()
}

func (v *watchedView) Iter(lower, upper []byte) store.Iterator {
	v.e.mu.Lock()
	defer v.e.mu.Unlock()
	v.e.open++
	return &watchedIter{v.Snapshot.Iter(lower, upper), v.e, v.e.broken}
}

type watchedIter struct {
	store.Iterator
	e   *watched
	err error
}

func (i *watchedIter) Next() bool           { return i.err == nil && i.Iterator.Next() }
func (i *watchedIter) SeekGE(k []byte) bool { return i.err == nil && i.Iterator.SeekGE(k) }
func (i *watchedIter) Err() error           { return errors.Join(i.err, i.Iterator.Err()) }
func (i *watchedIter) Close() error {
	i.e.add(-1)
	return i.Iterator.Close()
}

var errBroken = errors.New("cannot read")

// tableKeys are the keys of a table.
func tableKeys(e store.Engine, table store.Table) (all [][]byte) {
	s := e.Snapshot()
	defer s.Close()
	it := s.Iter(nil, nil)
	defer it.Close()
	for it.Next() {
		if store.Table(it.Key()[1]) == table {
			all = append(all, bytes.Clone(it.Key()))
		}
	}
	return all
}

// No reader leaves a view of the store open, whether it ends or breaks off.
func TestNothingStaysOpen(t *testing.T) {
	e := &watched{Engine: mem.New()}
	defer e.Close()
	st := open(t, e)
	for _, name := range []string{"x", "y"} {
		begin(t, e, st, name)
		commit(t, e, func(b *store.Batch) {
			must(t, "will", st.StageWill(b, realm, name, nil, &stored.Will{Message: message(name, "w", "", 0)}))
		})
	}
	publish(st, "p", &stored.Publication{Message: message("p", "t", "one", 1), Targets: []stored.Target{to("x", 1), to("y", 1)}},
		&stored.Publication{Message: message("p", "t", "two", 2), Targets: []stored.Target{to("x", 2)}, Inbound: &stored.Inbound{Session: "p", Epoch: 1, PacketID: 5}})
	for i := range 5 {
		must(t, "retain", retain(t, st, fmt.Sprint("r/", i), strings.Repeat("x", 2000)))
	}
	stop := errors.New("stop")
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"open", func() error { _, err := stored.Open(stored.Options{Engine: e}); return err }},
		{"load", func() error { return st.Load(func(*stored.Session, []stored.Subscription) error { return nil }) }},
		{"load until", func() error {
			if err := st.Load(func(*stored.Session, []stored.Subscription) error { return stop }); !errors.Is(err, stop) {
				return err
			}
			return nil
		}},
		{"pending", func() error { _, err := st.Pending(key("x"), nil, 10, 1000); return err }},
		{"pending, a page", func() error { _, err := st.Pending(key("x"), nil, 1, 1000); return err }},
		{"survey", func() error { return st.Survey(key("x"), func(stored.Waiting) bool { return false }) }},
		{"inbound", func() error { _, err := st.Inbound(key("p")); return err }},
	} {
		for _, broken := range []error{nil, errBroken} {
			e.set(broken)
			err := c.do()
			e.set(nil)
			if broken == nil && err != nil || broken != nil && !errors.Is(err, errBroken) && c.name != "open" {
				t.Errorf("%s, broken %v: %v", c.name, broken, err)
			}
			if e.open != 0 {
				t.Errorf("%s, broken %v: %d are open", c.name, broken, e.open)
				e.open = 0
			}
		}
	}
	for _, f := range []func(){
		func() { _ = match(t, st, realm, "#") },
		func() {
			must(t, "match", st.MatchRetained(realm, "#", func(*session.Message) bool { return false }))
		},
		func() {
			if _, err := st.RetainedMessage(realm, "r/1"); err != nil {
				t.Error(err)
			}
		},
		func() {
			if w, err := st.Will(realm, "x"); w == nil || err != nil {
				t.Error(w, err)
			}
		},
	} {
		if f(); e.open != 0 {
			t.Errorf("%d are open", e.open)
			e.open = 0
		}
	}
}

// What cannot be read is set aside, counted, and keeps nothing behind it from
// being read.
func TestUnreadableRecordsArePassed(t *testing.T) {
	e := mem.New()
	defer e.Close()
	st := open(t, e)
	for _, name := range []string{"a", "b", "c"} {
		begin(t, e, st, name)
		for _, f := range []string{"f1", "f2", "f3"} {
			must(t, "subscribe", wait(func(done func(error)) {
				st.Subscribe(key(name), []stored.Subscription{sub(f, packet.Subscription{}, 0)}, done)
			}))
		}
		commit(t, e, func(b *store.Batch) {
			must(t, "will", st.StageWill(b, realm, name, nil, &stored.Will{Message: message(name, "w", "", 0)}))
		})
	}
	for i := range 4 {
		publish(st, "a", &stored.Publication{Message: message("a", "t", fmt.Sprint(i), 1), Targets: []stored.Target{to("b", uint16(i+1))}})
	}
	for _, id := range []uint16{3, 4, 5} {
		publish(st, "a", &stored.Publication{Message: message("a", "t", "in", 2), Inbound: &stored.Inbound{Session: "a", Epoch: 1, PacketID: id}})
	}
	for _, topic := range []string{"r/1", "r/2", "r/3"} {
		must(t, "retain", retain(t, st, topic, strings.Repeat("x", 2000)))
	}
	spoil := func(table store.Table, which func(key []byte) bool) {
		t.Helper()
		for _, k := range tableKeys(e, table) {
			if which(k) {
				commit(t, e, func(b *store.Batch) { b.Put(k, []byte{99}) })
				return
			}
		}
		t.Fatalf("nothing to spoil in %s", table)
	}
	has := func(s string) func([]byte) bool { return func(k []byte) bool { return bytes.Contains(k, []byte(s)) } }
	spoil(store.TableSessionState, has("b\x00\x01"))
	spoil(store.TableFilter, func(k []byte) bool { return has("c\x00\x01")(k) && has("f2")(k) })
	spoil(store.TableWill, has("a\x00\x01"))
	spoil(store.TableQueue, has("b\x00\x01"))
	spoil(store.TableRetained, has("r/2"))
	inbound := tableKeys(e, store.TableInbound)[1]
	commit(t, e, func(b *store.Batch) { b.Put(append(bytes.Clone(inbound), 0), nil) })
	for p := range e.Partitions() { // keys that nobody can have written
		for _, table := range []store.Table{store.TableSessionState, store.TableRetained} {
			commit(t, e, func(b *store.Batch) { b.Put([]byte{uint8(p), byte(table), 'a'}, []byte{1}) })
			commit(t, e, func(b *store.Batch) { b.Put(append([]byte{uint8(p), byte(table)}, "a\x00\x01b"...), []byte{1}) })
		}
	}
	aside := setaside.New(nil)
	st, err := stored.Open(stored.Options{Engine: e, SetAside: aside})
	must(t, "open", err)
	all := load(t, st)
	n := 0
	for _, l := range all {
		n += len(l.subs)
	}
	if len(all) != 2 || n != 5 {
		t.Errorf("%d sessions with %d subscriptions are left", len(all), n)
	}
	for name, want := range map[string]bool{"a": false, "b": true, "c": true, "none": false} {
		if w, err := st.Will(realm, name); (w != nil) != want || err != nil {
			t.Errorf("Will of %s: %v, %v", name, w, err)
		}
	}
	wantTexts(t, pending(t, st, key("b"), 2), "1 2", "2 3", "3 4")
	if ids, err := st.Inbound(stored.SessionKey{Realm: realm, Name: "a", Epoch: 1}); fmt.Sprint(ids) != "[3 4 5]" || err != nil {
		t.Errorf("inbound %v, %v", ids, err)
	}
	if got := match(t, st, realm, "r/#"); len(got) != 2 {
		t.Errorf("retained: %d", len(got))
	}
	counts, parts := aside.Counts(), uint64(e.Partitions())
	total := uint64(0)
	for _, c := range counts {
		total += c
	}
	if want := 4*parts + 6; total != want {
		t.Errorf("set aside: %v, %d, want %d", counts, total, want)
	}
}

// Retained messages are listed in pages, in the order of their topics, without
// what has expired.
func TestListRetained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := mem.New()
		st, err := stored.Open(stored.Options{Engine: e})
		must(t, "open", err)
		var want []string
		for i := range 400 {
			topic := fmt.Sprintf("r/%03d", i)
			m := message("p", topic, "payload", 0)
			m.Received = time.Now()
			if i%7 == 0 {
				m.MessageExpiryInterval = packet.Some[uint32](1)
			} else {
				want = append(want, topic)
				m.MessageExpiryInterval = packet.Some[uint32](1000)
			}
			retainMessage(t, st, m)
		}
		retainMessage(t, st, message("p", "other", "x", 0))
		time.Sleep(time.Second) // virtual
		for _, limit := range []int{1, 10, 50, len(want), 1000} {
			var got []string
			for after, more := "", true; more; {
				var found []stored.RetainedInfo
				var err error
				found, more, err = st.ListRetained(t.Context(), realm, "r/+", after, limit)
				must(t, "list", err)
				if len(found) > limit || more && len(found) != limit {
					t.Fatalf("limit %d: %d, more %v", limit, len(found), more)
				}
				for _, f := range found {
					got = append(got, f.Topic)
					if f.Bytes != len(f.Topic)+len("payload") || !f.Expires.Equal(time.Now().Add(999*time.Second)) {
						t.Fatalf("%+v", f)
					}
				}
				if len(found) > 0 {
					after = found[len(found)-1].Topic
				}
				if limit == 1 && len(got) > 3 {
					got = append(got, want[len(got):]...)
					break
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("limit %d: %v", limit, got)
			}
		}
		found, more, err := st.ListRetained(t.Context(), realm, "other", "", 1)
		if len(found) != 1 || !found[0].Expires.IsZero() || more || err != nil {
			t.Errorf("%+v, more %v, %v", found, more, err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := st.ListRetained(ended, realm, "#", "", 10); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		for topic, there := range map[string]bool{"r/001": true, "r/000": false, "r": false, "r/001/x": false, "other": true, "none": false} {
			if m, err := st.RetainedMessage(realm, topic); (m != nil) != there || err != nil {
				t.Errorf("%s: %v, %v", topic, m, err)
			}
		}
		if m, err := st.RetainedMessage("elsewhere", "other"); m != nil || err != nil {
			t.Errorf("%v, %v", m, err)
		}
		must(t, "close", e.Close())
	})
}

// Options are checked.
func TestOptionsAreChecked(t *testing.T) {
	e := mem.New()
	defer e.Close()
	for _, c := range []struct {
		o  stored.Options
		ok bool
	}{
		{stored.Options{}, false}, {stored.Options{Engine: e}, true},
		{stored.Options{Engine: e, Grace: -1}, false}, {stored.Options{Engine: e, Interval: -1}, false},
		{stored.Options{Engine: e, Grace: 1, Interval: 1}, true},
	} {
		if _, err := stored.Open(c.o); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}

// What has been settled or released cannot be moved, and a move to nowhere is
// none; each asker hears.
func TestMovesThatComeTooLate(t *testing.T) {
	e := mem.New()
	defer e.Close()
	st := open(t, e)
	publish(st, "p",
		&stored.Publication{Message: message("p", "t", "one", 2), Targets: []stored.Target{to("x", 1), to("z", 1)}},
		&stored.Publication{Message: message("p", "t", "two", 2), Targets: []stored.Target{to("x", 2)}})
	es := pending(t, st, key("x"), 10)
	move := func(en *stored.Entry) error {
		target := to("y", 9)
		return wait(func(done func(error)) {
			st.Move(key("x"), en, &target, func(_ stored.Receipt, err error) { done(err) })
		})
	}
	must(t, "release", wait(func(done func(error)) { st.Release(key("x"), es[0].Ref, 1, done) }))
	released := pending(t, st, key("x"), 10)[0]
	if !released.Released {
		t.Fatalf("%+v", released)
	}
	if err := move(&released); !errors.Is(err, stored.ErrSettled) {
		t.Errorf("released: %v", err)
	}
	st.Settle(key("x"), es[1].Ref)
	if err := move(&es[1]); !errors.Is(err, stored.ErrSettled) {
		t.Errorf("settled: %v", err)
	}
	if err := wait(func(done func(error)) { st.Release(key("x"), es[1].Ref, 2, done) }); !errors.Is(err, stored.ErrSettled) {
		t.Errorf("settled: %v", err)
	}
	wantTexts(t, pending(t, st, key("y"), 10))
	wantTexts(t, pending(t, st, key("x"), 10), "released 1")
}

// What an ended session left beside its queue goes, however much that is, and
// what belongs to others stays. A tombstone that cannot be read holds none up.
func TestMuchGarbage(t *testing.T) {
	e := mem.New()
	defer e.Close()
	aside := setaside.New(nil)
	st, err := stored.Open(stored.Options{Engine: e, Grace: time.Nanosecond, Interval: time.Millisecond, SetAside: aside})
	must(t, "open", err)
	many := func(n int) (subs []stored.Subscription) {
		for i := range n {
			subs = append(subs, sub(fmt.Sprint("f/", i), packet.Subscription{}, 0))
		}
		return subs
	}
	// In the order of their keys the one that stays is between those that go.
	for name, n := range map[string]int{"a": 250, "b": 7, "c": 100, "d": 101} {
		s := begin(t, e, st, name)
		must(t, "subscribe", wait(func(done func(error)) { st.Subscribe(s.Key(), many(n), done) }))
	}
	for p := range e.Partitions() { // before all others
		commit(t, e, func(b *store.Batch) {
			b.Put(store.SequencedKey([]byte{uint8(p), byte(store.TableGarbage)}, 1, 0), []byte{99})
		})
	}
	for _, name := range []string{"a", "c", "d"} {
		end(t, e, st, &stored.Session{Realm: realm, Name: name, Owner: name, Epoch: 1, Expiry: 100})
	}
	run(t, st)
	eventually(t, "only one session is left", func() bool {
		return keys(t, e, store.TableFilter) == 7 && keys(t, e, store.TableSessionState) == 1 && keys(t, e, store.TableGarbage) == e.Partitions()
	})
	if l := load(t, st)[realm+"/b"]; len(l.subs) != 7 {
		t.Errorf("%d subscriptions of the other session are left", len(l.subs))
	}
	eventually(t, "what cannot be read is set aside", func() bool { return int(aside.Counts()["garbage"]) == e.Partitions() })
}

// A due entry that cannot be read holds none up.
func TestUnreadableDue(t *testing.T) {
	e := mem.New()
	defer e.Close()
	aside := setaside.New(nil)
	st, err := stored.Open(stored.Options{Engine: e, SetAside: aside})
	must(t, "open", err)
	at := epoch0
	for i, name := range []string{"a", "b", "c"} {
		s := &stored.Session{Realm: realm, Name: name, Owner: name, Epoch: 1, Expiry: 100, Offline: at.Add(time.Duration(i) * time.Second)}
		commit(t, e, func(b *store.Batch) { st.StageSession(b, nil, s) })
	}
	due := tableKeys(e, store.TableDue)
	for _, k := range due {
		if bytes.Contains(k, []byte("b\x00\x01")) {
			commit(t, e, func(b *store.Batch) { b.Put(k, []byte{99}) })
		}
	}
	for p := range e.Partitions() {
		commit(t, e, func(b *store.Batch) { b.Put([]byte{uint8(p), byte(store.TableDue), 0}, []byte{1}) })
	}
	items, err := st.Due(at.Add(time.Hour), 10)
	must(t, "due", err)
	var names []string
	for _, it := range items {
		names = append(names, it.Session)
	}
	if fmt.Sprint(names) != "[a c]" {
		t.Errorf("due: %v", names)
	}
	if next, err := st.NextDue(); err != nil || !next.Equal(at.Add(100*time.Second)) {
		t.Errorf("next %v, %v", next, err)
	}
	if one, err := st.Due(at.Add(time.Hour), 1); err != nil || len(one) != 1 || one[0].Session != "a" {
		t.Errorf("the most urgent: %+v, %v", one, err)
	}
	if none, err := st.Due(at.Add(99*time.Second), 10); err != nil || len(none) != 0 {
		t.Errorf("before its time: %+v, %v", none, err)
	}
	if len(aside.Counts()) == 0 {
		t.Error("nothing is set aside")
	}
}

// Failed commits are counted by why they failed.
func TestFailuresAreCounted(t *testing.T) {
	e := &failing{Engine: mem.New()}
	defer e.Engine.Close()
	st := open(t, e)
	r := prometheus.NewRegistry()
	must(t, "register", st.Register(r))
	if err := st.Register(r); err == nil {
		t.Error("registered twice")
	}
	want := map[string]float64{}
	for label, err := range map[string]error{"full": store.ErrFull, "conflict": store.ErrConflict, "unknown": store.ErrUnknown, "closed": store.ErrClosed, "invalid": errBroken} {
		e.err = err
		if got := wait(func(done func(error)) {
			st.Subscribe(key("x"), []stored.Subscription{sub("f", packet.Subscription{}, 0)}, done)
		}); !errors.Is(got, err) {
			t.Errorf("%s: %v", label, got)
		}
		want[label] = 1
	}
	e.err = nil
	must(t, "subscribe", wait(func(done func(error)) { st.Subscribe(key("x"), nil, done) }))
	families, err := r.Gather()
	must(t, "gather", err)
	for _, f := range families {
		if f.GetName() != "rollcall_mqtt_stored_failures_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			label := m.GetLabel()[0].GetValue()
			if m.GetCounter().GetValue() != want[label] {
				t.Errorf("%s: %v", label, m.GetCounter().GetValue())
			}
			delete(want, label)
		}
	}
	if len(want) != 0 {
		t.Errorf("not counted: %v", want)
	}
}

// failing fails every batch, if it is told with what.
type failing struct {
	store.Engine
	err error
}

func (e *failing) Submit(b *store.Batch, done func(store.Result)) {
	if e.err != nil {
		go done(store.Result{Err: e.err})
		return
	}
	e.Engine.Submit(b, done)
}

func (e *failing) Outcome(context.Context, store.ID) (store.Result, bool, error) {
	return store.Result{}, false, nil
}

// The limits of retained messages are checked at their bounds.
func TestRetainedLimitsAreChecked(t *testing.T) {
	e := mem.New()
	defer e.Close()
	most := 0
	for n := 1 << 30; n > 0; n >>= 1 { // the largest that is taken
		if _, err := stored.Open(stored.Options{Engine: e, Retained: stored.RetainedLimits{MessageBytes: most + n}}); err == nil {
			most += n
		}
	}
	if most < 1<<20 {
		t.Errorf("%d bytes are the most that can be asked for", most)
	}
	for _, l := range []stored.RetainedLimits{{Messages: -1}, {Bytes: -1}, {MessageBytes: -1}, {MessageBytes: most + 1}} {
		if _, err := stored.Open(stored.Options{Engine: e, Retained: l}); err == nil {
			t.Errorf("%+v is taken", l)
		}
	}
}
