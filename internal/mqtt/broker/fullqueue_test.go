package broker_test

import (
	"fmt"
	"testing"
	"time"

	"rollcall/internal/clock/clocktest"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
)

// shortQueue gives sessions queues of 20 messages.
func shortQueue(c *session.Config) { c.QueueMessages = 20 }

// ephemeral publishes a message with QoS 1 that expires.
func ephemeral(t *testing.T, c *peer.Conn, payload string, seconds uint32) {
	t.Helper()
	send(t, c, &packet.Publish{Topic: []byte("t"), Payload: []byte(payload), QoS: packet.QoS1, PacketID: 1, MessageExpiryInterval: packet.Some(seconds)})
	if p := receive[*packet.Puback](t, c); p.ReasonCode.Failed() {
		t.Fatalf("PUBACK %+v", p)
	}
}

// TestExpiredMessagesFillNoQueue: what has expired does not count against the
// queue of a session that sleeps [MQTT-3.3.2-5], also after a restart, and alone
// among others that do not expire. What lives comes.
func TestExpiredMessagesFillNoQueue(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		hand := clocktest.NewHand(time.Now())
		settings := durable(e, with(shortQueue), func(o *settings) { o.broker.Clock = hand })
		t.Run("before", func(t *testing.T) {
			s := start(t, settings)
			c := s.resume(packet.V5, "c", false)
			subscribe(t, c, packet.QoS1, "t")
			s.cut(c, "c")
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			put(t, pub, packet.QoS1, 1, "t", "stays")
			for i := range 100 {
				ephemeral(t, pub, fmt.Sprint(i), 10)
				hand.Advance(time.Second)
			}
		})
		t.Run("after", func(t *testing.T) {
			s := start(t, settings)
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			hand.Advance(10 * time.Second)
			for i := range 50 {
				ephemeral(t, pub, fmt.Sprint("again ", i), 10)
				hand.Advance(time.Second)
			}
			c := s.resume(packet.V5, "c", true)
			take(t, c, "stays")
			p := receive[*packet.Publish](t, c)
			var first int
			if _, err := fmt.Sscanf(string(p.Payload), "again %d", &first); err != nil || first < 40 || first > 41 {
				t.Fatalf("received %q", p.Payload)
			}
			confirm(t, c, p)
			for i := first + 1; i < 50; i++ {
				take(t, c, fmt.Sprint("again ", i))
			}
			silent(t, c)
		})
	})
}

// drain takes n messages to the end, whatever comes between, and returns their
// payloads. The PUBREL of as many messages as are open is to come besides.
func drain(t *testing.T, c *peer.Conn, n, open int) (payloads []string) {
	t.Helper()
	for len(payloads) < n || open > 0 {
		p, err := c.Receive(deadline())
		if err != nil {
			t.Fatalf("after %q: %v", payloads, err)
		}
		switch p := p.(type) {
		case *packet.Publish:
			payloads = append(payloads, string(p.Payload))
			if p.QoS == packet.QoS1 {
				send(t, c, &packet.Puback{PacketID: p.PacketID})
				break
			}
			open++
			send(t, c, &packet.Pubrec{PacketID: p.PacketID})
		case *packet.Pubrel:
			open--
			send(t, c, &packet.Pubcomp{PacketID: p.PacketID})
		default:
			t.Fatalf("received %s", p.Type())
		}
	}
	return payloads
}

