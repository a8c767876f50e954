package broker_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/presence"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
)

// failing is an engine whose deletions fail while the test says so.
type failing struct {
	store.Engine
	fault   atomic.Int32 // delay.Fault
	left    atomic.Int32 // how many batches fail
	forgets bool         // what became of them
}

func newFailing(t *testing.T) *failing {
	t.Helper()
	f := new(failing)
	e := delay.New(mem.New(), delay.Options{Max: -1, Fault: func(b *store.Batch) delay.Fault {
		if b.Class() == store.Reserve && f.left.Load() > 0 && f.left.Add(-1) >= 0 {
			return delay.Fault(f.fault.Load())
		}
		return delay.None
	}})
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	f.Engine = lasting{e}
	return f
}

// Outcome implements store.Engine.
func (f *failing) Outcome(ctx context.Context, id store.ID) (store.Result, bool, error) {
	if f.forgets {
		return store.Result{}, false, nil
	}
	return f.Engine.Outcome(ctx, id)
}

func (f *failing) fail(fault delay.Fault, n int32) {
	f.fault.Store(int32(fault))
	f.left.Store(n)
}

// keeps reports whether the session is on disk.
func (f *failing) keeps(t *testing.T, name string) bool {
	t.Helper()
	st, err := stored.Open(stored.Options{Engine: f.Engine})
	if err != nil {
		t.Fatal(err)
	}
	_, ok, err := st.Session(realm, name)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// flooded is a server with a session "c" that nobody serves and that overflows
// with the next message to t.
func flooded(t *testing.T, e *failing, edit ...func(*settings)) (s *server, overflow func()) {
	t.Helper()
	s = start(t, durable(e, append(edit, with(func(c *session.Config) { c.QueueMessages = 5 }))...))
	c, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", Will: lastWill("gone", 3600)})
	subscribe(t, c, packet.QoS1, "t")
	s.cut(c, "c")
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	for range 5 {
		put(t, pub, packet.QoS1, 1, "t", "x")
	}
	return s, func() { put(t, pub, packet.QoS1, 1, "t", "one too many") }
}

// TestOverflowBeforeDisconnected: a session overflows after its client has gone
// and before that could be stored. It ends nevertheless, and its Will comes.
func TestOverflowBeforeDisconnected(t *testing.T) {
	e := newFailing(t)
	s := start(t, durable(e, with(func(c *session.Config) { c.QueueMessages = 5 })))
	w, pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "watcher"}), s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	subscribe(t, w, packet.QoS1, "w")
	c, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", Will: lastWill("gone", 3600)})
	subscribe(t, c, packet.QoS1, "t")
	e.fail(delay.Full, 1e6)
	c.Close()
	if !eventually(func() bool { return s.b.Connections() == 2 }) {
		t.Fatal("the end of the connection is not noticed")
	}
	for range 6 {
		put(t, pub, packet.QoS1, 1, "t", "x")
	}
	e.fail(delay.None, 0)
	take(t, w, "gone")
	if !eventually(func() bool { return s.metric("rollcall_mqtt_subscriptions") == 1 && !e.keeps(t, "c") }) {
		t.Errorf("%v subscriptions are left; the session is on disk: %v", s.metric("rollcall_mqtt_subscriptions"), e.keeps(t, "c"))
	}
	silent(t, w) // once
}

// failures are what can happen to a deletion.
var failures = []struct {
	name    string
	fault   delay.Fault
	forgets bool
}{{"full", delay.Full, false}, {"lost", delay.UnknownLost, false}, {"applied", delay.UnknownApplied, false}, {"applied and forgotten", delay.UnknownApplied, true}}

// TestOverflowIsStored: the end of a session that overflows while its client is
// away is stored in the end, whatever becomes of the first tries. Then its Will
// comes, and nothing is left.
func TestOverflowIsStored(t *testing.T) {
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			e := newFailing(t)
			e.forgets = f.forgets
			s, overflow := flooded(t, e)
			w := s.dial("tcp", packet.V5, packet.Connect{ClientID: "watcher"})
			subscribe(t, w, packet.QoS1, "w")
			e.fail(f.fault, 1)
			overflow()
			take(t, w, "gone")
			if e.keeps(t, "c") {
				t.Error("the session is stored still")
			}
			s.cut(w, "watcher")
			if !eventually(func() bool { return s.metric("rollcall_mqtt_subscriptions") == 0 }) {
				t.Error("subscriptions are left")
			}
		})
	}
}

