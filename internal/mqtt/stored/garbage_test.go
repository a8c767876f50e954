package stored_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
)

// Nothing of an ended session is left, and nothing of another one is touched.
func TestGarbage(t *testing.T) {
	onEngines(t, func(t *testing.T, e store.Engine) {
		st, err := stored.Open(stored.Options{Engine: e, Grace: 500 * time.Millisecond, Interval: time.Millisecond})
		must(t, "open", err)
		run(t, st)
		var sessions []*stored.Session
		for i := range 30 {
			s := begin(t, e, st, fmt.Sprint("s", i))
			must(t, "subscribe", wait(func(done func(error)) {
				st.Subscribe(s.Key(), []stored.Subscription{sub("a/#", packet.Subscription{}, 0)}, done)
			}))
			sessions = append(sessions, s)
		}
		for i := range 40 {
			from := fmt.Sprint("s", i%30)
			ts := []stored.Target{to("kept", uint16(i+1))}
			for j := range i % 10 {
				ts = append(ts, to(fmt.Sprint("s", j), uint16(i+1)))
			}
			publish(st, from, &stored.Publication{Message: message(from, "t", fmt.Sprint(i), 2), Targets: ts,
				Inbound: &stored.Inbound{Session: from, Epoch: 1, PacketID: uint16(i + 1)}})
		}
		for _, s := range sessions {
			end(t, e, st, s)
		}
		// What was under way comes after the end.
		publish(st, "late", &stored.Publication{Message: message("late", "t", "late", 1), Targets: []stored.Target{to("s3", 99), to("s4", 99)}})
		eventually(t, "only one queue is left", func() bool {
			return keys(t, e) == keys(t, e, store.TableQueue, store.TableMessage) && keys(t, e, store.TableQueue) == 40
		})
		es := pending(t, st, key("kept"), 7)
		if len(es) != 40 {
			t.Fatalf("the other session has %d messages, want 40", len(es))
		}
		for _, en := range es {
			st.Settle(key("kept"), en.Ref)
		}
		eventually(t, "nothing is stored", func() bool { return keys(t, e) == 0 })
	})
}

// What was routed to a session before its end and committed after it is
// deleted, as long as that takes less than the grace period.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := delay.New(mem.New(), delay.Options{Max: time.Second, Seed: 1})
		st, err := stored.Open(stored.Options{Engine: e})
		must(t, "open", err)
		stop := run(t, st)
		s := begin(t, e, st, "x")
		b := st.Begin(st.Partition(realm, "p"))
		add := func(n int) {
			b.Add(&stored.Publication{Realm: realm, Message: message("p", "t", fmt.Sprint(n), 1),
				Targets: []stored.Target{to("x", uint16(n)), to("y", uint16(n))}}, nil)
		}
		add(1)
		end(t, e, st, s)
		time.Sleep(stored.DefaultGrace - 5*time.Second) // virtual
		if n := keys(t, e, store.TableGarbage); n != 1 {
			t.Fatalf("%d tombstones before the grace period has passed, want 1", n)
		}
		b.Submit()
		time.Sleep(10 * time.Second) // virtual
		if n := keys(t, e, store.TableQueue); n != 1 {
			t.Errorf("%d entries are left, want the other session's", n)
		}
		wantTexts(t, pending(t, st, key("y"), 10), "1 1")
		if n := keys(t, e, store.TableGarbage); n != 0 {
			t.Errorf("%d tombstones are left", n)
		}
		stop()
		must(t, "close", e.Close())
	})
}

// A full disk refuses publications distinctly, and still lets go.
func TestFull(t *testing.T) {
	e := mem.New()
	defer e.Close()
	st := open(t, e)
	stop := run(t, st)
	s := begin(t, e, st, "x")
	in := &stored.Inbound{Session: "p", Epoch: 1, PacketID: 1}
	first := publish(st, "p", &stored.Publication{Message: message("p", "t", "one", 2), Inbound: in, Targets: []stored.Target{to("x", 1), to("y", 1)}})[0]
	must(t, "publish", first.err)
	e.SetFull(true)
	if o := publish(st, "p", &stored.Publication{Message: message("p", "t", "two", 1), Targets: []stored.Target{to("x", 2)}})[0]; !errors.Is(o.err, store.ErrFull) {
		t.Fatalf("publish on a full disk: got %v", o.err)
	}
	if err := wait(func(done func(error)) {
		st.Subscribe(s.Key(), []stored.Subscription{sub("a", packet.Subscription{}, 0)}, done)
	}); !errors.Is(err, store.ErrFull) {
		t.Errorf("subscribe on a full disk: got %v", err)
	}
	must(t, "complete", wait(func(done func(error)) { st.Complete(key("p"), 1, done) }))
	must(t, "release", wait(func(done func(error)) { st.Release(key("x"), first.receipt.Target(0), 1, done) }))
	en := pending(t, st, key("y"), 1)[0]
	target := to("x", 3)
	if err := wait(func(done func(error)) {
		st.Move(key("y"), &en, &target, func(_ stored.Receipt, err error) { done(err) })
	}); !errors.Is(err, store.ErrFull) {
		t.Errorf("move on a full disk: got %v", err)
	}
	wantTexts(t, pending(t, st, key("y"), 10), "one 1")
	e.SetExhausted(true)
	st.Settle(key("x"), first.receipt.Target(0))
	wantTexts(t, pending(t, st, key("x"), 10)) // gone for readers all the same
	eventually(t, "a delete has failed", func() bool { return st.Backlog() == 1 })
	e.SetExhausted(false)
	stop() // tries once more
	if n := keys(t, e, store.TableQueue); n != 1 {
		t.Errorf("%d entries are left, want 1", n)
	}
}