// TestFullQueueDrops: where the queue of a session that sleeps drops messages,
// the session goes on with its subscriptions, and what is dropped is what the
// setting says, counted by session and in all.
func TestFullQueueDrops(t *testing.T) {
	for _, policy := range []broker.FullQueue{broker.DropOldest, broker.DropNewest} {
		for _, v := range []packet.Version{packet.V311, packet.V5} {
			for _, qos := range []packet.QoS{packet.QoS1, packet.QoS2} {
				t.Run(fmt.Sprintf("policy %d, version %d, QoS %d", policy, v, qos), func(t *testing.T) {
					everyEngine(t, func(t *testing.T, e store.Engine) {
						settings := durable(e, with(shortQueue), func(o *settings) { o.broker.FullQueue = policy })
						t.Run("before", func(t *testing.T) {
							s := start(t, settings)
							c := s.resume(v, "c", false)
							subscribe(t, c, qos, "t")
							s.cut(c, "c")
							pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
							for i := range 60 {
								put(t, pub, qos, 1, "t", fmt.Sprint(i))
							}
							if n := s.metric("rollcall_mqtt_messages_dropped_total", "queue_full"); n != 40 {
								t.Errorf("%v messages were dropped, want 40", n)
							}
							if q, ok, err := s.b.View(realm, "c"); !ok || err != nil || q.Queue.Dropped != 40 || q.Queue.Messages != 20 {
								t.Errorf("queue %+v", q)
							}
						})
						t.Run("after", func(t *testing.T) {
							s := start(t, settings)
							pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
							for i := range 10 {
								put(t, pub, qos, 1, "t", fmt.Sprint(60+i))
							}
							c := s.resume(v, "c", true)
							from := 50
							if policy == broker.DropNewest {
								from = 0
							}
							if policy == broker.DropOldest && qos == packet.QoS2 { // the oldest may have been sent before the restart
								from = 40
							}
							last := -1
							for _, text := range drain(t, c, 20, 0) {
								var n int
								if _, err := fmt.Sscan(text, &n); err != nil || n <= last || n < from {
									t.Fatalf("received %q after %d", text, last)
								}
								last = n
							}
							if policy == broker.DropNewest && last != 19 || policy == broker.DropOldest && last != 69 {
								t.Errorf("the last message is %d", last)
							}
							silent(t, c)
							put(t, pub, qos, 1, "t", "new")
							take(t, c, "new")
						})
					})
				})
			}
		}
	}
}

// TestFullQueueOfReader: a client that is connected and does not acknowledge
// loses the oldest of what it was not sent, and nothing that it was.
func TestFullQueueOfReader(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		s := start(t, durable(e, with(shortQueue), func(o *settings) { o.broker.FullQueue = broker.DropOldest }))
		c, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", ReceiveMaximum: 5})
		subscribe(t, c, packet.QoS2, "t")
		pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
		for i := range 50 {
			put(t, pub, packet.QoS2, 1, "t", fmt.Sprint(i))
		}
		var sent []*packet.Publish
		for i := range 5 {
			p := receive[*packet.Publish](t, c)
			if string(p.Payload) != fmt.Sprint(i) {
				t.Fatalf("received %q instead of %d", p.Payload, i)
			}
			sent = append(sent, p)
		}
		for i, p := range sent {
			send(t, c, &packet.Pubrec{PacketID: p.PacketID})
			receive[*packet.Pubrel](t, c)
			send(t, c, &packet.Pubcomp{PacketID: p.PacketID})
			next := receive[*packet.Publish](t, c)
			if want := fmt.Sprint(35 + i); string(next.Payload) != want {
				t.Fatalf("received %q instead of %s", next.Payload, want)
			}
			sent[i] = next
		}
		for _, p := range sent {
			send(t, c, &packet.Pubrec{PacketID: p.PacketID})
		}
		for i, text := range drain(t, c, 10, len(sent)) {
			if want := fmt.Sprint(40 + i); text != want {
				t.Fatalf("received %q instead of %s", text, want)
			}
		}
		silent(t, c)
	})
}

// TestQueueBytesAddUp: what a session has been sent and has acknowledged counts
// no longer, however it came: of 200 messages, one at a time, none is left in
// the account.
func TestQueueBytesAddUp(t *testing.T) {
	for _, qos := range []packet.QoS{packet.QoS1, packet.QoS2} {
		everyEngine(t, func(t *testing.T, e store.Engine) {
			s := start(t, durable(e, with(func(c *session.Config) { c.QueueBytes = 4 << 10 })))
			c := s.resume(packet.V5, "c", false)
			subscribe(t, c, qos, "t")
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			for i := range 100 {
				s.cut(c, "c")
				put(t, pub, qos, 1, "t", fmt.Sprint(i))
				c = s.resume(packet.V5, "c", true)
				if qos == packet.QoS1 {
					take(t, c, fmt.Sprint(i))
					continue
				}
				p := receive[*packet.Publish](t, c)
				send(t, c, &packet.Pubrec{PacketID: p.PacketID})
				receive[*packet.Pubrel](t, c)
				s.cut(c, "c")
				c = s.resume(packet.V5, "c", true)
				receive[*packet.Pubrel](t, c)
				send(t, c, &packet.Pubcomp{PacketID: p.PacketID})
			}
			if !eventually(func() bool {
				v, ok, err := s.b.View(realm, "c")
				return ok && err == nil && v.Queue.Messages == 0 && v.Queue.Bytes == 0
			}) {
				v, _, err := s.b.View(realm, "c")
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
}
