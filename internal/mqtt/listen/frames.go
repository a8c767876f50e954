package listen

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/transport"
)

// wsConn is the stream of MQTT bytes inside a server's side of a WebSocket
// connection. It holds no buffers. MQTT packets may span frames, and frames
// hold several packets [MQTT-6.0.0-2].
type wsConn struct {
	net.Conn
	early []byte // bytes that came with the handshake, or were read too soon
	head  []byte // what has been read of a frame's header, or of a control frame

	left   int64 // payload bytes of the current frame not read yet
	mask   [4]byte
	pos    int  // position within the mask
	inside bool // within a message: only continuation frames may follow

	refused bool // we closed the WebSocket and have not read what follows

	mu      sync.Mutex                // guards writes, so that frames stay whole
	closed  bool                      // a close frame was sent, or a frame in part
	writeBy atomic.Pointer[time.Time] // deadline of data frames; nil: none
}

// Read implements net.Conn. Control frames are answered on the way.
func (c *wsConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for c.left == 0 {
		err := c.nextFrame()
		c.undo(err)
		if err != nil {
			return 0, err
		}
	}
	n, err := c.raw(p[:min(int64(len(p)), c.left)])
	ws.Cipher(p[:n], c.mask, c.pos)
	c.pos += n
	c.left -= int64(n)
	return n, err
}

// raw reads bytes of the connection, those that came early first.
func (c *wsConn) raw(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// rawReader reads what is taken whole, or not at all: see undo.
type rawReader struct{ c *wsConn }

func (r rawReader) Read(p []byte) (int, error) {
	n, err := r.c.raw(p)
	r.c.head = append(r.c.head, p[:n]...)
	return n, err
}

// undo is for a read that a deadline has ended: what it took of a frame is read
// again by the next.
func (c *wsConn) undo(err error) {
	if len(c.head) > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		c.early = append(c.head, c.early...)
		c.head = nil
	}
	c.head = c.head[:0]
}

// nextFrame reads frame headers until one begins data for the caller.
func (c *wsConn) nextFrame() error {
	h, err := ws.ReadHeader(rawReader{c})
	if err != nil {
		if errors.Is(err, ws.ErrHeaderLengthMSB) || errors.Is(err, ws.ErrHeaderLengthUnexpected) {
			return c.refuse(ws.StatusProtocolError, "WebSocket frame header is malformed")
		}
		return err
	}
	if !h.Masked { // RFC 6455, 5.1
		return c.refuse(ws.StatusProtocolError, "WebSocket frame is not masked")
	}
	if h.Rsv != 0 {
		return c.refuse(ws.StatusProtocolError, "WebSocket frame has reserved bits")
	}
	if h.OpCode.IsControl() {
		return c.control(h)
	}
	switch {
	case h.OpCode == ws.OpText: // [MQTT-6.0.0-1]
		return c.refuse(ws.StatusUnsupportedData, "WebSocket text frame: MQTT is carried in binary frames")
	case h.OpCode == ws.OpBinary && c.inside, h.OpCode == ws.OpContinuation && !c.inside:
		return c.refuse(ws.StatusProtocolError, "WebSocket fragments are out of order")
	case h.OpCode != ws.OpBinary && h.OpCode != ws.OpContinuation:
		return c.refuse(ws.StatusProtocolError, fmt.Sprintf("WebSocket opcode %d is reserved", h.OpCode))
	}
	c.inside = !h.Fin
	c.left, c.mask, c.pos = h.Length, h.Mask, 0
	return nil
}

