package packet

import (
	"bytes"
	"fmt"
	"testing"
)

func benchPublish(qos QoS, payload int) *Publish {
	p := &Publish{QoS: qos, Topic: []byte("devices/d31415/telemetry/temp"), Payload: bytes.Repeat([]byte("x"), payload)}
	if qos > QoS0 {
		p.PacketID = 4711
	}
	return p
}

func withProperties(p *Publish) *Publish {
	p.MessageExpiryInterval = Some[uint32](3600)
	p.ContentType = []byte("application/json")
	p.CorrelationData = []byte("0123456789abcdef")
	p.ResponseTopic = []byte("replies/d31415")
	p.SubscriptionIdentifiers = []uint32{7}
	for i := range 3 {
		p.UserProperties = append(p.UserProperties, UserProperty{Name: fmt.Append(nil, "name", i), Value: []byte("value")})
	}
	return p
}

func TestDecodingDoesNotAllocate(t *testing.T) {
	for _, tt := range []struct {
		v Version
		p Packet
	}{
		{V311, benchPublish(QoS0, 100)},
		{V311, benchPublish(QoS1, 100)},
		{V5, benchPublish(QoS0, 100)},
		{V5, withProperties(benchPublish(QoS1, 100))},
		{V5, withProperties(benchPublish(QoS2, 100))},
		{V311, &Puback{PacketID: 1}},
		{V5, &Puback{PacketID: 1}},
		{V5, &Pubrec{PacketID: 1, ReasonCode: NoMatchingSubscribers}},
		{V5, &Pubrel{PacketID: 1}},
		{V5, &Pubcomp{PacketID: 1, UserProperties: []UserProperty{{Name: []byte("k"), Value: []byte("v")}}}},
		{V5, &Puback{PacketID: 1, ReasonCode: QuotaExceeded, ReasonString: "a reason that repeats"}},
		{V5, &Pingreq{}},
	} {
		wire, err := tt.p.AppendTo(nil, tt.v)
		if err != nil {
			t.Fatal(err)
		}
		into := newPacket(tt.p.Type())
		if err := into.Decode(tt.v, wire); err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { err = into.Decode(tt.v, wire) }); n != 0 || err != nil {
			t.Errorf("decoding %s: %v allocations, %v", dump(into), n, err)
		}
		dst := make([]byte, 0, len(wire)+8)
		if n := testing.AllocsPerRun(100, func() { _, err = tt.p.AppendTo(dst, tt.v) }); n != 0 || err != nil {
			t.Errorf("encoding %s: %v allocations, %v", dump(into), n, err)
		}
	}
	s, err := Share(V5, withProperties(benchPublish(QoS1, 100)))
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, 0, s.Len())
	if n := testing.AllocsPerRun(100, func() { s.AppendTo(dst, 1, false, 2) }); n != 0 {
		t.Errorf("appending a shared packet: %v allocations", n)
	}
}

func BenchmarkPublishDecode(b *testing.B) {
	for _, bb := range []struct {
		name string
		v    Version
		p    *Publish
	}{
		{"v311/qos0", V311, benchPublish(QoS0, 100)},
		{"v5/qos1", V5, benchPublish(QoS1, 100)},
		{"v5/properties", V5, withProperties(benchPublish(QoS1, 100))},
		{"v5/16KiB", V5, benchPublish(QoS1, 16384)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			wire, err := bb.p.AppendTo(nil, bb.v)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(wire)))
			b.ReportAllocs()
			var p Publish
			for b.Loop() {
				if err := p.Decode(bb.v, wire); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPublishEncode(b *testing.B) {
	for _, bb := range []struct {
		name string
		v    Version
		p    *Publish
	}{
		{"v311/qos0", V311, benchPublish(QoS0, 100)},
		{"v5/qos1", V5, benchPublish(QoS1, 100)},
		{"v5/properties", V5, withProperties(benchPublish(QoS1, 100))},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				var err error
				if dst, err = bb.p.AppendTo(dst[:0], bb.v); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(dst)))
		})
	}
}

func BenchmarkSharedAppend(b *testing.B) {
	s, err := Share(V5, withProperties(benchPublish(QoS1, 100)))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(s.Len()))
	b.ReportAllocs()
	dst := make([]byte, 0, s.Len())
	for b.Loop() {
		dst = s.AppendTo(dst[:0], 1, false, 60)
	}
}

func BenchmarkFrame(b *testing.B) {
	wire, err := benchPublish(QoS1, 1000).AppendTo(nil, V5)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if n, err := Frame(wire, 1<<19); n == 0 || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkPubackDecode(b *testing.B) {
	var p Puback
	wire := []byte{0x40, 2, 0, 1}
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Decode(V5, wire); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkConnectDecode(b *testing.B) {
	wire, err := (&Connect{ClientID: "device-31415", CleanStart: true, KeepAlive: 60, UserName: Some("device-31415"),
		Password: []byte("secret"), SessionExpiryInterval: 3600}).AppendTo(nil, V5)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var c Connect
	for b.Loop() {
		if err := c.Decode(0, wire); err != nil {
			b.Fatal(err)
		}
	}
}
