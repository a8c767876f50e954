package packet

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestFrame(t *testing.T) {
	for _, tt := range versions {
		for _, vec := range loadVectors(t, tt.file) {
			for n := range len(vec.wire) {
				if got, err := Frame(vec.wire[:n], 0); got != 0 || err != nil {
					t.Errorf("%s: Frame of %d bytes of %d: got %d, %v", vec.name, n, len(vec.wire), got, err)
				}
			}
			two := append(bytes.Clone(vec.wire), 0x00)
			if got, err := Frame(two, uint32(len(vec.wire))); got != len(vec.wire) || err != nil {
				t.Errorf("%s: Frame with more behind: got %d, %v, want %d", vec.name, got, err, len(vec.wire))
			}
		}
	}
}

func TestFrameRefusesEarly(t *testing.T) {
	for _, tt := range []struct {
		wire string
		max  uint32
		want string // code and clause, or empty for "more bytes"
	}{
		{"00", 0, "0x82 2.1.2"},
		{"0F", 0, "0x82 2.1.2"},
		{"36", 0, "0x81 MQTT-3.3.1-4"},
		{"38", 0, "0x81 MQTT-3.3.1-2"},
		{"3F", 0, "0x81 MQTT-3.3.1-4"},
		{"60", 0, "0x81 MQTT-3.6.1-1"},
		{"63", 0, "0x81 MQTT-3.6.1-1"},
		{"81", 0, "0x81 MQTT-3.8.1-1"},
		{"A3", 0, "0x81 MQTT-3.10.1-1"},
		{"E2", 0, "0x81 MQTT-3.14.1-1"},
		{"F1", 0, "0x81 MQTT-3.15.1-1"},
		{"4F", 0, "0x81 MQTT-2.1.3-1"},
		{"3D", 0, ""},
		{"30 FF FF FF", 0, ""},
		{"30 FF FF FF FF", 0, "0x81 1.5.5"},
		{"30 FF FF FF 7F", 0, ""},
		{"30 FF FF FF 7F", MaxFrameSize, ""},
		{"30 FF FF FF 7F", MaxFrameSize - 1, "0x95 MQTT-3.2.2-15"},
		{"30 81 00", 0, "0x81 MQTT-1.5.5-1"},
		{"30 80 80 80 00", 0, "0x81 MQTT-1.5.5-1"},
		{"30 7E", 128, ""},
		{"30 7F", 128, "0x95 MQTT-3.2.2-15"},
		{"30 FF", 2, ""},
		{"C0 01", 0, "0x81 3.12.1"},
	} {
		got := ""
		n, err := Frame(parseWire(t, tt.wire), tt.max)
		if e, ok := err.(*Error); ok {
			got = fmt.Sprintf("0x%02X %s", uint8(e.Code), e.Clause)
		}
		if n != 0 || got != tt.want {
			t.Errorf("Frame(%s, %d): got %d, %q, want %q", tt.wire, tt.max, n, got, tt.want)
		}
	}
}

// TestLongLengths covers every size of Remaining Length and Property Length.
func TestLongLengths(t *testing.T) {
	text := []byte(strings.Repeat("x", 60000))
	for _, size := range []int{0, 100, 115, 116, 121, 122, 123, 130, 16000, 16367, 16368, 16373, 16374, 16375, 16380, 59000, 1 << 21, 1<<21 + 20000} {
		var props []UserProperty
		for left := size; left > 0; left -= len(text) {
			props = append(props, UserProperty{Name: []byte("k"), Value: text[:min(left, len(text))]})
		}
		for _, p := range []Packet{
			&Publish{Topic: []byte("t"), UserProperties: props},
			&Publish{Topic: []byte("t"), QoS: QoS1, PacketID: 3, Payload: bytes.Repeat([]byte{7}, size+1)},
			&Puback{PacketID: 1, UserProperties: props},
			&Connect{Version: V5, ReceiveMaximum: 65535, ClientID: "c", UserProperties: props},
			&Disconnect{UserProperties: props},
		} {
			wire, err := p.AppendTo(nil, V5)
			if err != nil {
				t.Fatalf("%s of %d: %v", p.Type(), size, err)
			}
			if n, err := Frame(wire, 0); n != len(wire) || err != nil {
				t.Errorf("%s of %d: Frame got %d, %v, want %d", p.Type(), size, n, err, len(wire))
			}
			got, err := Decode(V5, wire)
			if err != nil || dump(got) != dump(p) {
				t.Errorf("%s of %d: did not come back: %v", p.Type(), size, err)
			}
		}
	}
}
