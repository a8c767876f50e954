package packet

import (
	"bytes"
	"testing"
)

// TestSharedIsUsedAgain encodes messages of different sizes into one Shared,
// adopts a frame in between, and expects no allocation once there is memory.
func TestSharedIsUsedAgain(t *testing.T) {
	var s Shared
	large, small := benchPublish(QoS1, 500), benchPublish(QoS2, 3)
	frame, err := large.AppendTo(nil, V5)
	if err != nil {
		t.Fatal(err)
	}
	kept := bytes.Clone(frame)
	round := func() {
		for _, p := range []*Publish{large, small} {
			if err := s.Encode(V5, p); err != nil {
				t.Fatal(err)
			}
			if s.QoS() != p.QoS || !bytes.Equal(s.Payload(), p.Payload) {
				t.Fatalf("QoS %d, payload %q", s.QoS(), s.Payload())
			}
			s.Adopt(frame, large)
			s.Release(1 << 10)
		}
	}
	round()
	if n := testing.AllocsPerRun(10, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if !bytes.Equal(frame, kept) {
		t.Error("an adopted frame was written to")
	}
	if err := s.Encode(V5, large); err != nil {
		t.Fatal(err)
	}
	if s.Release(10); cap(s.own) != 0 {
		t.Errorf("kept %d bytes", cap(s.own))
	}
	if err := s.Encode(V5, &Publish{Topic: []byte("#")}); CodeOf(err) != MalformedPacket {
		t.Errorf("a wildcard: %v", err)
	}
}

func TestAdoptedFrameIsPatched(t *testing.T) {
	p := &Publish{QoS: QoS1, PacketID: 7, Topic: []byte("a/b"), Payload: []byte("x"), ContentType: []byte("c")}
	frame, err := p.AppendTo(nil, V5)
	if err != nil {
		t.Fatal(err)
	}
	var s Shared
	s.Adopt(frame, p)
	p.PacketID, p.Dup = 0x1234, true
	want, err := p.AppendTo(nil, V5)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.AppendTo(nil, 0x1234, true, 0); !bytes.Equal(got, want) {
		t.Errorf("got % X, want % X", got, want)
	}
}

func TestSize(t *testing.T) {
	for _, tt := range []struct {
		p    Publish
		v    Version
		want ReasonCode
	}{
		{*withProperties(benchPublish(QoS1, 200)), V5, Success},
		{*withProperties(benchPublish(QoS1, 200)), V311, Success},
		{Publish{Topic: []byte("a"), Dup: true, PacketID: 5}, V5, Success}, // neither is looked at
		{Publish{}, V311, MalformedPacket},
		{Publish{Topic: []byte("a"), Payload: make([]byte, MaxRemainingLength)}, V5, PacketTooLarge},
	} {
		n, err := tt.p.Size(tt.v)
		if CodeOf(err) != tt.want {
			t.Errorf("%s: got %v, want %s", dump(&tt.p), err, tt.want)
		}
		if err != nil {
			continue
		}
		s, err := Share(tt.v, &tt.p)
		if err != nil || s.Len() != n {
			t.Errorf("size %d, encoded %d, %v", n, s.Len(), err)
		}
	}
}

func TestAppendAck(t *testing.T) {
	for _, tt := range []struct {
		p    Packet
		v    Version
		code ReasonCode
	}{
		{&Puback{PacketID: 1}, V5, Success},
		{&Puback{PacketID: 2, ReasonCode: NoMatchingSubscribers}, V5, NoMatchingSubscribers},
		{&Puback{PacketID: 2}, V311, NoMatchingSubscribers},
		{&Pubrec{PacketID: 3, ReasonCode: QuotaExceeded}, V5, QuotaExceeded},
		{&Pubrel{PacketID: 4, ReasonCode: PacketIdentifierNotFound}, V5, PacketIdentifierNotFound},
		{&Pubcomp{PacketID: 5}, V311, Success},
	} {
		want, err := tt.p.AppendTo([]byte("x"), tt.v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := AppendAck([]byte("x"), tt.v, tt.p.Type(), idOf(tt.p), tt.code)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got % X, %v, want % X", dump(tt.p), got, err, want)
		}
	}
	for _, bad := range []struct {
		t    Type
		id   uint16
		code ReasonCode
	}{{PUBLISH, 1, 0}, {SUBACK, 1, 0}, {PUBACK, 0, 0}, {PUBREL, 1, QuotaExceeded}} {
		if got, err := AppendAck([]byte("x"), V5, bad.t, bad.id, bad.code); err == nil || string(got) != "x" {
			t.Errorf("%s %d %s: got % X, %v", bad.t, bad.id, bad.code, got, err)
		}
	}
	dst := make([]byte, 0, 8)
	if n := testing.AllocsPerRun(10, func() { AppendAck(dst, V5, PUBACK, 1, QuotaExceeded) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// idOf returns the Packet Identifier of an acknowledgement.
func idOf(p Packet) uint16 {
	switch p := p.(type) {
	case *Puback:
		return p.PacketID
	case *Pubrec:
		return p.PacketID
	case *Pubrel:
		return p.PacketID
	case *Pubcomp:
		return p.PacketID
	}
	return 0
}
