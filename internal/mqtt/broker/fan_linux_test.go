package broker_test

import (
	"fmt"
	"strings"
	"testing"

	"rollcall/internal/disconnect"

	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/mqtt/session"
)

// TestFanLeavesTheLoop: while a message goes to very many connected clients, the
// loop serves others. A client that is the last to get the message, and whose
// PINGREQ has arrived right behind it, is answered before it gets the message.
func TestFanLeavesTheLoop(t *testing.T) {
	const clients = 600 // more than two slices
	for _, shared := range []bool{false, true} {
		name := "clients"
		if shared {
			name = "share groups"
		}
		t.Run(name, func(t *testing.T) {
			s := start(t, settings{broker: broker.Options{Loops: 1}, session: func(c *session.Config) { c.SharedAvailable = true }})
			var last *peer.Conn
			for i := range clients {
				last = s.dial("tcp", packet.V5, packet.Connect{ClientID: string(rune('a'+i%26)) + string(rune(0x4e00+i))})
				if shared {
					subscribe(t, last, packet.QoS0, "$share/"+string(rune(0x4e00+i))+"/t")
				} else {
					subscribe(t, last, packet.QoS0, "t")
				}
			}
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			release := s.b.HoldLoop()
			send(t, pub, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS1, PacketID: 1})
			send(t, last, &packet.Pingreq{})
			release()
			receive[*packet.Pingresp](t, last)
			receive[*packet.Publish](t, last)
			receive[*packet.Puback](t, pub)
		})
	}
}

// wide has so many clients subscribe that a message for them takes several
// turns of the loop, and returns the last of them.
func (s *server) wide(filter string) (last *peer.Conn) {
	for i := range 1000 {
		last = s.dial("tcp", packet.V5, packet.Connect{ClientID: fmt.Sprint("s", i)})
		subscribe(s.t, last, packet.QoS0, filter)
	}
	return last
}

// midFan has first called, which sends a message that goes to very many, and more
// perhaps, and returns when that is handled and the message is under way. The
// loop stands still until release is called.
func (s *server) midFan(first func()) (release func()) {
	s.t.Helper()
	begin := s.b.HoldLoop()
	first()
	held, release := s.b.HoldNextTurn()
	begin()
	<-held
	return release
}

// TestLastWordsBehindAFan: a client that has said good-bye right behind a message
// for very many, and whose connection is reset while that is on its way, has left
// by itself: its Will is not published.
func TestLastWordsBehindAFan(t *testing.T) {
	for _, subscribed := range []bool{false, true} {
		t.Run(fmt.Sprint("subscribed ", subscribed), func(t *testing.T) {
			s := start(t, settings{broker: broker.Options{Loops: 1}})
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub", Will: &packet.Will{Topic: []byte("will")}})
			if subscribed { // it is written to
				subscribe(t, pub, packet.QoS0, "t")
			}
			last := s.wide("t")
			subscribe(t, last, packet.QoS0, "will")
			release := s.midFan(func() {
				send(t, pub, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS1, PacketID: 1}, &packet.Disconnect{})
			})
			if err := pub.Abort(); err != nil {
				t.Fatal(err)
			}
			release()
			if p := receive[*packet.Publish](t, last); string(p.Topic) != "t" {
				t.Errorf("%s", p.Topic)
			}
			ts := s.history("pub")
			if why := ts[len(ts)-1].Reason; why != disconnect.ClientInitiatedDisconnect {
				t.Errorf("%s", why)
			}
			send(t, last, &packet.Pingreq{})
			receive[*packet.Pingresp](t, last)
		})
	}
}

// TestUnsubscribeFromAFan: after UNSUBACK a client gets no message for the filter
// that was on its way to very many [MQTT-3.10.4-2], and one that it has another
// subscription to comes by that.
func TestUnsubscribeFromAFan(t *testing.T) {
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprint("stored ", stored), func(t *testing.T) {
			s := start(t, settings{broker: broker.Options{Loops: 1}, session: func(c *session.Config) { c.SubscriptionIDAvailable = true }})
			s.wide("+") // found before t
			connect := packet.Connect{ClientID: "one"}
			if stored {
				connect.SessionExpiryInterval = 100
			}
			one := s.dial("tcp", packet.V5, connect)
			subscribe(t, one, packet.QoS1, "t")
			connect.ClientID = "two"
			two := s.dial("tcp", packet.V5, connect)
			for i, filter := range []string{"t", "+"} {
				send(t, two, &packet.Subscribe{PacketID: 1, SubscriptionIdentifier: uint32(i + 1),
					Subscriptions: []packet.Subscription{{Filter: filter, QoS: packet.QoS1}}})
				receive[*packet.Suback](t, two)
			}
			n := s.metric("rollcall_mqtt_subscriptions")
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			release := s.midFan(func() {
				send(t, pub, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS0})
				send(t, one, &packet.Unsubscribe{PacketID: 2, Filters: []string{"t"}})
				send(t, two, &packet.Unsubscribe{PacketID: 2, Filters: []string{"t"}})
			})
			if !eventually(func() bool { return s.metric("rollcall_mqtt_subscriptions") == n-2 }) {
				t.Error("the subscriptions stay")
			}
			release()
			receive[*packet.Unsuback](t, one)
			receive[*packet.Unsuback](t, two)
			if p := receive[*packet.Publish](t, two); fmt.Sprint(p.SubscriptionIdentifiers) != "[2]" {
				t.Errorf("it comes by %v", p.SubscriptionIdentifiers)
			}
			for _, c := range []*peer.Conn{one, two} {
				send(t, c, &packet.Pingreq{})
				receive[*packet.Pingresp](t, c)
				send(t, c, &packet.Disconnect{SessionExpiryInterval: packet.Some[uint32](0)})
			}
		})
	}
}

