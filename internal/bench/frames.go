package bench

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

// frames is a WebSocket client's connection as a stream of MQTT bytes. One
// goroutine may read while another writes.
type frames struct {
	net.Conn
	in   *bufio.Reader
	left uint64 // of the frame that is being read

	mu  sync.Mutex // guards out, and orders writes
	out []byte
}

var errFrame = errors.New("the broker sent a WebSocket frame that is malformed")

const (
	wsContinuation = 0x0
	wsBinary       = 0x2
	wsClose        = 0x8
	wsPing         = 0x9
	wsPong         = 0xA
	wsFinal        = 0x80
	wsMasked       = 0x80
)

// Read implements net.Conn.
func (f *frames) Read(p []byte) (int, error) {
	for f.left == 0 {
		if err := f.header(); err != nil {
			return 0, err
		}
	}
	n, err := f.in.Read(p[:min(uint64(len(p)), f.left)])
	f.left -= uint64(n)
	return n, err
}

// header reads the header of the next data frame, and control frames before it.
func (f *frames) header() error {
	var h [8]byte
	if _, err := io.ReadFull(f.in, h[:2]); err != nil {
		return err
	}
	op, length := h[0]&0x0F, uint64(h[1]&0x7F)
	if h[1]&wsMasked != 0 || h[0]&0x70 != 0 {
		return errFrame
	}
	switch length {
	case 126:
		if _, err := io.ReadFull(f.in, h[:2]); err != nil {
			return err
		}
		length = uint64(binary.BigEndian.Uint16(h[:]))
	case 127:
		if _, err := io.ReadFull(f.in, h[:]); err != nil {
			return err
		}
		length = binary.BigEndian.Uint64(h[:])
	}
	switch op {
	case wsBinary, wsContinuation:
		f.left = length
		return nil
	case wsClose:
		return io.EOF
	case wsPing, wsPong:
		var body [125]byte
		if length > 125 {
			return errFrame
		}
		if _, err := io.ReadFull(f.in, body[:length]); err != nil {
			return err
		}
		if op == wsPing {
			return f.write(wsPong, body[:length])
		}
		return nil
	}
	return errFrame
}

// Write implements net.Conn: one frame.
func (f *frames) Write(p []byte) (int, error) {
	if err := f.write(wsBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// write sends a frame. The mask is zero: it is legal, costs us nothing, and
// the broker must unmask all the same.
func (f *frames) write(op byte, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := append(f.out[:0], wsFinal|op)
	switch n := len(p); {
	case n < 126:
		b = append(b, wsMasked|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, wsMasked|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, wsMasked|127), uint64(n))
	}
	b = append(b, 0, 0, 0, 0)
	f.out = append(b, p...)
	_, err := f.Conn.Write(f.out)
	return err
}