func (c *wsConn) control(h ws.Header) error {
	if !h.Fin || h.Length > ws.MaxControlFramePayloadSize {
		return c.refuse(ws.StatusProtocolError, "WebSocket control frame is fragmented or too long")
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(rawReader{c}, payload); err != nil {
		return err
	}
	ws.Cipher(payload, h.Mask, 0)
	switch h.OpCode {
	case ws.OpPing:
		return c.write(ws.OpPong, payload)
	case ws.OpPong:
		return nil
	case ws.OpClose:
		code, reason := ws.ParseCloseFrameData(payload)
		if len(payload) == 1 || len(payload) > 1 && ws.CheckCloseFrameData(code, reason) != nil { // RFC 6455, 5.5.1
			return c.refuse(ws.StatusProtocolError, "WebSocket close frame is malformed")
		}
		if len(payload) == 0 {
			code = ws.StatusNoStatusRcvd
		}
		_ = c.write(ws.OpClose, payload[:min(2, len(payload))]) // the peer may be gone already
		return &Ending{disconnect.ClientInitiatedDisconnect, disconnect.Evidence{
			Kind:   disconnect.Transport,
			Detail: fmt.Sprintf("the client sent a WebSocket close frame (status %d) without an MQTT DISCONNECT", code),
		}}
	}
	return c.refuse(ws.StatusProtocolError, fmt.Sprintf("WebSocket opcode %d is reserved", h.OpCode))
}

// refuse closes the WebSocket with a status and reports the client's mistake.
func (c *wsConn) refuse(code ws.StatusCode, why string) error {
	_ = c.write(ws.OpClose, ws.NewCloseFrameBody(code, why)) // the peer may be gone already
	c.refused = true
	return &Ending{disconnect.ClientError, disconnect.Evidence{Kind: disconnect.Transport, Detail: why}}
}

// write sends one unfragmented frame with one write.
func (c *wsConn) write(op ws.OpCode, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writeLocked(op, payload)
}

func (c *wsConn) writeLocked(op ws.OpCode, payload []byte) error {
	if c.closed {
		return net.ErrClosed
	}
	w := frameWriter{buf: make([]byte, 0, ws.MaxHeaderSize+len(payload))}
	if err := ws.WriteHeader(&w, ws.Header{Fin: true, OpCode: op, Length: int64(len(payload))}); err != nil {
		return err
	}
	frame := append(w.buf, payload...)
	var err error
	if op == ws.OpBinary {
		_, err = c.Conn.Write(frame)
	} else {
		err = c.writeControl(frame)
	}
	c.closed = err != nil || op == ws.OpClose // nothing can follow part of a frame
	return err
}

// controlTimeout is how long a peer may take nothing while a control frame is
// written.
const controlTimeout = 5 * time.Second

// writeControl writes a control frame, which the reader does. It may wait for a
// peer that reads slowly, and not for one that does not read.
func (c *wsConn) writeControl(frame []byte) error {
	defer c.restoreDeadline()
	taken := c.taken()
	for {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(controlTimeout)) // it fails only if the transport is dead
		n, err := c.Conn.Write(frame)
		frame = frame[n:]
		before := taken
		if taken = c.taken(); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 && taken == before {
			return err
		}
	}
}

// taken is how many bytes the peer has acknowledged, where the system knows.
func (c *wsConn) taken() (n uint64) {
	transport.Control(c.Conn, func(fd int) { n, _ = transport.Acknowledged(fd) })
	return n
}

// SetWriteDeadline implements net.Conn. It takes effect on a write under way.
func (c *wsConn) SetWriteDeadline(t time.Time) error {
	c.writeBy.Store(&t)
	return c.Conn.SetWriteDeadline(t)
}

// restoreDeadline sets the deadline of data frames again after a control frame
// had its own.
func (c *wsConn) restoreDeadline() {
	var t time.Time
	if by := c.writeBy.Load(); by != nil {
		t = *by
	}
	_ = c.Conn.SetWriteDeadline(t) // it fails only if the transport is dead
}

type frameWriter struct{ buf []byte }

func (w *frameWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	return len(p), nil
}

// Write implements net.Conn: p becomes one binary frame.
func (c *wsConn) Write(p []byte) (int, error) {
	if err := c.write(ws.OpBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite sends a close frame and closes our side of the connection.
func (c *wsConn) CloseWrite() error {
	err := c.write(ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && err == nil {
		return half.CloseWrite()
	}
	return err
}

// NetConn returns the connection below.
func (c *wsConn) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn. It sends a close frame if none went before, and is
// for the goroutine that reads. After the peer broke a rule it reads on for a
// moment: closing with bytes unread would reset the connection, and the peer
// might never learn why.
func (c *wsConn) Close() error {
	if c.mu.TryLock() { // else a write is stuck, and closing ends it
		_ = c.writeLocked(ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))
		c.mu.Unlock()
	}
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if c.refused && ok && half.CloseWrite() == nil && c.Conn.SetReadDeadline(time.Now().Add(drainTimeout)) == nil {
		_, _ = io.CopyBuffer(io.Discard, io.LimitReader(struct{ io.Reader }{c.Conn}, drainBytes), make([]byte, 512))
	}
	return c.Conn.Close()
}

// What is read and thrown away from a peer that broke a rule.
const (
	drainTimeout = time.Second
	drainBytes   = 64 << 10
)
