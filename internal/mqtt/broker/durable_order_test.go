package broker_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
)

// TestQueueOnce: a client that always has a few messages to acknowledge gets
// each once, whether it comes to the connection with its commit, out of the
// store before the commit was reported, or late because its outcome was in
// doubt.
func TestQueueOnce(t *testing.T) {
	const publishers, each = 3, 150
	for _, c := range []struct {
		name string
		max  time.Duration // of the engine's delay
		nth  int32         // every nth commit is in doubt at first; 0: none
	}{{"quick", -1, 0}, {"slow", 2 * time.Millisecond, 0}, {"doubtful", 2 * time.Millisecond, 7}} {
		t.Run(c.name, func(t *testing.T) {
			var doubtful atomic.Bool
			var commits atomic.Int32
			s := start(t, durable(delay.New(mem.New(), delay.Options{Max: c.max, Fault: func(b *store.Batch) delay.Fault {
				if doubtful.Load() && b.Class() == store.Normal && commits.Add(1)%c.nth == 0 {
					return delay.UnknownApplied
				}
				return delay.None
			}}), with(func(c *session.Config) { c.QueueMessages = publishers * each })))
			sub, _ := s.connect(packet.V5, packet.Connect{ClientID: "sub", ReceiveMaximum: 5})
			subscribe(t, sub, packet.QoS2, "t/#")
			var group sync.WaitGroup
			defer group.Wait()
			for i := range publishers {
				pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: fmt.Sprint("pub", i)})
				group.Go(func() { publishAll(t, pub, fmt.Sprint("t/", i), each) })
			}
			doubtful.Store(c.nth > 0)
			seen := make(map[string]bool)
			for completed := 0; len(seen) < publishers*each || completed < publishers*each/2; {
				p, err := sub.Receive(deadline())
				if err != nil {
					t.Fatalf("%v after %d messages", err, len(seen))
				}
				switch p := p.(type) {
				case *packet.Publish:
					if what := fmt.Sprintf("%s %s", p.Topic, p.Payload); seen[what] {
						t.Fatalf("%s has come twice", what)
					} else {
						seen[what] = true
					}
					send(t, sub, ackOf(p))
				case *packet.Pubrel:
					completed++
					send(t, sub, &packet.Pubcomp{PacketID: p.PacketID})
				default:
					t.Fatalf("received %+v", p)
				}
			}
			doubtful.Store(false)
			quiet(t, sub)
		})
	}
}

// publishAll publishes n messages, half of them with QoS 2, and waits until all
// are taken.
func publishAll(t *testing.T, c *peer.Conn, topic string, n int) {
	for i := range n {
		err := c.Send(&packet.Publish{Topic: []byte(topic), Payload: fmt.Append(nil, i), QoS: packet.QoS(1 + i%2), PacketID: uint16(i + 1)})
		for done := false; err == nil && !done; {
			var p packet.Packet
			switch p, err = c.Receive(deadline()); p := p.(type) {
			case *packet.Pubrec:
				err = c.Send(&packet.Pubrel{PacketID: p.PacketID})
			case *packet.Puback, *packet.Pubcomp:
				done = true
			}
		}
		if err != nil {
			t.Errorf("%s, message %d: %v", topic, i, err)
			return
		}
	}
}