// TestMemberLeavesDuringAFan: a message that is on its way to very many goes to
// another member of a shared subscription if the one that it was meant for has
// unsubscribed.
func TestMemberLeavesDuringAFan(t *testing.T) {
	s := start(t, settings{broker: broker.Options{Loops: 1}, session: func(c *session.Config) { c.SharedAvailable = true }})
	s.wide("t")
	const filter = "$share/g/t"
	one := s.dial("tcp", packet.V5, packet.Connect{ClientID: "one"})
	subscribe(t, one, packet.QoS1, filter)
	two := s.dial("tcp", packet.V5, packet.Connect{ClientID: "two"})
	subscribe(t, two, packet.QoS1, filter)
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	s.midFan(func() {
		send(t, pub, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS1, PacketID: 1})
		send(t, one, &packet.Unsubscribe{PacketID: 2, Filters: []string{filter}})
	})()
	receive[*packet.Unsuback](t, one)
	receive[*packet.Puback](t, pub)
	receive[*packet.Publish](t, two)
}

// TestFansAreBounded: what messages for very many hold that are on their way at
// once does not grow with their number.
func TestFansAreBounded(t *testing.T) {
	const clients, filters, publishers = 60, 50, 40
	s := start(t, settings{broker: broker.Options{Loops: 1}})
	var all []string
	for i := range filters {
		levels := strings.Split("a/b/c/d/e/f", "/")
		for l := range levels {
			if i>>l&1 == 1 {
				levels[l] = "+"
			}
		}
		all = append(all, strings.Join(levels, "/"))
	}
	var subs, pubs []*peer.Conn
	for i := range clients {
		c := s.dial("tcp", packet.V5, packet.Connect{ClientID: fmt.Sprint("s", i)})
		subscribe(t, c, packet.QoS0, all...)
		subs = append(subs, c)
	}
	for i := range publishers {
		pubs = append(pubs, s.dial("tcp", packet.V5, packet.Connect{ClientID: fmt.Sprint("p", i)}))
	}
	release := s.midFan(func() {
		for _, c := range pubs {
			send(t, c, &packet.Publish{Topic: []byte("a/b/c/d/e/f"), QoS: packet.QoS1, PacketID: 1})
		}
	})
	most, _ := s.b.Fans()
	release()
	if limit := 1<<16 + clients*filters; most > limit || most < limit/2 {
		t.Errorf("fans hold %d subscriptions, the limit is %d", most, limit)
	}
	for _, c := range pubs {
		receive[*packet.Puback](t, c)
	}
	for _, c := range subs {
		for range publishers {
			receive[*packet.Publish](t, c)
		}
	}
	release = s.b.HoldLoop()
	defer release()
	if _, kept := s.b.Fans(); kept > 4 {
		t.Errorf("%d fans are kept for later", kept)
	}
}

// TestWillOnItsWayIsWaitedFor: a connection whose Will goes to very many is one of
// the server's until all have it.
func TestWillOnItsWayIsWaitedFor(t *testing.T) {
	s := start(t, settings{broker: broker.Options{Loops: 1}})
	last := s.wide("t")
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub", Will: &packet.Will{Topic: []byte("t")}})
	n := s.b.Connections()
	release := s.midFan(func() {
		if err := pub.Abort(); err != nil {
			t.Fatal(err)
		}
	})
	if now := s.b.Connections(); now != n {
		t.Errorf("%d connections, want %d", now, n)
	}
	release()
	receive[*packet.Publish](t, last)
	if !eventually(func() bool { return s.b.Connections() == n-1 }) {
		t.Error("the connection stays")
	}
}

// TestRetainedOnItsWayComesOnce: a client whose retained messages are being sent is
// not sent what was just published as retained, too, while that is on its way to
// very many.
func TestRetainedOnItsWayComesOnce(t *testing.T) {
	s := start(t, settings{broker: broker.Options{Loops: 1}, session: func(c *session.Config) { c.RetainAvailable = true }})
	s.wide("t")
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	retain := func(topic string) {
		send(t, pub, &packet.Publish{Topic: []byte(topic), Payload: []byte("x"), QoS: packet.QoS1, PacketID: 1, Retain: true})
	}
	for _, topic := range []string{"a", "b"} {
		retain(topic)
		receive[*packet.Puback](t, pub)
	}
	sub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "sub", ReceiveMaximum: 1})
	subscribe(t, sub, packet.QoS1, "a", "b", "t")
	first := receive[*packet.Publish](t, sub) // its acknowledgement makes room for b
	release := s.midFan(func() { retain("t") })
	if !eventually(func() bool { return s.b.Retained() == 3 }) {
		t.Error("it is not retained")
	}
	send(t, sub, &packet.Puback{PacketID: first.PacketID})
	held, again := s.b.HoldNextTurn()
	release()
	<-held
	if !eventually(func() bool { return !s.b.Replaying("sub") }) {
		t.Error("retained messages are being sent still")
	}
	again()
	for _, topic := range []string{"b", "t"} {
		p := receive[*packet.Publish](t, sub)
		if string(p.Topic) != topic {
			t.Errorf("%s, want %s", p.Topic, topic)
		}
		send(t, sub, &packet.Puback{PacketID: p.PacketID})
	}
	send(t, sub, &packet.Pingreq{})
	receive[*packet.Pingresp](t, sub)
	receive[*packet.Puback](t, pub)
}