// Outcomes that the engine does not know at once are asked for; those that
// nobody knows are reported as such.
func TestUnknown(t *testing.T) {
	var fault delay.Fault
	e := delay.New(mem.New(), delay.Options{Max: -1, Fault: func(*store.Batch) delay.Fault { return fault }})
	defer e.Close()
	st := open(t, e)
	for _, tt := range []struct {
		fault delay.Fault
		want  error
	}{{delay.UnknownApplied, nil}, {delay.UnknownLost, store.ErrUnknown}, {delay.Full, store.ErrFull}} {
		fault = tt.fault
		o := publish(st, "p", &stored.Publication{Message: message("p", "t", "m", 1), Targets: []stored.Target{to("x", 1), to("y", 1)}})[0]
		if !errors.Is(o.err, tt.want) {
			t.Errorf("fault %d: got %v, want %v", tt.fault, o.err, tt.want)
		}
	}
	fault = delay.None
	wantTexts(t, pending(t, st, key("x"), 10), "m 1")
	fault = delay.UnknownLost // deletes are tried again
	st.Settle(key("x"), pending(t, st, key("x"), 10)[0].Ref)
	st.Settle(key("y"), pending(t, st, key("y"), 10)[0].Ref)
	fault = delay.None
	run(t, st)
	eventually(t, "nothing is stored", func() bool { return keys(t, e) == 0 })
}

// Mistakes of one publication do not touch the others of its batch, and are
// reported in its turn.
func TestRefused(t *testing.T) {
	e := mem.New()
	defer e.Close()
	st := open(t, e)
	var other string
	for i := range 100 {
		if other = fmt.Sprint("o", i); st.Partition(realm, other) != st.Partition(realm, "p") {
			break
		}
	}
	ts := []stored.Target{to("x", 1)}
	big := message("p", "t", strings.Repeat("x", 13<<20), 1)
	var order []int
	ps := []*stored.Publication{
		{Message: message("p", "t", "one", 1), Targets: ts},
		{Message: message("p", "t/#", "bad topic", 1), Targets: ts},
		{Message: big, Targets: ts},
		{Message: message("p", "t", "other", 1), Targets: ts, Inbound: &stored.Inbound{Session: other, Epoch: 1, PacketID: 1}},
		{Message: message("p", "t", "two", 1), Targets: []stored.Target{to("x", 2)}},
	}
	errs := make([]error, len(ps))
	done := make(chan struct{})
	b := st.Begin(st.Partition(realm, "p"))
	for i, p := range ps {
		p.Realm = realm
		b.Add(p, func(_ stored.Receipt, err error) {
			order, errs[i] = append(order, i), err
			if i == len(ps)-1 {
				close(done)
			}
		})
	}
	b.Submit()
	b.Submit() // nothing is in it any more
	<-done
	var rule *packet.Error
	if errs[0] != nil || !errors.As(errs[1], &rule) || !errors.Is(errs[2], stored.ErrTooLarge) || !errors.Is(errs[3], store.ErrInvalid) || errs[4] != nil {
		t.Errorf("outcomes: %v", errs)
	}
	if !slices.Equal(order, []int{0, 1, 2, 3, 4}) {
		t.Errorf("the outcomes came in the order %d", order)
	}
	wantTexts(t, pending(t, st, key("x"), 10), "one 1", "two 2")
}

// More targets than one commit can have.
func TestManyTargets(t *testing.T) {
	e := mem.New()
	defer e.Close()
	st := open(t, e)
	run(t, st)
	const n = 130_000
	ts := make([]stored.Target, n)
	for i := range ts {
		ts[i] = to(fmt.Sprint("s", i), 1)
	}
	outcomes := publish(st, "p",
		&stored.Publication{Message: message("p", "t", "before", 1), Targets: []stored.Target{to("s0", 7)}},
		&stored.Publication{Message: message("p", "t", "all", 1), Targets: ts, Inbound: &stored.Inbound{Session: "p", Epoch: 1, PacketID: 9}},
		&stored.Publication{Message: message("p", "t", "after", 1), Targets: []stored.Target{to("s0", 8)}})
	for _, o := range outcomes {
		must(t, "publish", o.err)
	}
	wantTexts(t, pending(t, st, key("s0"), 10), "before 7", "all 1", "after 8")
	for _, i := range []int{1, 59_998, 59_999, 60_000, 60_001, 119_998, 119_999, 120_000, n - 1} {
		es := pending(t, st, key(ts[i].Session), 10)
		wantTexts(t, es, "all 1")
		if want := outcomes[1].receipt.Target(i); es[0].Ref != want {
			t.Errorf("target %d: got %+v, want %+v", i, es[0].Ref, want)
		}
	}
	if ids, err := st.Inbound(key("p")); err != nil || !slices.Equal(ids, []uint16{9}) {
		t.Errorf("inbound: got %d, %v", ids, err)
	}
	for i := range ts {
		st.Settle(key(ts[i].Session), outcomes[1].receipt.Target(i))
	}
	eventually(t, "settled entries are deleted", func() bool { return st.Backlog() == 0 })
	eventually(t, "only the others are stored", func() bool { return keys(t, e, store.TableQueue, store.TableMessage) == 2 })
}
