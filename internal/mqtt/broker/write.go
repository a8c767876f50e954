package broker

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/listen"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// output is a buffer of encoded packets. A connection has one while there is
// something to write.
type output struct {
	buf  []byte
	from int // what is before has been written
}

const keepBytes = 256 << 10 // larger buffers are not kept in the pool

var outputs = sync.Pool{New: func() any { return &output{buf: make([]byte, 0, 1<<10)} }}

func putOutput(o *output) {
	if o != nil && cap(o.buf) <= keepBytes {
		o.buf, o.from = o.buf[:0], 0
		outputs.Put(o)
	}
}

// join makes next, which may be nil, follow what is left of o. What has been
// written goes, once it is as much as what has not.
func (o *output) join(next *output) {
	if o.from >= len(o.buf)-o.from {
		o.buf, o.from = o.buf[:copy(o.buf, o.buf[o.from:])], 0
	}
	if next != nil {
		o.buf = append(o.buf, next.buf[next.from:]...)
		putOutput(next)
	}
}

// buffer is what packets are appended to. The caller holds the lock.
func (c *conn) buffer() *output {
	if c.out == nil {
		c.out = outputs.Get().(*output)
	}
	return c.out
}

// behind reports that the client reads more slowly than it is sent to. The
// caller holds the lock.
func (c *conn) behind() bool {
	n := c.link.backlog()
	if c.out != nil {
		n += len(c.out.buf) - c.out.from
	}
	return n > c.b.opts.OutputBytes
}

// drain sends what waits in the session once the transport has taken
// everything, and wakes whoever waited for that. The caller holds the lock.
func (c *conn) drain(r *round) {
	if c.out != nil || c.gone {
		return
	}
	if c.s.Waiting() {
		a := takeActions()
		c.stepLocked(r, session.Input{Kind: session.Drain}, a)
		if len(a.list) == 0 {
			a.put()
		} else { // messages that the client has no room for are given up
			c.b.admissions.submit(func() { c.performSoon(a) })
		}
	}
	c.signalRoom()
	if c.hungry && !c.behind() {
		c.hungry = false
		c.b.admissions.submit(c.box.kick) // its lock goes before ours
	}
}

// performSoon is perform, on a goroutine of its own, for who held the lock.
func (c *conn) performSoon(a *actions) {
	r := c.b.begin()
	defer c.b.done(r)
	c.guarded(r, func() { c.perform(r, a) })
	a.put()
}

// append encodes a packet for the client. It reports false if the client has
// no room for it and cannot do without.
func (c *conn) append(r *round, p packet.Packet) bool {
	if c.s.Quiet() {
		switch p.(type) {
		case *packet.Connack, *packet.Disconnect:
		default:
			p = packet.WithoutProblemInformation(p) // [MQTT-3.1.2-29]
		}
	}
	o := c.buffer()
	buf, err := packet.AppendLimited(o.buf, p, c.s.Version(), c.s.MaximumPacketSize())
	if err != nil { // [MQTT-3.1.2-24]
		return p.Type() == packet.DISCONNECT
	}
	o.buf = buf
	r.out[p.Type()&15]++
	return true
}

// appendAck is append for the packets that are sent most often, without an
// allocation. None of ours has problem information.
func (c *conn) appendAck(r *round, a *session.Action) bool {
	o := c.buffer()
	buf, err := packet.AppendAck(o.buf, c.s.Version(), a.Type, a.PacketID, a.Code)
	if limit := c.s.MaximumPacketSize(); err != nil || limit != 0 && uint64(len(buf)-len(o.buf)) > uint64(limit) {
		return false
	}
	o.buf = buf
	r.out[a.Type&15]++
	return true
}

func (c *conn) appendMessage(r *round, a *session.Action) {
	o := c.buffer()
	buf, err := a.AppendMessage(o.buf, c.s.Version())
	if err != nil { // the session has looked before
		c.b.metrics.drop("encoding")
		return
	}
	r.gathered += len(buf) - len(o.buf)
	o.buf = buf
	r.out[packet.PUBLISH]++
}

var lostByClient = session.Ending{
	Reason: disconnect.ConnectionLost,
	Evidence: disconnect.Evidence{
		Kind: disconnect.Transport, Detail: "the client closed the connection without DISCONNECT",
	},
}

func stalledEnding(after time.Duration) session.Ending {
	e := lostByClient
	e.Evidence.Detail = "the client acknowledged no bytes for " + after.String()
	return e
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
