package broker

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"rollcall/internal/mqtt/listen"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// burst is what a reader needs while bytes flow. An idle connection has none.
type burst struct {
	buf     []byte
	publish packet.Publish
	puback  packet.Puback
}

const (
	burstBytes = 4 << 10
	keepBytes  = 64 << 10 // larger buffers are not kept in the pool
)

var bursts = sync.Pool{New: func() any { return &burst{buf: make([]byte, burstBytes)} }}

func putBurst(r *burst) {
	if cap(r.buf) <= keepBytes {
		r.buf = r.buf[:cap(r.buf)]
		r.publish = packet.Publish{}
		bursts.Put(r)
	}
}

var errConnected = errors.New("broker: the client is connected")

// read acts on what arrives until the transport or the session ends, and
// returns what the transport said; or, while connecting, errConnected once the
// client is connected.
func (c *conn) read(connecting bool) error {
	wait := waiter(c.nc)
	for {
		r, n, err := wait()
		if n > 0 {
			c.spoke = true
			err = c.burst(r, n, err)
		}
		if r != nil {
			putBurst(r)
		}
		if err != nil {
			return err
		}
		c.flush()
		if connecting && c.online() {
			return errConnected
		}
	}
}

func (c *conn) online() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.s.Online()
}

var errEnded = errors.New("broker: the session has ended")

// burst handles the n bytes in r and whatever it takes to complete the last
// packet.
func (c *conn) burst(r *burst, n int, readErr error) error {
	have := n // bytes in r.buf that are not handled
	for {
		used, err := c.packets(r, r.buf[:have])
		if err != nil {
			return err
		}
		copy(r.buf, r.buf[used:have])
		have -= used
		if readErr != nil {
			return readErr
		}
		if have == 0 {
			return nil
		}
		c.flush() // what was answered so far must not wait for the rest
		if have == len(r.buf) {
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		n, readErr = c.nc.Read(r.buf[have:])
		have += n
	}
}

// packets handles the whole packets at the beginning of data and returns how
// many bytes they took.
func (c *conn) packets(r *burst, data []byte) (used int, err error) {
	for {
		n, err := packet.Frame(data[used:], c.b.cfg.MaximumPacketSize)
		if err == nil && n == 0 {
			return used, nil
		}
		in := session.Input{Kind: session.Received}
		if err == nil {
			in.Packet, err = c.decode(r, data[used:used+n])
		}
		if err != nil {
			in.Kind, in.Text, in.Err = session.Garbled, packet.TypeOf(data[used]).String(), violation(err)
		} else {
			c.b.metrics.received(in.Packet.Type()).Inc()
		}
		if c.arrived(in) {
			return used, errEnded
		}
		used += n
	}
}

// violation is err as the codec tells it.
func violation(err error) *packet.Error {
	var e *packet.Error
	if !errors.As(err, &e) {
		e = &packet.Error{Code: packet.MalformedPacket, Message: err.Error()}
	}
	return e
}

// arrived gives the session what came from the client, once the connection is
// not frozen. It reports whether the session is over; what is performed after
// that is seen by the next call, or by the reader's next look at the transport.
func (c *conn) arrived(in session.Input) bool {
	todo, over := c.take(in)
	c.perform(todo)
	return over
}

func (c *conn) take(in session.Input) (todo *actions, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen {
		c.await(func(c *conn) bool { return !c.frozen })
	}
	in.Congested = c.behind()
	todo = c.stepLocked(in)
	return todo, c.s.Ended()
}

// decode uses r's structs for the packets that come often.
func (c *conn) decode(r *burst, frame []byte) (packet.Packet, error) {
	v := c.s.Version() // changed by CONNECT only, on this goroutine
	switch packet.TypeOf(frame[0]) {
	case packet.PUBLISH:
		return &r.publish, r.publish.Decode(v, frame)
	case packet.PUBACK:
		return &r.puback, r.puback.Decode(v, frame)
	}
	return packet.Decode(v, frame)
}

// What is done after the end of the session, within these bounds.
const (
	lingerTimeout = time.Second // for the client to close its side
	lingerBytes   = 1 << 20     // read and thrown away meanwhile
)

// farewell writes the last packets, closes our side and reads until the client
// has closed its own: closing with bytes unread would reset the connection, and
// the client might never see our last packet.
func (c *conn) farewell() {
	c.flush()
	c.mu.Lock()
	c.await(func(c *conn) bool { return !c.writing })
	c.mu.Unlock()
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.nc.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	r := bursts.Get().(*burst)
	defer putBurst(r)
	for n := 0; n < lingerBytes; {
		m, err := c.nc.Read(r.buf)
		if err != nil {
			return
		}
		n += m
	}
}

// ending says what an error of the transport means.
func ending(err error) session.Ending {
	var known *listen.Ending
	switch {
	case err == nil:
		return lostByClient
	case errors.As(err, &known):
		return session.Ending{Reason: known.Reason, Evidence: known.Evidence}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return lostByClient
	}
	e := lostByClient
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		e.Evidence.Detail = "the connection was reset"
	case errors.Is(err, syscall.EPIPE):
		e.Evidence.Detail = "the connection was closed while writing"
	case errors.Is(err, syscall.ETIMEDOUT):
		e.Evidence.Detail = "the connection timed out in the network"
	default:
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // without addresses
		}
		e.Evidence.Detail = "the connection failed: " + err.Error()
	}
	return e
}
