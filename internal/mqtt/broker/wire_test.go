package broker_test

import (
	"bytes"
	"testing"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
)

// Clients say hello with these.
const (
	hello311 = "10 0d 0004 4d515454 04 02 0000 0001 63"
	hello5   = "10 10 0004 4d515454 05 02 0000 02 1701 0001 63" // Request Problem Information 1
	quiet5   = "10 10 0004 4d515454 05 02 0000 02 1700 0001 63" // Request Problem Information 0
	ok311    = "20 02 00 00"
	ok5      = "20 18 00 00 15 21 0064 24 01 25 00 27 00100000 22 0004 28 01 29 00 2a 00"
)

// TestConversations sends exact bytes and expects exact bytes until the end.
func TestConversations(t *testing.T) {
	s := start(t, settings{})
	for _, tt := range []struct {
		name, send, want string
		reason           disconnect.Reason // 0: no session
	}{
		{"3.1.1: hello and good-bye", hello311 + "e000", ok311, disconnect.ClientInitiatedDisconnect},
		{"5: hello and good-bye", hello5 + "e000", ok5, disconnect.ClientInitiatedDisconnect},
		{"several packets at once", hello311 + "8206 0001 0001 61 00" + "c000" + "3003 000161" + "e000",
			ok311 + "9003 0001 00" + "d000" + "3003 000161", disconnect.ClientInitiatedDisconnect},
		{"nothing is answered after DISCONNECT", hello311 + "e000 c000 c000", ok311, disconnect.ClientInitiatedDisconnect},
		{"not CONNECT first", "c000", "", 0},
		{"an HTTP request", "474554202f20485454502f312e310d0a0d0a", "", 0},
		{"a TLS hello", "16030100", "", 0},
		{"reserved type", "00 00", "", 0},
		{"another protocol", "10 0d 0004 4d515455 04 02 0000 0001 63", "", 0},
		{"MQTT 3.1", "10 0f 0006 4d5149736470 03 02 0000 0001 63", "2002 00 01", 0},
		{"MQTT 6", "10 0d 0004 4d515454 06 02 0000 0001 63", "", 0}, // checked below: a CONNACK with 0x84
		{"3.1.1: reserved connect flag", "10 0d 0004 4d515454 04 03 0000 0001 63", "", 0},
		{"3.1.1: empty client id, kept session", "10 0c 0004 4d515454 04 00 0000 0000", "2002 00 02", 0},
		{"3.1.1: a second CONNECT", hello311 + hello311, ok311, disconnect.ClientError},
		{"3.1.1: QoS 2", hello311 + "3405 0001 61 0001", ok311, disconnect.ClientError},
		{"3.1.1: QoS 3", hello311 + "3605 0001 61 0001", ok311, disconnect.ClientError},
		{"3.1.1: wildcard in a topic", hello311 + "3003 0001 23", ok311, disconnect.ClientError},
		{"3.1.1: SUBSCRIBE flags", hello311 + "8006 0001 0001 61 00", ok311, disconnect.ClientError},
		{"3.1.1: refused filters", hello311 + "820b 0001 0001 61 00 0002 2b61 01" + "e000", ok311 + "9004 0001 00 80", disconnect.ClientInitiatedDisconnect},
		{"3.1.1: UNSUBSCRIBE of an unknown filter", hello311 + "a205 0001 0001 61" + "e000", ok311 + "b002 0001", disconnect.ClientInitiatedDisconnect},
		{"3.1.1: a packet of the server's", hello311 + "d000", ok311, disconnect.ClientError},
		{"3.1.1: AUTH", hello311 + "f000", ok311, disconnect.ClientError},
		{"3.1.1: reserved topic", hello311 + "3005 0003 245379", ok311, disconnect.ClientAuthorizationError},
		{"3.1.1: body in PINGREQ", hello311 + "c001 00", ok311, disconnect.ClientError},
		{"3.1.1: Remaining Length of five bytes", hello311 + "30 ffffffff01", ok311, disconnect.ClientError},
		{"5: DISCONNECT 0x04", hello5 + "e001 04", ok5, disconnect.ClientInitiatedDisconnect},
		{"5: QoS downgrade and unknown UNSUBSCRIBE", hello5 + "8207 0001 00 0001 61 02" + "a206 0002 00 0001 62" + "e000",
			ok5 + "9004 0001 00 01" + "b004 0002 00 11", disconnect.ClientInitiatedDisconnect},
		{"5: No Local", hello5 + "8207 0001 00 0001 61 04" + "3004 0001 61 00" + "c000 e000",
			ok5 + "9004 0001 00 00" + "d000", disconnect.ClientInitiatedDisconnect},
		{"5: overlapping subscriptions are one delivery at the higher QoS",
			hello5 + "820b 0001 00 0001 61 00 0001 2b 01" + "3206 0001 61 0009 00" + "c000 e000",
			ok5 + "9005 0001 00 00 01" + "3206 0001 61 0001 00" + "4002 0009" + "d000", disconnect.ClientInitiatedDisconnect},
		{"5: PUBACKs in order", hello5 + "3206 0001 61 0005 00" + "3208 0003 245379 0006 00" + "3206 0001 61 0007 00" + "e000",
			ok5 + "4003 0005 10" + "4003 0006 87" + "4003 0007 10", disconnect.ClientInitiatedDisconnect},
		{"5: PUBACKs before the end", quiet5 + "3206 0001 61 0005 00" + "3206 0001 61 0006 00" + "3206 0001 00 0007 00",
			ok5 + "4003 0005 10" + "4003 0006 10" + "e001 81", disconnect.ClientError},
		{"5: PUBACKs before the end, by an alias", quiet5 + "3206 0001 61 0005 00" + "3209 0001 61 0007 03 23 ffff",
			ok5 + "4003 0005 10" + "e001 94", disconnect.ClientError},
		{"5: topic alias", hello5 + "8207 0001 00 0001 61 00" + "3007 0001 61 03 23 0001" + "3006 0000 03 23 0001" + "e000",
			ok5 + "9004 0001 00 00" + "3004 0001 61 00" + "3004 0001 61 00", disconnect.ClientInitiatedDisconnect},
		{"5: message expiry is passed on", hello5 + "8207 0001 00 0001 61 00" + "3009 0001 61 05 02 0000000a" + "e000",
			ok5 + "9004 0001 00 00" + "3009 0001 61 05 02 0000000a", disconnect.ClientInitiatedDisconnect},
		{"5: PUBREL of nothing", hello5 + "6202 0001" + "e000", ok5 + "7003 0001 92", disconnect.ClientInitiatedDisconnect},
		{"5: no problem information", quiet5 + "3208 0003 245379 0006 00" + "e000", ok5 + "4003 0006 87", disconnect.ClientInitiatedDisconnect},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := s.talk(unhex(t, tt.send))
			if tt.name == "MQTT 6" {
				if len(got) < 5 || got[0] != 0x20 || got[3] != 0x84 {
					t.Errorf("got %x", got)
				}
				return
			}
			if want := unhex(t, tt.want); !bytes.Equal(got, want) {
				t.Errorf("got\n%x, want\n%x", got, want)
			}
			if tt.reason == 0 {
				return
			}
			ts := s.history("c")
			if last := ts[len(ts)-1]; last.Reason != tt.reason {
				t.Errorf("reason %s (%+v), want %s", last.Reason, last.Evidence, tt.reason)
			}
		})
	}
}

