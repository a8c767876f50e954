package bench

import (
	"bytes"
	"testing"

	"rollcall/internal/mqtt/packet"
)

var versions = []packet.Version{packet.V311, packet.V5}

func TestTemplateIsAPublish(t *testing.T) {
	for _, v := range versions {
		for qos := packet.QoS0; qos <= packet.QoS2; qos++ {
			for _, size := range []int{0, 16, 100, 200, 20_000} {
				m, err := newTemplate(v, "a/b", qos, 7, size)
				if err != nil {
					t.Fatal(err)
				}
				frame := m.append([]byte("before"), 513, 99, 1<<40)[6:]
				body, n, err := cut(frame, len(frame))
				if err != nil || n != len(frame) {
					t.Fatalf("version %d, QoS %d, %d bytes: cut = %d, %v; want %d", v, qos, size, n, err, len(frame))
				}
				id, s, err := readPublish(v, frame[0], frame[body:n])
				wantID := uint16(513)
				if qos == packet.QoS0 {
					wantID = 0
				}
				if err != nil || id != wantID || s != (stamp{7, 99, 1 << 40}) {
					t.Errorf("version %d, QoS %d, %d bytes: read %d, %+v, %v", v, qos, size, id, s, err)
				}
				got, err := packet.Decode(v, frame)
				if err != nil {
					t.Fatalf("version %d, QoS %d: %v", v, qos, err)
				}
				p, ok := got.(*packet.Publish)
				if !ok || string(p.Topic) != "a/b" || p.QoS != qos || p.PacketID != wantID || len(p.Payload) != max(size, stampSize) {
					t.Errorf("version %d, QoS %d, %d bytes: %+v", v, qos, size, got)
				}
			}
		}
	}
}

func TestReadPublishSkipsProperties(t *testing.T) {
	m, err := newTemplate(packet.V5, "t", packet.QoS1, 3, 40)
	if err != nil {
		t.Fatal(err)
	}
	got, err := packet.Decode(packet.V5, m.append(nil, 1, 5, 6))
	if err != nil {
		t.Fatal(err)
	}
	p, ok := got.(*packet.Publish)
	if !ok {
		t.Fatalf("it is %T", got)
	}
	p.UserProperties = []packet.UserProperty{{Name: []byte("name"), Value: bytes.Repeat([]byte("x"), 300)}}
	p.SubscriptionIdentifiers = []uint32{1, 200_000}
	frame, err := p.AppendTo(nil, packet.V5)
	if err != nil {
		t.Fatal(err)
	}
	body, n, err := cut(frame, len(frame))
	if err != nil {
		t.Fatal(err)
	}
	if id, s, err := readPublish(packet.V5, frame[0], frame[body:n]); err != nil || id != 1 || s != (stamp{3, 5, 6}) {
		t.Errorf("read %d, %+v, %v", id, s, err)
	}
}

func TestCutRefuses(t *testing.T) {
	for _, c := range []struct {
		in    []byte
		limit int
		want  error
	}{
		{[]byte{0x30, 0x80, 0x80, 0x80, 0x80, 1}, 1 << 30, errLength},
		{[]byte{0x30, 100}, 101, errTooLong},
		{[]byte{0x30, 0xFF, 0xFF, 0x7F}, 1 << 20, errTooLong},
	} {
		if _, n, err := cut(c.in, c.limit); err != c.want || n != 0 {
			t.Errorf("cut(%x, %d) = %d, %v, want %v", c.in, c.limit, n, err, c.want)
		}
	}
}

// FuzzReceive has a connection receive any bytes, in two parts, and compares
// the packets with those of the product's codec.
func FuzzReceive(f *testing.F) {
	for _, v := range versions {
		m, err := newTemplate(v, "t", packet.QoS1, 0, 20)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.append(m.append(nil, 1, 0, 0), 2, 1, 0), uint8(v), uint16(7))
		f.Add([]byte{firstPuback, 2, 0, 1, firstPubrel, 2, 0, 1, firstPingreq, 0}, uint8(v), uint16(3))
	}
	f.Add([]byte{0x30, 0xFF, 0xFF, 0xFF}, uint8(4), uint16(1))
	f.Add([]byte{0x32, 3, 0xFF, 0xFF, 0}, uint8(5), uint16(1))
	f.Fuzz(func(t *testing.T, in []byte, version uint8, at uint16) {
		v := versions[version%2]
		type got struct {
			first byte
			body  string
		}
		var whole, parts []got
		receive := func(into *[]got, chunks ...[]byte) error {
			c := &conn{name: "c", version: v, limit: 1 << 16}
			c.role = roleFunc(func(first byte, body []byte) error {
				*into = append(*into, got{first, string(body)})
				return nil
			})
			for _, b := range chunks {
				if err := c.feed(b); err != nil {
					return err
				}
			}
			return nil
		}
		n := min(int(at), len(in))
		err1, err2 := receive(&whole, in), receive(&parts, in[:n], in[n:])
		if (err1 == nil) != (err2 == nil) || len(whole) != len(parts) {
			t.Fatalf("whole: %d packets, %v; in parts: %d packets, %v", len(whole), err1, len(parts), err2)
		}
		for i, p := range whole {
			if p != parts[i] {
				t.Fatalf("packet %d: %x, in parts %x", i, p, parts[i])
			}
			id, s, err := readPublish(v, p.first, []byte(p.body))
			_, _, _ = readAck([]byte(p.body))
			if p.first>>4 != byte(packet.PUBLISH) {
				continue
			}
			frame := append([]byte{p.first}, length(len(p.body))...)
			right, decoded := packet.Decode(v, append(frame, p.body...))
			if decoded != nil {
				continue // the product's codec is stricter
			}
			pub, ok := right.(*packet.Publish)
			if !ok {
				t.Fatalf("%x is %T", frame, right)
			}
			if len(pub.Payload) < stampSize {
				if err == nil {
					t.Fatalf("a payload of %d bytes is accepted", len(pub.Payload))
				}
				continue
			}
			if err != nil || id != pub.PacketID || s.seq != uint32(pub.Payload[4])<<24|uint32(pub.Payload[5])<<16|uint32(pub.Payload[6])<<8|uint32(pub.Payload[7]) {
				t.Fatalf("read %d, %+v, %v of %+v", id, s, err, pub)
			}
		}
	})
}

type roleFunc func(first byte, body []byte) error

func (f roleFunc) take(first byte, body []byte) error { return f(first, body) }

// length encodes a variable byte integer.
func length(n int) []byte {
	var out []byte
	for {
		b := byte(n & 0x7F)
		if n >>= 7; n == 0 {
			return append(out, b)
		}
		out = append(out, b|0x80)
	}
}
