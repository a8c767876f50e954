package broker_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
)

// TestSubackFirst: others publish to a topic all the time while a client
// subscribes to it. SUBACK comes before any of their messages, and what is
// published once it has come arrives.
func TestSubackFirst(t *testing.T) {
	for _, c := range []struct {
		name   string
		kept   bool
		max    time.Duration // of the engine's delay
		rounds int
	}{{"clean", false, -1, 300}, {"kept", true, -1, 300}, {"kept slowly", true, 2 * time.Millisecond, 100}} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, durable(delay.New(mem.New(), delay.Options{Max: c.max}), with(func(c *session.Config) {
				c.QueueMessages, c.QueueBytes = 60_000, 64<<20
			})))
			subackFirst(t, s, c.kept, c.rounds)
		})
	}
}

func subackFirst(t *testing.T, s *server, kept bool, rounds int) {
	var topic atomic.Pointer[string]
	var stop atomic.Bool
	var busy sync.WaitGroup
	defer busy.Wait()
	defer stop.Store(true)
	topicOf := func(i int) *string {
		name := fmt.Sprint("t/", i)
		return &name
	}
	topic.Store(topicOf(0))
	for i := range 2 {
		qos := packet.QoS(i)
		pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: fmt.Sprint("busy", i)})
		busy.Go(func() {
			var p packet.Packet
			var err error
			for n := 0; err == nil && !stop.Load(); n++ {
				m := &packet.Publish{Topic: []byte(*topic.Load()), Payload: []byte("x"), QoS: qos}
				if qos > packet.QoS0 { // one at a time: its PUBACK is the answer
					m.PacketID = uint16(n%65535 + 1)
					err = pub.Send(m)
				} else {
					for k := 0; k < 20 && err == nil; k++ {
						err = pub.Send(m)
					}
					if err == nil {
						err = pub.Send(&packet.Pingreq{})
					}
				}
				if err == nil {
					p, err = pub.Receive(deadline())
				}
			}
			if err != nil {
				t.Errorf("a publisher has stopped: %v after %+v", err, p)
			}
		})
	}
	after := s.dial("tcp", packet.V5, packet.Connect{ClientID: "after"})
	c := s.dial("tcp", packet.V5, packet.Connect{ClientID: "c"})
	if kept {
		s.leave(c, "c", &packet.Disconnect{})
		c = s.resume(packet.V5, "c", false)
	}
	for i := range rounds {
		filter := *topicOf(i)
		topic.Store(&filter)
		qos := packet.QoS(i % 2)
		sub := &packet.Subscribe{PacketID: uint16(i + 1), Subscriptions: []packet.Subscription{{Filter: filter, QoS: qos}}}
		for k := range 40 { // so that it takes a while
			sub.Subscriptions = append(sub.Subscriptions, packet.Subscription{Filter: fmt.Sprint("quiet/", k), QoS: qos})
		}
		send(t, c, sub)
		for acknowledged := false; !acknowledged; {
			p, err := c.Receive(deadline())
			if err != nil {
				t.Fatal(err)
			}
			switch p := p.(type) {
			case *packet.Suback:
				acknowledged = true
			case *packet.Publish: // of the subscription before
				if string(p.Topic) == filter {
					t.Fatalf("subscription %d: a message has come before SUBACK", i)
				}
				confirm(t, c, p)
			}
		}
		send(t, after, &packet.Publish{Topic: []byte(filter), Payload: []byte("after")})
		for came := false; !came; {
			p, err := c.Receive(deadline())
			if err != nil {
				t.Fatalf("subscription %d: what was published after SUBACK does not come: %v", i, err)
			}
			if p, ok := p.(*packet.Publish); ok {
				came = string(p.Payload) == "after" && string(p.Topic) == filter
				confirm(t, c, p)
			}
		}
		send(t, c, &packet.Unsubscribe{PacketID: uint16(i + 1), Filters: []string{filter}})
	}
	s.cut(c, "c")
}
