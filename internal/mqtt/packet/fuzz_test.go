package packet

import (
	"bytes"
	"testing"
)

// FuzzDecode checks that no input makes a decoder panic, and that whatever is
// accepted can be encoded and then means the same.
func FuzzDecode(f *testing.F) {
	for _, file := range []string{"v5.txt", "v311.txt", "malformed_v5.txt", "malformed_v311.txt"} {
		for _, vec := range loadVectors(f, file) {
			f.Add(file == "v5.txt" || file == "malformed_v5.txt", vec.wire)
		}
	}
	f.Fuzz(func(t *testing.T, five bool, frame []byte) {
		v := V311
		if five {
			v = V5
		}
		kept := bytes.Clone(frame)
		p, err := Decode(v, frame)
		if !bytes.Equal(frame, kept) {
			t.Fatalf("decoding changed the frame % X", kept)
		}
		if err != nil {
			e, ok := err.(*Error)
			if !ok || !e.Code.Failed() || e.Clause == "" || e.Message == "" {
				t.Fatalf("% X: error %#v", frame, err)
			}
			return
		}
		if c, ok := p.(*Connect); ok {
			v = c.Version
		}
		before := dump(p)
		wire, err := p.AppendTo(nil, v)
		if err != nil {
			t.Fatalf("% X decodes to %s but does not encode: %v", frame, before, err)
		}
		if len(wire) > len(frame) {
			t.Errorf("% X became longer: % X", frame, wire)
		}
		again, err := Decode(v, wire)
		if err != nil {
			t.Fatalf("% X encodes to % X, which does not decode: %v", frame, wire, err)
		}
		if after := dump(again); after != before {
			t.Fatalf("% X\nbefore %s\nafter  %s", frame, before, after)
		}
		if twice, err := again.AppendTo(nil, v); err != nil || !bytes.Equal(twice, wire) {
			t.Errorf("encoded twice: %v\n% X\n% X", err, wire, twice)
		}
		if pub, ok := p.(*Publish); ok {
			if got := dump(pub.Clone()); got != before {
				t.Errorf("clone %s, want %s", got, before)
			}
			s, err := Share(v, pub)
			if err != nil {
				t.Fatalf("%s cannot be shared: %v", before, err)
			}
			if got := s.AppendTo(nil, pub.PacketID, pub.Dup, pub.MessageExpiryInterval.Value); !bytes.Equal(got, wire) {
				t.Errorf("shared % X, want % X", got, wire)
			}
			if n, err := pub.Size(v); n != len(wire) || err != nil {
				t.Errorf("size %d, %v, want %d", n, err, len(wire))
			}
			if !pub.Dup && pub.TopicAlias == 0 && !pub.MessageExpiryInterval.Set {
				s.Adopt(frame, pub)
				if got := s.AppendTo(nil, pub.PacketID, false, 0); !bytes.Equal(got, frame) || s.Len() != len(frame) || !bytes.Equal(s.Payload(), pub.Payload) {
					t.Errorf("adopted % X, want % X", got, frame)
				}
			}
		}
	})
}

// FuzzFrame checks that a frame's end does not depend on what follows, and
// that the limit is exact.
func FuzzFrame(f *testing.F) {
	for _, file := range []string{"v5.txt", "malformed_v5.txt"} {
		for _, vec := range loadVectors(f, file) {
			f.Add(vec.wire, uint32(len(vec.wire)))
		}
	}
	f.Add([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}, uint32(0))
	f.Fuzz(func(t *testing.T, buf []byte, max uint32) {
		n, err := Frame(buf, max)
		switch {
		case err != nil:
			if n != 0 {
				t.Errorf("% X: %d with %v", buf, n, err)
			}
			// More bytes never cure it.
			if _, err2 := Frame(append(bytes.Clone(buf), 0, 0, 0, 0), max); CodeOf(err2) != CodeOf(err) {
				t.Errorf("% X: %v, with more bytes %v", buf, err, err2)
			}
		case n == 0:
			return
		default:
			if n < 2 || n > len(buf) || max != 0 && n > int(max) {
				t.Fatalf("% X with max %d: got %d", buf, max, n)
			}
			if m, err := Frame(buf[:n], uint32(n)); m != n || err != nil {
				t.Errorf("% X alone: got %d, %v, want %d", buf[:n], m, err, n)
			}
			if m, err := Frame(buf[:n-1], 0); m != 0 || err != nil {
				t.Errorf("% X: got %d, %v", buf[:n-1], m, err)
			}
			if m, err := Frame(buf, uint32(n-1)); m != 0 || CodeOf(err) != PacketTooLarge {
				t.Errorf("% X with max %d: got %d, %v", buf, n-1, m, err)
			}
			if _, err := Decode(V5, buf[:n]); err != nil && err.(*Error).Clause == "2.1.4" && err.(*Error).Message == "the frame is not one whole packet" {
				t.Errorf("% X is a frame to Frame and none to Decode", buf[:n])
			}
		}
	})
}
