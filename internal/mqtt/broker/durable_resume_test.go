package broker_test

import (
	"fmt"
	"testing"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

// TestResume: however a client of a stored session went, what it has not
// acknowledged comes again with DUP and the same packet identifiers, then
// what came meanwhile, in order and once.
func TestResume(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		for _, how := range []string{"disconnect", "abort", "take-over", "restart"} {
			t.Run(v.String()+" "+how, func(t *testing.T) {
				everyEngine(t, func(t *testing.T, e store.Engine) {
					var sent []*packet.Publish
					var c *peer.Conn
					// One life of the server, until the client has gone.
					first := func(s *server) {
						c = s.resume(v, "c", false)
						subscribe(t, c, packet.QoS2, "t")
						pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
						for i, qos := range []packet.QoS{packet.QoS1, packet.QoS2, packet.QoS1} {
							put(t, pub, qos, uint16(i+1), "t", fmt.Sprint(i))
							sent = append(sent, receive[*packet.Publish](t, c))
						}
						switch how {
						case "disconnect":
							s.leave(c, "c", &packet.Disconnect{})
						case "abort":
							s.cut(c, "c")
						}
						if how == "disconnect" || how == "abort" {
							put(t, pub, packet.QoS1, 7, "t", "3")
							put(t, pub, packet.QoS2, 8, "t", "4")
						}
					}
					second := func(s *server) {
						c2 := s.resume(v, "c", true)
						if how == "take-over" || how == "restart" {
							pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
							put(t, pub, packet.QoS1, 7, "t", "3")
							put(t, pub, packet.QoS2, 8, "t", "4")
						}
						var all []*packet.Publish
						for i := range 5 {
							p := receive[*packet.Publish](t, c2)
							if string(p.Payload) != fmt.Sprint(i) || p.Dup != (i < 3) {
								t.Fatalf("message %d: %q, DUP %v", i, p.Payload, p.Dup)
							}
							if i < 3 && p.PacketID != sent[i].PacketID {
								t.Errorf("message %d has identifier %d, and had %d", i, p.PacketID, sent[i].PacketID)
							}
							all = append(all, p)
						}
						for _, p := range all {
							confirm(t, c2, p)
						}
						silent(t, c2)
						s.cut(c2, "c")
						c3 := s.resume(v, "c", true)
						silent(t, c3)
					}
					if how != "restart" {
						s := start(t, durable(e))
						first(s)
						second(s)
						return
					}
					t.Run("before", func(t *testing.T) { first(start(t, durable(e))) })
					t.Run("after", func(t *testing.T) { second(start(t, durable(e))) })
				})
			})
		}
	}
}

// TestExactlyOnceIn: a client that publishes with QoS 2 loses its connection at
// every point of the flow, and each message is routed once.
func TestExactlyOnceIn(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		s := start(t, durable(e))
		stored := s.resume(packet.V5, "stored", false)
		subscribe(t, stored, packet.QoS2, "t")
		clean := s.dial("tcp", packet.V5, packet.Connect{ClientID: "clean"})
		subscribe(t, clean, packet.QoS2, "t")
		c := s.resume(packet.V5, "c", false)
		m := func(i int, dup bool) *packet.Publish {
			return &packet.Publish{Topic: []byte("t"), Payload: fmt.Append(nil, i), QoS: packet.QoS2, PacketID: 7, Dup: dup}
		}
		again := func() {
			s.cut(c, "c")
			c = s.resume(packet.V5, "c", true)
		}
		finish := func(unknown bool) {
			send(t, c, &packet.Pubrel{PacketID: 7})
			if p := receive[*packet.Pubcomp](t, c); !unknown && p.ReasonCode != packet.Success {
				t.Fatalf("PUBCOMP %s", p.ReasonCode)
			}
		}
		n := 0
		for range 5 {
			// Before PUBREC has been read: the client repeats the message.
			send(t, c, m(n, false))
			take(t, stored, fmt.Sprint(n)) // so it has been routed
			again()
			send(t, c, m(n, true))
			receive[*packet.Pubrec](t, c)
			send(t, c, m(n, true)) // and once more on the same connection
			receive[*packet.Pubrec](t, c)
			finish(false)
			n++
			// After PUBREC: PUBREL comes over the next connection.
			send(t, c, m(n, false))
			receive[*packet.Pubrec](t, c)
			again()
			finish(false)
			take(t, stored, fmt.Sprint(n))
			n++
			// After PUBREL, before PUBCOMP has been read: PUBREL is repeated.
			send(t, c, m(n, false))
			receive[*packet.Pubrec](t, c)
			send(t, c, &packet.Pubrel{PacketID: 7})
			again()
			finish(true)
			take(t, stored, fmt.Sprint(n))
			n++
		}
		silent(t, stored)
		for i, payload := range hears(t, clean, fmt.Sprint(n-1)) {
			if payload != fmt.Sprint(i) {
				t.Fatalf("message %d is %s", i, payload)
			}
		}
		quiet(t, clean)
	})
}

// TestExactlyOnceInUnstored: a message that is stored for nobody is routed once
// too, although its publisher repeats it on the next connection.
func TestExactlyOnceInUnstored(t *testing.T) {
	s := start(t, durable(mem.New()))
	clean := s.dial("tcp", packet.V5, packet.Connect{ClientID: "clean"})
	subscribe(t, clean, packet.QoS0, "t")
	c := s.resume(packet.V5, "c", false)
	m := &packet.Publish{Topic: []byte("t"), Payload: []byte("x"), QoS: packet.QoS2, PacketID: 7}
	send(t, c, m)
	take(t, clean, "x")
	s.cut(c, "c")
	c = s.resume(packet.V5, "c", true)
	m.Dup = true
	send(t, c, m)
	receive[*packet.Pubrec](t, c)
	silent(t, clean)
	send(t, c, &packet.Pubrel{PacketID: 7})
	if p := receive[*packet.Pubcomp](t, c); p.ReasonCode != packet.Success {
		t.Errorf("PUBCOMP %s", p.ReasonCode)
	}
}

