package broker_test

import (
	"context"
	"fmt"
	"testing"

	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
)

// Clients whose proof takes long to judge, however many, keep nobody else from
// being let in, and no stored session from being fed.
func TestPendingAnswersHoldNobody(t *testing.T) {
	s := start(t, settings{keeps: true})
	release := make(chan struct{})
	s.gate.slow = true
	s.gate.set(func(_ context.Context, c broker.Credentials) (broker.Identity, error) {
		if len(c.Password) > 0 {
			<-release
			return broker.Identity{}, &broker.Refusal{Code: packet.BadUserNameOrPassword, Text: "wrong"}
		}
		return broker.Identity{AuthenticationName: c.ClientID, Method: "anonymous"}, nil
	})
	keeper := s.open("tcp", packet.V5)
	send(t, keeper, &packet.Connect{ClientID: "keeper", SessionExpiryInterval: 1000, ReceiveMaximum: 65535})
	receive[*packet.Connack](t, keeper)
	subscribe(t, keeper, packet.QoS1, "t")
	keeper.Disconnect()

	for i := range 600 { // more than the broker has workers
		c := s.open("tcp", packet.V5)
		send(t, c, &packet.Connect{ClientID: fmt.Sprint("stranger-", i), UserName: packet.Some("x"), Password: []byte("x")})
	}
	from := s.dial("tcp", packet.V5, packet.Connect{ClientID: "from"})
	for i := range 100 {
		send(t, from, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS1, PacketID: uint16(i + 1)})
	}
	for range 100 {
		receive[*packet.Puback](t, from)
	}
	again := s.open("tcp", packet.V5)
	send(t, again, &packet.Connect{ClientID: "keeper", SessionExpiryInterval: 1000, ReceiveMaximum: 65535})
	receive[*packet.Connack](t, again)
	for range 100 {
		send(t, again, &packet.Puback{PacketID: receive[*packet.Publish](t, again).PacketID})
	}
	close(release)
}
