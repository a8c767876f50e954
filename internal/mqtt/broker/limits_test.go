package broker_test

import (
	"fmt"
	"strings"
	"testing"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/topic"
	"rollcall/internal/store/mem"
)

// subscribeTo sends one SUBSCRIBE for n filters and returns how many were
// granted, and that the others were refused with 0x97.
func subscribeTo(t *testing.T, c *peer.Conn, n int, filter func(i int) string) (granted int) {
	t.Helper()
	p := &packet.Subscribe{PacketID: 1}
	for i := range n {
		p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: filter(i)})
	}
	send(t, c, p)
	for i, code := range receive[*packet.Suback](t, c).ReasonCodes {
		switch code {
		case packet.QuotaExceeded:
		case packet.Success:
			granted++
		default:
			t.Fatalf("filter %d: %s", i, code)
		}
	}
	return granted
}

// TestSubscriptionMemory: the memory that the subscriptions of one session, and
// of all, take is bounded, also by filters of many short levels and by shared
// ones. What is refused is told with 0x97, and is not there: after room has been
// made it can be subscribed to.
func TestSubscriptionMemory(t *testing.T) {
	const perSession, all = 100_000, 250_000
	filters := map[string]func(i int) string{
		"long":   func(i int) string { return fmt.Sprintf("%d%s", i, strings.Repeat("x", 5000)) },
		"deep":   func(i int) string { return fmt.Sprintf("%d%s", i, strings.Repeat("/", 15)) },
		"shared": func(i int) string { return fmt.Sprintf("$share/g/%d%s", i, strings.Repeat("x", 5000)) },
	}
	for name, filter := range filters {
		for _, expiry := range []uint32{0, 100} {
			t.Run(fmt.Sprintf("%s, expiry %d", name, expiry), func(t *testing.T) {
				s := start(t, durable(mem.New(), func(o *settings) { o.broker.SubscriptionBytes = all },
					with(func(c *session.Config) { c.MaxSubscriptions, c.MaxSubscriptionBytes = 1000, perSession })))
				var clients []*peer.Conn
				total := 0
				for k := range 4 {
					c := s.dial("tcp", packet.V5, packet.Connect{ClientID: fmt.Sprint("c", k), SessionExpiryInterval: expiry})
					own := func(i int) string { return strings.Replace(filter(i), "/g/", fmt.Sprintf("/g%d/", k), 1) }
					n := subscribeTo(t, c, 100, own)
					if weight := n * topic.Weight(own(0)); weight > perSession || k < 2 && name != "shared" && weight < perSession*8/10 {
						t.Errorf("client %d was granted %d subscriptions of %d bytes", k, n, weight)
					}
					total += n * topic.Weight(own(0))
					clients = append(clients, c)
				}
				if total > all || name != "shared" && total < all*8/10 { // a group counts beside its members
					t.Errorf("subscriptions of %d bytes were granted, of %d", total, all)
				}
				send(t, clients[0], &packet.Disconnect{SessionExpiryInterval: packet.Some[uint32](0)})
				closed(t, clients[0])
				own := func(i int) string { return strings.Replace(filter(99-i), "/g/", "/g3/", 1) }
				if !eventually(func() bool { return subscribeTo(t, clients[3], 1, own) == 1 }) {
					t.Error("there is no room after a client has gone")
				}
			})
		}
	}
}

// TestRefusedSubscriptionIsNotThere: what the driver has refused the session does
// not count as a subscription: it can be had later, as a new one.
func TestRefusedSubscriptionIsNotThere(t *testing.T) {
	s := start(t, durable(mem.New(), func(o *settings) { o.broker.SubscriptionBytes = int64(topic.Weight("a")) }))
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	put2 := &packet.Publish{Topic: []byte("b"), Payload: []byte("kept"), Retain: true, QoS: packet.QoS1, PacketID: 1}
	send(t, pub, put2)
	receive[*packet.Puback](t, pub)
	c := s.dial("tcp", packet.V5, packet.Connect{ClientID: "c"})
	if n := subscribeTo(t, c, 2, func(i int) string { return []string{"a", "b"}[i] }); n != 1 {
		t.Fatalf("%d were granted", n)
	}
	send(t, c, &packet.Unsubscribe{PacketID: 2, Filters: []string{"a", "b"}})
	if ack := receive[*packet.Unsuback](t, c); ack.ReasonCodes[0] != packet.Success || ack.ReasonCodes[1] != packet.NoSubscriptionExisted {
		t.Errorf("UNSUBACK %v", ack.ReasonCodes)
	}
	send(t, c, &packet.Subscribe{PacketID: 3, Subscriptions: []packet.Subscription{{Filter: "b", RetainHandling: 1}}})
	receive[*packet.Suback](t, c)
	take(t, c, "kept")
}