// TestExactlyOnceOut: a client that is sent QoS 2 loses its connection at every
// point of the flow, and gets each message once.
func TestExactlyOnceOut(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		s := start(t, durable(e))
		c := s.resume(packet.V5, "c", false)
		subscribe(t, c, packet.QoS2, "t")
		pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
		again := func() {
			s.cut(c, "c")
			c = s.resume(packet.V5, "c", true)
		}
		for i := range 4 {
			// Before PUBREC: the message comes again.
			put(t, pub, packet.QoS2, 1, "t", fmt.Sprint(i))
			p := receive[*packet.Publish](t, c)
			again()
			q := receive[*packet.Publish](t, c)
			if q.PacketID != p.PacketID || !q.Dup || string(q.Payload) != fmt.Sprint(i) {
				t.Fatalf("%+v after %+v", q, p)
			}
			// After PUBREC, whether PUBREL was read or not: PUBREL, never the message.
			send(t, c, &packet.Pubrec{PacketID: p.PacketID})
			if i%2 == 0 {
				receive[*packet.Pubrel](t, c)
			}
			again()
			for {
				got, err := c.Receive(deadline())
				if err != nil {
					t.Fatal(err)
				}
				if rel, ok := got.(*packet.Pubrel); ok && rel.PacketID == p.PacketID {
					break
				}
				// The connection may have broken before the PUBREC arrived.
				if dup, ok := got.(*packet.Publish); !ok || i%2 == 0 || !dup.Dup || dup.PacketID != p.PacketID {
					t.Fatalf("received %+v instead of PUBREL", got)
				}
				send(t, c, &packet.Pubrec{PacketID: p.PacketID})
			}
			// After PUBCOMP: nothing, unless it was lost.
			send(t, c, &packet.Pubcomp{PacketID: p.PacketID})
			silent(t, c)
			again()
			silent(t, c)
		}
	})
}

// TestWindow: no more than the client's Receive Maximum comes at once, however
// much waits, and all comes in order.
func TestWindow(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		const n = 90
		s := start(t, durable(e))
		c := s.resume(packet.V5, "c", false)
		subscribe(t, c, packet.QoS2, "t")
		s.leave(c, "c", &packet.Disconnect{})
		pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
		for i := range n {
			put(t, pub, packet.QoS(1+i%2), 1, "t", fmt.Sprint(i))
		}
		c, _ = s.connect(packet.V5, packet.Connect{ClientID: "c", ReceiveMaximum: 3})
		open, next := 0, 0 // messages that are not acknowledged, that have come
		var window []*packet.Publish
		for next < n || open > 0 {
			got, err := c.Receive(deadline())
			if err != nil {
				t.Fatal(err)
			}
			switch p := got.(type) {
			case *packet.Publish:
				if string(p.Payload) != fmt.Sprint(next) {
					t.Fatalf("%q instead of %d", p.Payload, next)
				}
				next++
				if open++; open > 3 {
					t.Fatalf("%d messages are open", open)
				}
				window = append(window, p)
			case *packet.Pubrel:
				open-- // from our PUBCOMP on
				send(t, c, &packet.Pubcomp{PacketID: p.PacketID})
			}
			if open == 3 || next == n {
				for _, p := range window {
					if p.QoS == packet.QoS1 {
						open--
					}
					send(t, c, ackOf(p))
				}
				window = nil
			}
		}
		silent(t, c)
	})
}

// TestOrderOfMixedTargets: one publisher, targets that are stored and that are
// not, with large and small messages and reconnects: each hears it in order.
func TestOrderOfMixedTargets(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		const n = 400
		s := start(t, durable(e, with(func(c *session.Config) { c.QueueMessages = 2 * n })))
		stored := s.resume(packet.V311, "stored", false)
		subscribe(t, stored, packet.QoS2, "t/#")
		clean := s.dial("tcp", packet.V5, packet.Connect{ClientID: "clean"})
		subscribe(t, clean, packet.QoS2, "+/x")
		pub := s.dial("tcp", packet.V311, packet.Connect{ClientID: "pub"})
		done := make(chan error, 1)
		go func() {
			var err error
			for i := 0; i < n && err == nil; i++ {
				err = pub.Send(&packet.Publish{Topic: []byte("t/x"), Payload: fmt.Append(nil, i), QoS: packet.QoS1, PacketID: uint16(i + 1)})
			}
			done <- err
		}()
		for i := range n {
			take(t, clean, fmt.Sprint(i))
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if p := receive[*packet.Puback](t, pub); p.PacketID != uint16(i+1) {
				t.Fatalf("PUBACK %d instead of %d", p.PacketID, i+1)
			}
		}
		next := 0
		for next < n { // takes some, breaks off, and comes back
			for k := 0; k < 150 && next < n; k++ {
				take(t, stored, fmt.Sprint(next))
				next++
			}
			send(t, stored, &packet.Pingreq{})
			for pong := false; !pong; { // its acknowledgements have been read
				p, err := stored.Receive(deadline())
				if err != nil {
					t.Fatal(err)
				}
				_, pong = p.(*packet.Pingresp)
			}
			s.cut(stored, "stored")
			stored = s.resume(packet.V311, "stored", true)
		}
		silent(t, stored)
	})
}