// TestOverflowedAndBack: a client comes back before it could be stored that its
// session has overflowed. It finds none, and begins one that the next try leaves
// alone.
func TestOverflowedAndBack(t *testing.T) {
	for _, clean := range []bool{false, true} {
		e := newFailing(t)
		t.Run("before", func(t *testing.T) {
			s, overflow := flooded(t, e)
			e.fail(delay.Full, 1_000_000)
			overflow()
			c, ack := s.connect(packet.V5, packet.Connect{ClientID: "c", CleanStart: clean, SessionExpiryInterval: never})
			if ack.SessionPresent || ack.ReasonCode != packet.Success {
				t.Errorf("CONNACK %+v", ack)
			}
			subscribe(t, c, packet.QoS1, "u")
			e.fail(delay.None, 0)
			s.b.EraseAgain()
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub2"})
			put(t, pub, packet.QoS1, 1, "t", "nobody")
			put(t, pub, packet.QoS1, 1, "u", "y")
			take(t, c, "y")
			silent(t, c)
			if !e.keeps(t, "c") {
				t.Error("the new session has been deleted")
			}
			s.leave(c, "c", &packet.Disconnect{})
			put(t, pub, packet.QoS1, 1, "u", "z")
		})
		t.Run("after", func(t *testing.T) {
			s := start(t, durable(e))
			take(t, s.resume(packet.V5, "c", true), "z")
		})
	}
}

// TestExpiryIsStored: a session whose expiry could not be stored at first ends
// nevertheless, also if nothing in the store tells of it any more.
func TestExpiryIsStored(t *testing.T) {
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			e := newFailing(t)
			e.forgets = f.forgets
			s := start(t, durable(e))
			c, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", SessionExpiryInterval: 1})
			subscribe(t, c, packet.QoS1, "t")
			s.cut(c, "c")
			e.fail(f.fault, 1)
			if !eventually(func() bool { return s.metric("rollcall_mqtt_dropped_sessions_total", "SessionExpiry") == 1 }) {
				t.Fatal("the session does not expire")
			}
			if e.keeps(t, "c") || s.metric("rollcall_mqtt_subscriptions") != 0 {
				t.Error("something is left of it")
			}
		})
	}
}

// faulty is a Presence that panics once it has taken a claim.
type faulty struct {
	ledger atomic.Pointer[ledger]
	panics atomic.Bool
}

func (f *faulty) Claim(c broker.Claim, done func(broker.Hold, error)) {
	f.ledger.Load().Claim(c, done)
	if f.panics.Load() {
		panic("test")
	}
}

func (f *faulty) Amend(realm, session string, stage func(*store.Batch, bool) bool, done func(error)) {
	f.ledger.Load().Amend(realm, session, stage, done)
}

// TestFaultWhileClaiming: the server fails between a claim and its outcome. The
// session, new or resumed, is left as by a client that was lost: it waits, with
// its queue, and expires. The Will of a client that was never let in does not
// come.
func TestFaultWhileClaiming(t *testing.T) {
	f := new(faulty)
	s := start(t, durable(delay.New(mem.New(), delay.Options{Max: 40 * time.Millisecond, Seed: 1}), func(o *settings) {
		o.keeps, o.broker.Presence = false, f
	}))
	f.ledger.Store(&ledger{s.ledger})
	w := s.dial("tcp", packet.V5, packet.Connect{ClientID: "watcher"})
	subscribe(t, w, packet.QoS1, "w")
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	old := s.resume(packet.V5, "old", false)
	subscribe(t, old, packet.QoS1, "t")
	s.cut(old, "old")
	put(t, pub, packet.QoS1, 1, "t", "1")
	fail := func(id string, p packet.Connect) {
		t.Helper()
		before, _, err := s.ledger.History(realm, id, presence.Page{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		f.panics.Store(true)
		p.ClientID, p.Will = id, lastWill(id, 0)
		c, ack := s.connect(packet.V5, p)
		f.panics.Store(false)
		if ack.ReasonCode != packet.ServerUnavailable {
			t.Errorf("%s: CONNACK %s", id, ack.ReasonCode)
		}
		closed(t, c)
		var ts []presence.Transition
		if !eventually(func() bool {
			ts, _, err = s.ledger.History(realm, id, presence.Page{Limit: 100})
			return err != nil || len(ts) == len(before)+2
		}) || err != nil {
			t.Fatalf("%s: %v %+v", id, err, ts)
		}
		if last := ts[len(ts)-1]; last.Reason != disconnect.ServerError || !strings.Contains(last.Evidence.Detail, "inside the server") {
			t.Errorf("%s: %+v", id, last)
		}
	}
	fail("old", packet.Connect{})
	put(t, pub, packet.QoS1, 1, "t", "2")
	old = s.resume(packet.V5, "old", true)
	take(t, old, "1")
	take(t, old, "2")
	silent(t, old)
	s.cut(old, "old")

	fail("new", packet.Connect{SessionExpiryInterval: 1}) // never seen before
	fail("old", packet.Connect{SessionExpiryInterval: 1})
	if !eventually(func() bool { return s.metric("rollcall_mqtt_dropped_sessions_total", "SessionExpiry") == 2 }) {
		t.Error("they do not expire")
	}
	fail("brief", packet.Connect{CleanStart: true})
	silent(t, w)
}
