package broker_test

import (
	"testing"

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
