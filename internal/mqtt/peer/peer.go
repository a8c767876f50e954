// Package peer is the other end of an MQTT connection: a small client that
// sends and receives packets one by one. The demo, the benchmarks and the tests
// use it; it keeps no session, answers nothing by itself and starts no
// goroutine.
package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"rollcall/internal/mqtt/packet"
)

// Conn is a client's connection. It is for one goroutine that sends and one that
// receives at a time, except that Close and Abort may be called from any.
type Conn struct {
	nc  net.Conn
	v   packet.Version
	in  []byte // bytes received and not decoded
	out []byte
}

// Open connects to target without sending anything. target is
// mqtt://host:port, mqtts://…, ws://host:port/path or wss://…; config is for
// the two that speak TLS.
func Open(ctx context.Context, target string, v packet.Version, config *tls.Config) (*Conn, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	c := &Conn{v: v}
	switch u.Scheme {
	case "mqtt":
		var d net.Dialer
		c.nc, err = d.DialContext(ctx, "tcp", u.Host)
	case "mqtts":
		d := tls.Dialer{Config: config}
		c.nc, err = d.DialContext(ctx, "tcp", u.Host)
	case "ws", "wss":
		d := ws.Dialer{Protocols: []string{"mqtt"}, TLSConfig: config}
		var nc net.Conn
		var early *bufio.Reader // what came right behind the handshake, if anything did
		if nc, early, _, err = d.Dial(ctx, target); err == nil {
			f := &frames{Conn: nc, in: nc}
			if early != nil {
				f.in = early
			}
			c.nc = f
		}
	default:
		err = fmt.Errorf("peer: unknown scheme %q", u.Scheme)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Connect sends CONNECT and waits for CONNACK, until ctx ends. A CONNACK that
// refuses is not an error.
func (c *Conn) Connect(ctx context.Context, p *packet.Connect) (*packet.Connack, error) {
	if err := c.Send(p); err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	got, err := c.Receive(deadline)
	if err != nil {
		return nil, err
	}
	ack, ok := got.(*packet.Connack)
	if !ok {
		return nil, fmt.Errorf("peer: %s instead of CONNACK", got.Type())
	}
	return ack, nil
}

// Dial opens target and connects, with the client id and the options of p. A
// refusal is an error that is a *Refused.
func Dial(ctx context.Context, target string, v packet.Version, config *tls.Config, p packet.Connect) (*Conn, *packet.Connack, error) {
	c, err := Open(ctx, target, v, config)
	if err != nil {
		return nil, nil, err
	}
	ack, err := c.Connect(ctx, &p)
	if err == nil && ack.ReasonCode.Failed() {
		err = &Refused{ack}
	}
	if err != nil {
		c.Close()
		return nil, ack, err
	}
	return c, ack, nil
}

// Refused is a CONNACK that refuses.
type Refused struct{ Connack *packet.Connack }

// Error implements error.
func (r *Refused) Error() string { return "connection refused: " + r.Connack.ReasonCode.String() }

// Send writes one packet.
func (c *Conn) Send(p packet.Packet) error {
	var err error
	if c.out, err = p.AppendTo(c.out[:0], c.v); err != nil {
		return err
	}
	return c.Write(c.out)
}

// Write writes bytes as they are.
func (c *Conn) Write(b []byte) error {
	_, err := c.nc.Write(b)
	return err
}

// Receive returns the next packet. The zero deadline waits for ever. io.EOF
// says that the server closed the connection between packets.
func (c *Conn) Receive(deadline time.Time) (packet.Packet, error) {
	if err := c.nc.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	for {
		n, err := packet.Frame(c.in, 0)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			// Packets alias their frame: give each its own.
			frame := append([]byte(nil), c.in[:n]...)
			c.in = c.in[:copy(c.in, c.in[n:])]
			return packet.Decode(c.v, frame)
		}
		if cap(c.in)-len(c.in) < 512 {
			c.in = append(make([]byte, 0, 2*cap(c.in)+1024), c.in...)
		}
		m, err := c.nc.Read(c.in[len(c.in):cap(c.in)])
		c.in = c.in[:len(c.in)+m]
		if m == 0 && err != nil {
			if errors.Is(err, io.EOF) && len(c.in) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// Disconnect sends DISCONNECT and closes.
func (c *Conn) Disconnect() error {
	err := c.Send(&packet.Disconnect{})
	return errors.Join(err, c.nc.Close())
}

// Close closes the connection without DISCONNECT.
func (c *Conn) Close() error { return c.nc.Close() }

// Abort resets the connection, as a device that loses its power would be seen
// to in the end.
func (c *Conn) Abort() error {
	raw := c.nc
	if f, ok := raw.(*frames); ok {
		raw = f.Conn
	}
	if t, ok := raw.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	if t, ok := raw.(*net.TCPConn); ok {
		if err := t.SetLinger(0); err != nil {
			return err
		}
	}
	return raw.Close()
}

// Net returns the transport. For WebSocket it carries MQTT bytes.
func (c *Conn) Net() net.Conn { return c.nc }

// frames is a WebSocket client's connection as a stream.
type frames struct {
	net.Conn
	in   io.Reader
	rest []byte
}

// NetConn returns the connection below.
func (f *frames) NetConn() net.Conn { return f.Conn }

// Read implements net.Conn.
func (f *frames) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		data, op, err := wsutil.ReadServerData(duplex{f.in, f.Conn})
		if err != nil {
			var closed wsutil.ClosedError
			if errors.As(err, &closed) {
				return 0, io.EOF
			}
			return 0, err
		}
		if op != ws.OpBinary {
			return 0, fmt.Errorf("peer: WebSocket frame of type %d", op)
		}
		f.rest = data
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

type duplex struct {
	io.Reader
	io.Writer
}

// Write implements net.Conn.
func (f *frames) Write(p []byte) (int, error) {
	if err := wsutil.WriteClientBinary(f.Conn, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseFrame sends a WebSocket close frame. It does nothing on other
// transports.
func (c *Conn) CloseFrame() error {
	f, ok := c.nc.(*frames)
	if !ok {
		return nil
	}
	return wsutil.WriteClientMessage(f.Conn, ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))
}