// TestTooManyMatches: a client whose subscriptions match one topic more often
// than they may is ended by the next message to it, with its session; so is one
// with as many shared subscriptions. Others get the message.
func TestTooManyMatches(t *testing.T) {
	combine := func(i int) string { // all match a/a/a/a/a/a
		levels := make([]string, 6)
		for k := range levels {
			levels[k] = "a"
			if i>>k&1 != 0 {
				levels[k] = "+"
			}
		}
		return strings.Join(levels, "/")
	}
	for name, filter := range map[string]func(i int) string{
		"overlapping": combine,
		"shared":      func(i int) string { return fmt.Sprintf("$share/g%d/a/a/a/a/a/a", i) },
	} {
		for _, how := range []string{"clean", "stored", "away"} {
			t.Run(name+", "+how, func(t *testing.T) {
				s := start(t, durable(mem.New(), func(o *settings) { o.broker.MaxMatches = 20 },
					with(func(c *session.Config) { c.MaxSubscriptions = 0 })))
				honest := s.dial("tcp", packet.V5, packet.Connect{ClientID: "honest"})
				if n := subscribeTo(t, honest, 20, combine); n != 20 {
					t.Fatalf("%d were granted", n)
				}
				expiry := uint32(0)
				if how != "clean" {
					expiry = never
				}
				c := s.dial("tcp", packet.V5, packet.Connect{ClientID: "c", SessionExpiryInterval: expiry})
				p := &packet.Subscribe{PacketID: 1}
				for i := range 64 {
					p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: filter(i), QoS: packet.QoS1})
				}
				send(t, c, p)
				receive[*packet.Suback](t, c)
				if how == "away" {
					s.cut(c, "c")
				}
				pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
				put(t, pub, packet.QoS1, 1, "a/a/a/a/a/a", "x")
				take(t, honest, "x")
				if how != "away" {
					if d := receive[*packet.Disconnect](t, c); d.ReasonCode != packet.QuotaExceeded {
						t.Errorf("DISCONNECT %s", d.ReasonCode)
					}
					closed(t, c)
					ts := s.history("c")
					if last := ts[len(ts)-1]; last.Reason != disconnect.QuotaExceeded || last.Evidence.Kind != disconnect.Limit {
						t.Errorf("%s: %+v", last.Reason, last.Evidence)
					}
				}
				if !eventually(func() bool { return s.metric("rollcall_mqtt_subscriptions") == 20 }) {
					t.Errorf("%v subscriptions are left", s.metric("rollcall_mqtt_subscriptions"))
				}
				if _, ack := s.connect(packet.V5, packet.Connect{ClientID: "c", SessionExpiryInterval: never}); ack.SessionPresent {
					t.Error("the session is still there")
				}
			})
		}
	}
}

// TestWideMessagesInOrder: where messages go to many, their publisher is handled
// in slices; all arrive, in order, and so does its good-bye.
func TestWideMessagesInOrder(t *testing.T) {
	s := start(t, durable(mem.New(), func(o *settings) { o.broker.Loops = 1 }, with(func(c *session.Config) { c.MaxSubscriptions = 0 })))
	const n = 300
	c := s.dial("tcp", packet.V5, packet.Connect{ClientID: "c"})
	if got := subscribeTo(t, c, 1024, func(i int) string { // 1,024 filters that match
		levels := make([]string, 10)
		for k := range levels {
			levels[k] = "a"
			if i>>k&1 != 0 {
				levels[k] = "+"
			}
		}
		return strings.Join(levels, "/")
	}); got != 1024 {
		t.Fatalf("%d were granted", got)
	}
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub", Will: lastWill("lost", 0)})
	var all []byte
	for i := range n {
		all = append(all, encode(t, packet.V5, &packet.Publish{Topic: []byte("a/a/a/a/a/a/a/a/a/a"), Payload: fmt.Append(nil, i)})...)
	}
	if err := pub.Write(append(all, encode(t, packet.V5, &packet.Disconnect{})...)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if p := receive[*packet.Publish](t, c); string(p.Payload) != fmt.Sprint(i) {
			t.Fatalf("received %q instead of %d", p.Payload, i)
		}
	}
	ts := s.history("pub")
	if last := ts[len(ts)-1]; last.Reason != disconnect.ClientInitiatedDisconnect {
		t.Errorf("%+v", last)
	}
}