// TestGoodbyes: what a client of MQTT 5 is told when it breaks a rule.
func TestGoodbyes(t *testing.T) {
	s := start(t, settings{})
	big := make([]byte, 1<<20)
	for _, tt := range []struct {
		name string
		send []byte
		code packet.ReasonCode
	}{
		{"malformed", unhex(t, "c001 00"), packet.MalformedPacket},
		{"protocol error", unhex(t, hello5), packet.ProtocolError},
		{"wildcard in a topic", unhex(t, "3004 0001 23 00"), packet.MalformedPacket},
		{"alias 0", unhex(t, "3007 0001 61 03 23 0000"), packet.TopicAliasInvalid},
		{"alias too high", unhex(t, "3007 0001 61 03 23 0005"), packet.TopicAliasInvalid},
		{"too large", encode(t, packet.V5, &packet.Publish{Topic: []byte("a"), Payload: big})[:10], packet.PacketTooLarge},
		{"QoS 2", unhex(t, "3406 0001 61 0001 00"), packet.QoSNotSupported},
		{"retain", unhex(t, "3104 0001 61 00"), packet.RetainNotSupported},
		{"subscription identifier", unhex(t, "8209 0001 02 0b01 0001 61 00"), packet.SubscriptionIdentifiersNotSupported},
		{"not authorized", unhex(t, "3006 0003 245379 00"), packet.NotAuthorized},
		{"AUTH", unhex(t, "f004 19 02 1500 00"), packet.ProtocolError},
		{"late session expiry", unhex(t, "e007 00 05 11 00000005"), packet.ProtocolError},
		{"payload format", unhex(t, "3007 0001 61 02 0101 ff"), packet.PayloadFormatInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := s.talk(append(unhex(t, hello5), tt.send...))
			ack := unhex(t, ok5)
			if !bytes.HasPrefix(got, ack) || len(got) < len(ack)+3 || got[len(ack)] != 0xe0 || got[len(ack)+2] != byte(tt.code) {
				t.Errorf("got %x, want CONNACK and DISCONNECT 0x%02x", got, uint8(tt.code))
			}
		})
	}
}

// TestClientsWithLittleRoom: a client that cannot take an acknowledgement is
// disconnected instead of left waiting.
func TestClientsWithLittleRoom(t *testing.T) {
	s := start(t, settings{})
	for _, tt := range []struct {
		size uint32
		want []byte
	}{
		{2, nil}, // no CONNACK fits, and nothing goes before it
		{26, append(unhex(t, ok5), 0xe0, 1, 0x95)},
	} {
		hello := encode(t, packet.V5, &packet.Connect{ClientID: "little", CleanStart: true, MaximumPacketSize: tt.size, ReceiveMaximum: 65535})
		sub := &packet.Subscribe{PacketID: 1}
		for range 30 {
			sub.Subscriptions = append(sub.Subscriptions, packet.Subscription{Filter: "a"})
		}
		got := s.talk(append(hello, encode(t, packet.V5, sub)...))
		if !bytes.Equal(got, tt.want) {
			t.Errorf("%d bytes: got %x, want %x", tt.size, got, tt.want)
		}
		ts := s.history("little")
		if last := ts[len(ts)-1]; last.Reason != disconnect.ClientError || last.Evidence.Kind != disconnect.Limit {
			t.Errorf("%+v", last)
		}
	}
}
