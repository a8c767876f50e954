package bench

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// wireConn is a connection that reads from in and writes to out.
type wireConn struct {
	net.Conn
	out bytes.Buffer
}

func (w *wireConn) Write(p []byte) (int, error) { return w.out.Write(p) }

func newFrames(in []byte) (*frames, *wireConn) {
	w := &wireConn{}
	return &frames{Conn: w, in: bufio.NewReader(bytes.NewReader(in))}, w
}

func TestFrames(t *testing.T) {
	var in []byte
	in = append(in, 0x02, 3, 'a', 'b', 'c')             // the first half of a message
	in = append(in, 0x89, 2, 'h', 'i')                  // PING between
	in = append(in, 0x80, 126, 1, 0)                    // its second half
	in = append(in, bytes.Repeat([]byte{'d'}, 256)...)  //
	in = append(in, 0x82, 0)                            // an empty message
	in = append(in, 0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1)  // a length that could be shorter
	in = append(in, 'e', 0x88, 2, 0x03, 0xE8, 'z', 'z') // CLOSE
	f, w := newFrames(in)
	got, err := io.ReadAll(f)
	want := "abc" + string(bytes.Repeat([]byte{'d'}, 256)) + "e"
	if err != nil || string(got) != want {
		t.Errorf("read %q, %v", got, err)
	}
	if pong := []byte{0x8A, 0x82, 0, 0, 0, 0, 'h', 'i'}; !bytes.Equal(w.out.Bytes(), pong) {
		t.Errorf("answered PING with %x, want %x", w.out.Bytes(), pong)
	}
	for _, bad := range [][]byte{{0x82, 0x81, 0, 0, 0, 0, 1}, {0xC2, 1, 1}, {0x83, 0}, {0x89, 126, 0, 126}} {
		f, _ := newFrames(bad)
		if _, err := f.Read(make([]byte, 10)); !errors.Is(err, errFrame) {
			t.Errorf("%x: %v, want %v", bad, err, errFrame)
		}
	}
}

func TestFramesWrite(t *testing.T) {
	for _, c := range []struct {
		n      int
		header []byte
	}{
		{0, []byte{0x82, 0x80}}, {125, []byte{0x82, 0xFD}}, {126, []byte{0x82, 0xFE, 0, 126}},
		{65535, []byte{0x82, 0xFE, 0xFF, 0xFF}}, {65536, []byte{0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0}},
	} {
		f, w := newFrames(nil)
		p := bytes.Repeat([]byte{'x'}, c.n)
		if n, err := f.Write(p); n != c.n || err != nil {
			t.Errorf("%d bytes: wrote %d, %v", c.n, n, err)
		}
		want := append(append(c.header, 0, 0, 0, 0), p...)
		if !bytes.Equal(w.out.Bytes(), want) {
			t.Errorf("%d bytes: header %x, want %x", c.n, w.out.Bytes()[:min(14, w.out.Len())], c.header)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0x02, 1, 'a', 0x89, 0, 0x80, 126, 0, 1, 'b', 0x88, 0})
	f.Add([]byte{0x82, 127, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		fr, _ := newFrames(in)
		got, err := io.ReadAll(fr)
		if len(got) > len(in) {
			t.Fatalf("%d bytes of %d, %v", len(got), len(in), err)
		}
	})
}
