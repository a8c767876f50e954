package broker_test

import (
	"fmt"
	"testing"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
)

// TestFanKeepsOrder: messages that go to very many clients, all sent at once, come
// to each in the publisher's order, its Will last; and what a second connection
// of the publisher's sends comes after that. All that is acknowledged has come.
func TestFanKeepsOrder(t *testing.T) {
	const clients, messages = 600, 12
	for _, how := range []string{"lost", "taken over"} {
		t.Run(how, func(t *testing.T) {
			s := start(t, settings{})
			var subs []*peer.Conn
			for i := range clients {
				c := s.dial("tcp", packet.V5, packet.Connect{ClientID: fmt.Sprint("s", i), ReceiveMaximum: 100})
				subscribe(t, c, packet.QoS(i%2), "t")
				subs = append(subs, c)
			}
			connect := packet.Connect{ClientID: "pub", CleanStart: true, Will: &packet.Will{Topic: []byte("t"), Payload: []byte("will")}}
			pub := s.dial("tcp", packet.V5, connect)
			for i := range messages {
				send(t, pub, &packet.Publish{Topic: []byte("t"), Payload: fmt.Append(nil, i), QoS: packet.QoS(i % 2), PacketID: uint16(i % 2 * (i + 1))})
			}
			if how == "lost" {
				for i := 1; i < messages; i += 2 {
					if ack := receive[*packet.Puback](t, pub); int(ack.PacketID) != i+1 {
						t.Fatalf("PUBACK of %d, want %d", ack.PacketID, i+1)
					}
				}
				pub.Close()
			}
			again := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub", CleanStart: true})
			put(t, again, packet.QoS1, 1, "t", "again")
			for _, c := range subs {
				for i := range messages + 2 {
					want := fmt.Sprint(i)
					switch i {
					case messages:
						want = "will"
					case messages + 1:
						want = "again"
					}
					if p := receive[*packet.Publish](t, c); string(p.Payload) != want {
						t.Fatalf("%q, want %q", p.Payload, want)
					}
				}
			}
		})
	}
}
