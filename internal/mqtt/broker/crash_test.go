package broker_test

import (
	"fmt"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

// remains is a store as a crash may have left it.
type remains struct {
	t *testing.T
	store.Engine
	*stored.Store
}

func leave(t *testing.T) remains {
	t.Helper()
	e := mem.New()
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	st, err := stored.Open(stored.Options{Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	return remains{t, lasting{e}, st}
}

func (r remains) commit(stage func(b *store.Batch)) {
	r.t.Helper()
	b := store.NewBatch(store.Normal)
	stage(b)
	if _, err := store.Commit(r.t.Context(), r.Engine, b); err != nil {
		r.t.Fatal(err)
	}
}

// session leaves a session of the realm, and nobody connected.
func (r remains) session(name string) stored.SessionKey {
	r.t.Helper()
	s := stored.Session{Realm: realm, Name: name, Owner: name, Epoch: 1, Expiry: never, Offline: time.Now()}
	r.commit(func(b *store.Batch) { r.StageSession(b, nil, &s) })
	return s.Key()
}

// await calls f with a callback and waits for it.
func (r remains) await(f func(done func(error))) {
	r.t.Helper()
	outcome := make(chan error, 1)
	f(func(err error) { outcome <- err })
	if err := <-outcome; err != nil {
		r.t.Fatal(err)
	}
}

// TestReleasedBehindWindow: a crash has brought back more acknowledged messages
// than a window, ahead of one that waits for PUBCOMP. The client may be lost
// again before it has answered anything.
func TestReleasedBehindWindow(t *testing.T) {
	for lost := range 3 {
		t.Run(fmt.Sprint("lost ", lost, " times"), func(t *testing.T) { releasedBehindWindow(t, lost) })
	}
}

func releasedBehindWindow(t *testing.T, lost int) {
	left := leave(t)
	key := left.session("c")
	const n = 12 // the window is 10
	var last stored.Ref
	for k := uint16(1); k <= n; k++ {
		left.await(func(done func(error)) {
			b := left.Begin(left.Partition(realm, "p"))
			b.Add(&stored.Publication{Realm: realm,
				Message: &session.Message{Publish: packet.Publish{Topic: []byte("t"), QoS: packet.QoS2, Payload: fmt.Append(nil, k)},
					From: "p", Received: time.Now().Add(-time.Minute)},
				Targets: []stored.Target{{Session: "c", Epoch: 1, PacketID: k, QoS: packet.QoS2}},
			}, func(r stored.Receipt, err error) {
				last = r.Target(0)
				done(err)
			})
			b.Submit()
		})
	}
	left.await(func(done func(error)) { left.Release(key, last, n, done) })

	s := start(t, durable(left.Engine))
	for range lost {
		c := s.resume(packet.V5, "c", true)
		receive[*packet.Publish](t, c)
		s.cut(c, "c")
	}
	c := s.resume(packet.V5, "c", true)
	next, released := uint16(1), false
	for next < n || !released {
		switch p := receive[packet.Packet](t, c).(type) {
		case *packet.Publish:
			if p.PacketID != next || string(p.Payload) != fmt.Sprint(next) || p.Dup != (next <= 10) {
				t.Fatalf("message %d is %+v", next, p)
			}
			next++
			send(t, c, &packet.Pubrec{PacketID: p.PacketID})
		case *packet.Pubrel:
			released = released || p.PacketID == n
			send(t, c, &packet.Pubcomp{PacketID: p.PacketID})
		default:
			t.Fatalf("got %+v", p)
		}
	}
}

// TestReplacedWill: a Will that a newer connection's has replaced is in the
// store until it has been published, and is published after a crash if it is
// there.
func TestReplacedWill(t *testing.T) {
	left := leave(t)
	will := func(text string) *packet.Will {
		return &packet.Will{Topic: []byte("w"), Payload: []byte(text), QoS: packet.QoS1}
	}
	left.commit(func(b *store.Batch) {
		w := stored.Will{Message: &session.Message{Publish: will("of the crash").Publish(), From: "c"}, DueAt: time.Now()}
		if err := left.StageWill(b, realm, "c\x002", nil, &w); err != nil {
			t.Fatal(err)
		}
	})
	key := left.session("heir")
	left.await(func(done func(error)) {
		left.Subscribe(key, []stored.Subscription{{Subscription: packet.Subscription{Filter: "w", QoS: packet.QoS1}}}, done)
	})
	s := start(t, durable(left.Engine))
	heir := s.resume(packet.V5, "heir", true)
	take(t, heir, "of the crash")
	old, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", Will: will("of the old")})
	s.connect(packet.V5, packet.Connect{ClientID: "c", Will: will("of the new")})
	if d := receive[*packet.Disconnect](t, old); d.ReasonCode != packet.SessionTakenOver {
		t.Errorf("DISCONNECT %s", d.ReasonCode)
	}
	take(t, heir, "of the old")
	if !eventually(func() bool {
		items, err := left.Due(time.Now().Add(time.Hour), 10)
		return err == nil && len(items) == 0
	}) {
		items, err := left.Due(time.Now().Add(time.Hour), 10)
		t.Errorf("Wills that were published are still due: %+v %v", items, err)
	}
	send(t, heir, &packet.Pingreq{})
	receive[*packet.Pingresp](t, heir)
}
