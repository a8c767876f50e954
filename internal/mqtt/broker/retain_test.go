package broker_test

import (
	"fmt"
	"testing"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

// TestRetainedBeyondTheQueue: a stored session subscribes to more retained
// messages than its queue has room for, and gets all at its own pace.
func TestRetainedBeyondTheQueue(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		const n = 120
		s := start(t, durable(e, with(func(c *session.Config) { c.QueueMessages = 20 })))
		pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
		for i := range n {
			send(t, pub, &packet.Publish{Topic: fmt.Appendf(nil, "r/%d", i), Payload: fmt.Append(nil, i), QoS: packet.QoS(1 + i%2), PacketID: uint16(i + 1), Retain: true})
			if i%2 == 0 {
				receive[*packet.Puback](t, pub)
			} else {
				receive[*packet.Pubrec](t, pub)
				send(t, pub, &packet.Pubrel{PacketID: uint16(i + 1)})
				receive[*packet.Pubcomp](t, pub)
			}
		}
		c := s.resume(packet.V5, "c", false)
		subscribe(t, c, packet.QoS2, "r/#")
		seen := make(map[string]bool)
		for len(seen) < n {
			p, err := c.Receive(deadline())
			if err != nil {
				t.Fatalf("%v after %d messages", err, len(seen))
			}
			switch p := p.(type) {
			case *packet.Publish:
				if !p.Retain || seen[string(p.Topic)] {
					t.Fatalf("%s, RETAIN %v", p.Topic, p.Retain)
				}
				seen[string(p.Topic)] = true
				send(t, c, ackOf(p))
			case *packet.Pubrel:
				send(t, c, &packet.Pubcomp{PacketID: p.PacketID})
			default:
				t.Fatalf("received %+v", p)
			}
		}
		quiet(t, c)
	})
}

// TestRetainedToSlowReader: retained messages wait for a client that reads
// slowly, and go on when it does.
func TestRetainedToSlowReader(t *testing.T) {
	s := start(t, durable(mem.New(), func(o *settings) { o.keeps, o.broker.OutputBytes = false, 16<<10 }))
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	payload := make([]byte, 100<<10)
	const n = 150 // more than the sockets' buffers hold
	for i := range n {
		send(t, pub, &packet.Publish{Topic: fmt.Appendf(nil, "r/%d", i), Payload: payload, Retain: true})
	}
	silent(t, pub)
	for _, transport := range []string{"tcp", "tls", "ws"} {
		c := s.dial(transport, packet.V5, packet.Connect{ClientID: "c-" + transport})
		subscribe(t, c, packet.QoS0, "r/#")
		silent(t, pub)
		for range n {
			receive[*packet.Publish](t, c)
		}
		silent(t, c)
	}
}

// TestRetainedNoLocal: a client that does not want its own messages does not
// get its own retained ones.
func TestRetainedNoLocal(t *testing.T) {
	s := start(t, durable(mem.New()))
	c := s.dial("tcp", packet.V5, packet.Connect{ClientID: "c"})
	for i, id := range []string{"c", "other"} {
		p := c
		if id != "c" {
			p = s.dial("tcp", packet.V5, packet.Connect{ClientID: id})
		}
		send(t, p, &packet.Publish{Topic: fmt.Appendf(nil, "r/%d", i), Payload: []byte(id), Retain: true})
		silent(t, p)
	}
	send(t, c, &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "r/#", NoLocal: true}}})
	receive[*packet.Suback](t, c)
	take(t, c, "other")
	silent(t, c)
}

// TestRetainedAfterSubscribingAgain: who subscribes again gets what is retained
// [MQTT-3.3.1-9], also if it came before that as it was published, while other
// retained messages were on their way.
func TestRetainedAfterSubscribingAgain(t *testing.T) {
	s := start(t, durable(mem.New()))
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	for i := range 3 {
		send(t, pub, &packet.Publish{Topic: fmt.Appendf(nil, "r/%d", i), Payload: []byte("r"), QoS: packet.QoS1, PacketID: 1, Retain: true})
		receive[*packet.Puback](t, pub)
	}
	c := s.dial("tcp", packet.V5, packet.Connect{ClientID: "c", ReceiveMaximum: 2})
	subscribe(t, c, packet.QoS1, "r/#")
	first, second := receive[*packet.Publish](t, c), receive[*packet.Publish](t, c) // the third waits
	subscribe(t, c, packet.QoS0, "z")
	send(t, pub, &packet.Publish{Topic: []byte("z"), Payload: []byte("z"), QoS: packet.QoS1, PacketID: 1, Retain: true})
	receive[*packet.Puback](t, pub)
	if p := receive[*packet.Publish](t, c); p.Retain || string(p.Topic) != "z" {
		t.Fatalf("received %+v", p)
	}
	subscribe(t, c, packet.QoS0, "z")
	send(t, c, &packet.Puback{PacketID: first.PacketID}, &packet.Puback{PacketID: second.PacketID})
	if p := receive[*packet.Publish](t, c); string(p.Payload) != "r" {
		t.Fatalf("received %+v", p)
	}
	if p := receive[*packet.Publish](t, c); !p.Retain || string(p.Topic) != "z" {
		t.Fatalf("received %+v", p)
	}
}

// TestRetainedIsNotFollowedByAnOlder: a retained message that waits until the client
// has room is not sent after a newer one of its topic, which came meanwhile.
func TestRetainedIsNotFollowedByAnOlder(t *testing.T) {
	s := start(t, settings{session: func(c *session.Config) { c.RetainAvailable = true }})
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	retain := func(topic, payload string) {
		send(t, pub, &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: packet.QoS1, PacketID: 1, Retain: true})
		receive[*packet.Puback](t, pub)
	}
	retain("a", "1")
	retain("t", "old")
	sub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "sub", ReceiveMaximum: 1})
	subscribe(t, sub, packet.QoS1, "a", "t")
	first := receive[*packet.Publish](t, sub)
	if !eventually(func() bool { return s.b.AwaitsRoom("sub") }) {
		t.Fatal("it does not wait")
	}
	retain("t", "new")
	send(t, sub, &packet.Puback{PacketID: first.PacketID})
	last := receive[*packet.Publish](t, sub)
	send(t, sub, &packet.Puback{PacketID: last.PacketID})
	if !eventually(func() bool { return !s.b.Replaying("sub") }) {
		t.Error("retained messages are being sent still")
	}
	send(t, sub, &packet.Pingreq{})
	receive[*packet.Pingresp](t, sub)
	if string(last.Payload) != "new" {
		t.Errorf("%s", last.Payload)
	}
}
