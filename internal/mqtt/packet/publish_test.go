package packet

import (
	"bytes"
	"slices"
	"testing"
)

// TestAppendingToAliasKeepsFrame appends to what Decode returned: the bytes
// behind it in the frame must not change.
func TestAppendingToAliasKeepsFrame(t *testing.T) {
	wire := parseWire(t, `32 1B "a/b" 00 01 0A 09 00 02 AA BB 03 "ct" 'payload'`)
	wire[1] = byte(len(wire) - 2)
	kept := bytes.Clone(wire)
	var p Publish
	if err := p.Decode(V5, wire); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{p.Topic, p.CorrelationData, p.ContentType, p.Payload} {
		_ = append(b, 0xEE)
	}
	if !bytes.Equal(wire, kept) {
		t.Errorf("got % X, want % X", wire, kept)
	}
}

func TestCheckPayloadFormat(t *testing.T) {
	for _, tt := range []struct {
		format  Optional[uint8]
		payload string
		want    ReasonCode
	}{
		{Some[uint8](1), "é\x00", Success},
		{Some[uint8](1), "", Success},
		{Some[uint8](1), "\xff", PayloadFormatInvalid},
		{Some[uint8](0), "\xff", Success},
		{Optional[uint8]{}, "\xff", Success},
	} {
		p := Publish{PayloadFormatIndicator: tt.format, Payload: []byte(tt.payload)}
		if got := CodeOf(p.CheckPayloadFormat()); got != tt.want {
			t.Errorf("%+v %q: got %s, want %s", tt.format, tt.payload, got, tt.want)
		}
	}
}

func TestShare(t *testing.T) {
	p := Publish{Dup: true, QoS: QoS1, PacketID: 77, Topic: []byte("a/b"), Payload: []byte("payload"),
		MessageExpiryInterval: Some[uint32](500), PayloadFormatIndicator: Some[uint8](1),
		SubscriptionIdentifiers: []uint32{200}, UserProperties: []UserProperty{{Name: []byte("k"), Value: bytes.Repeat([]byte("v"), 200)}}}
	for _, v := range []Version{V311, V5} {
		for _, qos := range []QoS{QoS0, QoS1, QoS2} {
			for _, expires := range []bool{true, false} {
				p.QoS, p.MessageExpiryInterval.Set = qos, expires
				s, err := Share(v, &p)
				if err != nil {
					t.Fatal(err)
				}
				if ttl, ok := s.MessageExpiryInterval(); ok != (expires && v == V5) || ok && ttl != 500 {
					t.Errorf("MessageExpiryInterval: got %d %v", ttl, ok)
				}
				for _, dup := range []bool{false, true} {
					want := p
					want.Dup, want.PacketID, want.MessageExpiryInterval.Value = dup && qos > 0, 0x1234, 99
					if qos == 0 {
						want.PacketID = 0
					}
					wire, err := want.AppendTo([]byte("x"), v)
					if err != nil {
						t.Fatal(err)
					}
					if got := s.AppendTo([]byte("x"), 0x1234, dup, 99); !bytes.Equal(got, wire) {
						t.Errorf("%s QoS %d expires %v dup %v:\ngot  % X\nwant % X", v, qos, expires, dup, got, wire)
					}
					head := s.AppendHead(nil, 0x1234, dup, 99)
					if got := slices.Concat([]byte("x"), head, s.Payload()); !bytes.Equal(got, wire) || len(head) != s.Head() || s.Len() != len(wire)-1 || s.QoS() != qos {
						t.Errorf("%s QoS %d: head and payload % X, want % X", v, qos, got, wire)
					}
				}
			}
		}
	}
	if !p.Dup || p.PacketID != 77 {
		t.Error("Share changed the packet")
	}
	if _, err := Share(V5, &Publish{Topic: []byte("#")}); CodeOf(err) != MalformedPacket {
		t.Errorf("Share of a wildcard: got %v", err)
	}
}

// TestReusedStructForgets decodes an unusually large packet and then a small
// one: the struct must not keep the memory of the first.
func TestReusedStructForgets(t *testing.T) {
	large := Publish{Topic: []byte("t"), UserProperties: make([]UserProperty, 1000)}
	wire, err := large.AppendTo(nil, V5)
	if err != nil {
		t.Fatal(err)
	}
	var p Publish
	for _, frame := range [][]byte{wire, parseWire(t, `30 04 "a" 00`)} {
		if err := p.Decode(V5, frame); err != nil {
			t.Fatal(err)
		}
	}
	if cap(p.UserProperties) > maxReuse {
		t.Errorf("kept room for %d user properties", cap(p.UserProperties))
	}
}
