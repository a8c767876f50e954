package broker_test

import (
	"testing"
	"time"

	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
)

// TestLastWordsToASlowReader: a client that takes bytes more slowly than it is sent
// to has its time for the DISCONNECT from the end on, however long nothing was seen
// to be taken before.
func TestLastWordsToASlowReader(t *testing.T) {
	for _, transport := range []string{"tcp", "tls"} {
		t.Run(transport, func(t *testing.T) {
			hand := handClock()
			s := start(t, settings{broker: broker.Options{Clock: hand, OutputBytes: 32 << 10, WriteTimeout: 30 * time.Second}})
			slow := s.dial(transport, packet.V5, packet.Connect{ClientID: "slow"})
			subscribe(t, slow, packet.QoS0, "t")
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			payload := make([]byte, 64<<10)
			for id := uint16(1); s.metric("rollcall_mqtt_messages_dropped_total", "congested") == 0; id++ {
				send(t, pub, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS1, PacketID: id, Payload: payload})
				receive[*packet.Puback](t, pub)
			}
			for range 7 { // s, which is less than how often progress is looked at
				hand.Advance(time.Second)
			}
			s.b.End(realm, "slow", "")
			for range 4 {
				hand.Advance(time.Second)
			}
			for {
				p, err := slow.Receive(time.Now().Add(patience))
				if err != nil {
					t.Fatalf("no DISCONNECT: %v", err)
				}
				if d, ok := p.(*packet.Disconnect); ok {
					if d.ReasonCode != packet.AdministrativeAction {
						t.Error(d.ReasonCode)
					}
					break
				}
			}
		})
	}
}
