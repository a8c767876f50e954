package broker_test

import (
	"sync/atomic"
	"testing"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
)

// TestStoreIsFull: what cannot be stored is refused as far as the version can
// say it, costs no packet identifier and no place in a queue, and the session
// goes on.
func TestStoreIsFull(t *testing.T) {
	inner := mem.New()
	s := start(t, durable(inner, with(func(c *session.Config) { c.QueueMessages = 5 })))
	c := s.resume(packet.V5, "c", false)
	subscribe(t, c, packet.QoS2, "t")
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	stored := s.resume(packet.V5, "stored-pub", false)
	old := s.dial("tcp", packet.V311, packet.Connect{ClientID: "old"})
	put(t, pub, packet.QoS1, 1, "t", "before")
	take(t, c, "before")
	inner.SetFull(true)
	for range 20 { // four times what the queue holds
		send(t, pub, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS1, PacketID: 1})
		if p := receive[*packet.Puback](t, pub); p.ReasonCode != packet.QuotaExceeded {
			t.Fatalf("PUBACK %s", p.ReasonCode)
		}
		send(t, stored, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS2, PacketID: 1})
		if p := receive[*packet.Pubrec](t, stored); p.ReasonCode != packet.QuotaExceeded {
			t.Fatalf("PUBREC %s", p.ReasonCode)
		}
	}
	send(t, pub, &packet.Publish{Topic: []byte("r"), Payload: []byte("x"), QoS: packet.QoS1, PacketID: 1, Retain: true})
	if p := receive[*packet.Puback](t, pub); p.ReasonCode != packet.QuotaExceeded {
		t.Fatalf("PUBACK %s of a retained message", p.ReasonCode)
	}
	send(t, c, &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "u", QoS: packet.QoS1}}})
	if p := receive[*packet.Suback](t, c); p.ReasonCodes[0] != packet.QuotaExceeded {
		t.Fatalf("SUBACK %s", p.ReasonCodes[0])
	}
	send(t, old, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS1, PacketID: 1})
	closed(t, old)
	inner.SetFull(false)
	for i := range 10 {
		put(t, pub, packet.QoS(1+i%2), 1, "t", "after")
		take(t, c, "after")
	}
	put(t, stored, packet.QoS2, 1, "t", "after")
	take(t, c, "after")
	put(t, pub, packet.QoS1, 1, "u", "nobody") // the subscription was refused
	silent(t, c)
	s.cut(c, "c")
	c = s.resume(packet.V5, "c", true)
	silent(t, c)
}

// TestOutcomeUnknown: a publisher whose message may or may not have been stored
// is told nothing and cut off; what was stored arrives, what was not does not,
// and nobody's queue stays behind.
func TestOutcomeUnknown(t *testing.T) {
	for name, fault := range map[string]delay.Fault{"applied": delay.UnknownApplied, "lost": delay.UnknownLost} {
		t.Run(name, func(t *testing.T) {
			var failing atomic.Bool
			e := delay.New(mem.New(), delay.Options{Max: -1, Fault: func(b *store.Batch) delay.Fault {
				if failing.Load() && b.Class() == store.Normal {
					return fault
				}
				return delay.None
			}})
			s := start(t, durable(e))
			c := s.resume(packet.V5, "c", false)
			subscribe(t, c, packet.QoS1, "t")
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			failing.Store(true)
			send(t, pub, &packet.Publish{Topic: []byte("t"), Payload: []byte("1"), QoS: packet.QoS1, PacketID: 1})
			if fault == delay.UnknownApplied { // the engine is asked, and knows
				receive[*packet.Puback](t, pub)
				take(t, c, "1")
			} else {
				if p := receive[*packet.Disconnect](t, pub); p.ReasonCode != packet.UnspecifiedError {
					t.Errorf("DISCONNECT %s", p.ReasonCode)
				}
				closed(t, pub)
			}
			failing.Store(false)
			silent(t, c)
			pub = s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			put(t, pub, packet.QoS1, 1, "t", "2")
			take(t, c, "2")
			silent(t, c)
		})
	}
}
