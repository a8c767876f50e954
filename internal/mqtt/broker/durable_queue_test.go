package broker_test

import (
	"context"
	"fmt"
	"testing"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
)

// TestStalled: while a client reads nothing, what it is sent waits on disk, and
// comes once it reads again without anything else having to happen.
func TestStalled(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		for _, transport := range []string{"tcp", "tls"} {
			s := start(t, durable(e, func(o *settings) { o.broker.OutputBytes = 16 << 10 }))
			c := s.open(transport, packet.V5)
			send(t, c, &packet.Connect{ClientID: "c-" + transport, SessionExpiryInterval: never, ReceiveMaximum: 65535})
			receive[*packet.Connack](t, c)
			subscribe(t, c, packet.QoS1, "t/#")
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			large := make([]byte, 64<<10)
			before := s.metric("rollcall_mqtt_messages_dropped_total", "congested")
			for n := 0; s.metric("rollcall_mqtt_messages_dropped_total", "congested") == before; n++ {
				if n > 5000 {
					t.Fatal("nothing is dropped")
				}
				send(t, pub, &packet.Publish{Topic: []byte("t/0"), Payload: large})
				silent(t, pub)
			}
			const n = 60 // nothing of QoS 1 is unacknowledged: only reading can set it going
			for i := range n {
				put(t, pub, packet.QoS1, 1, "t/1", fmt.Sprint(i))
			}
			next := 0
			for next < n {
				p := receive[*packet.Publish](t, c)
				if string(p.Topic) == "t/0" {
					continue
				}
				if string(p.Payload) != fmt.Sprint(next) {
					t.Fatalf("%q instead of %d", p.Payload, next)
				}
				send(t, c, &packet.Puback{PacketID: p.PacketID})
				next++
			}
			silent(t, c)
			send(t, c, &packet.Disconnect{})
		}
	})
}

// TestOverflow: a queue that is full ends its session, whether its client is
// there or not, and nothing is left of it.
func TestOverflow(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		s := start(t, durable(e, func(o *settings) { o.keeps = false }, with(func(c *session.Config) { c.QueueMessages = 20 })))
		pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
		online := s.resume(packet.V5, "online", false)
		subscribe(t, online, packet.QoS1, "t")
		offline := s.resume(packet.V311, "offline", false)
		subscribe(t, offline, packet.QoS1, "t")
		s.leave(offline, "offline", &packet.Disconnect{})
		for range 21 {
			put(t, pub, packet.QoS1, 1, "t", "x")
		}
		for n := 0; ; n++ {
			p, err := online.Receive(deadline())
			if err != nil {
				t.Fatal(err)
			}
			if d, ok := p.(*packet.Disconnect); ok {
				if d.ReasonCode != packet.QuotaExceeded || n > 20 {
					t.Errorf("DISCONNECT %s after %d messages", d.ReasonCode, n)
				}
				break
			}
		}
		closed(t, online)
		ts := s.history("online")
		if last := ts[len(ts)-1]; last.Reason != disconnect.SessionOverflow || last.Evidence.Kind != disconnect.Limit {
			t.Errorf("%+v", last)
		}
		if !eventually(func() bool { return s.metric("rollcall_mqtt_subscriptions") == 0 }) {
			t.Error("subscriptions are left")
		}
		if n := s.metric("rollcall_mqtt_dropped_sessions_total", "SessionOverflow"); n != 2 {
			t.Errorf("%v sessions have overflowed", n)
		}
		put(t, pub, packet.QoS1, 1, "t", "x")
		for _, id := range []string{"online", "offline"} {
			c, ack := s.connect(packet.V5, packet.Connect{ClientID: id, SessionExpiryInterval: 1})
			if ack.SessionPresent {
				t.Errorf("%s is still there", id)
			}
			silent(t, c)
			send(t, c, &packet.Disconnect{SessionExpiryInterval: packet.Some[uint32](0)})
			closed(t, c)
		}
	})
}

// TestSessionEnds: by its expiry, by Clean Start, and by what DISCONNECT says.
func TestSessionEnds(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		s := start(t, durable(e, func(o *settings) { o.keeps = false }))
		pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
		begin := func(id string, expiry uint32) {
			c, _ := s.connect(packet.V5, packet.Connect{ClientID: id, SessionExpiryInterval: expiry})
			subscribe(t, c, packet.QoS1, "t")
			switch id {
			case "cleaned", "expired":
				s.cut(c, id)
			case "ended":
				s.leave(c, id, &packet.Disconnect{SessionExpiryInterval: packet.Some[uint32](0)})
			case "shortened":
				s.leave(c, id, &packet.Disconnect{SessionExpiryInterval: packet.Some[uint32](1)})
			case "prolonged":
				s.leave(c, id, &packet.Disconnect{SessionExpiryInterval: packet.Some[uint32](never)})
			}
		}
		begin("cleaned", never)
		begin("ended", never)
		begin("shortened", never)
		begin("expired", 1)
		begin("prolonged", 1)
		put(t, pub, packet.QoS1, 1, "t", "x")
		if !eventually(func() bool { return s.metric("rollcall_mqtt_dropped_sessions_total", "SessionExpiry") == 2 }) {
			t.Fatal("sessions do not expire")
		}
		for id, present := range map[string]bool{"ended": false, "shortened": false, "expired": false, "prolonged": true} {
			c, ack := s.connect(packet.V5, packet.Connect{ClientID: id, SessionExpiryInterval: 100})
			if ack.SessionPresent != present {
				t.Errorf("%s: session present %v", id, ack.SessionPresent)
			}
			if present {
				take(t, c, "x")
			}
			silent(t, c)
			s.leave(c, id, &packet.Disconnect{SessionExpiryInterval: packet.Some[uint32](0)})
		}
		c, ack := s.connect(packet.V5, packet.Connect{ClientID: "cleaned", CleanStart: true, SessionExpiryInterval: never})
		if ack.SessionPresent {
			t.Error("Clean Start finds a session")
		}
		put(t, pub, packet.QoS1, 1, "t", "y")
		silent(t, c)
		s.leave(c, "cleaned", &packet.Disconnect{SessionExpiryInterval: packet.Some[uint32](0)})
	})
}

// TestOwner: a session that waits belongs to the client that left it.
func TestOwner(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		t.Run("left", func(t *testing.T) {
			s := start(t, durable(e))
			s.gate.set(func(_ context.Context, c broker.Credentials) (broker.Identity, error) {
				return broker.Identity{AuthenticationName: c.UserName}, nil
			})
			c, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", UserName: packet.Some("alice")})
			subscribe(t, c, packet.QoS1, "t")
			s.cut(c, "c")
		})
		s := start(t, durable(e))
		s.gate.set(func(_ context.Context, c broker.Credentials) (broker.Identity, error) {
			return broker.Identity{AuthenticationName: c.UserName}, nil
		})
		for _, clean := range []bool{true, false} {
			c, ack := s.connect(packet.V5, packet.Connect{ClientID: "c", UserName: packet.Some("mallory"), CleanStart: clean})
			if ack.ReasonCode != packet.NotAuthorized {
				t.Errorf("CONNACK %s", ack.ReasonCode)
			}
			closed(t, c)
		}
		c, ack := s.connect(packet.V5, packet.Connect{ClientID: "c", UserName: packet.Some("Alice")})
		if ack.ReasonCode != packet.Success || !ack.SessionPresent {
			t.Errorf("CONNACK %s, session present %v", ack.ReasonCode, ack.SessionPresent)
		}
		silent(t, c)
	})
}
