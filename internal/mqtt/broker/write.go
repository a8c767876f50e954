package broker

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// output is a buffer of encoded packets. A connection has one while there is
// something to write.
type output struct{ buf []byte }

var outputs = sync.Pool{New: func() any { return &output{buf: make([]byte, 0, 1<<10)} }}

func putOutput(o *output) {
	if cap(o.buf) <= keepBytes {
		o.buf = o.buf[:0]
		outputs.Put(o)
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
func (c *conn) behind() bool { return c.out != nil && len(c.out.buf) > c.b.opts.OutputBytes }

// append encodes a packet for the client. It reports false if the client has
// no room for it and cannot do without.
func (c *conn) append(p packet.Packet) bool {
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
	c.b.metrics.sent(p.Type()).Inc()
	return true
}

// appendPuback is append for the packet that is sent most often, without an
// allocation. No PUBACK of ours has problem information.
func (c *conn) appendPuback(id uint16, code packet.ReasonCode) bool {
	p := packet.Puback{PacketID: id, ReasonCode: code}
	o := c.buffer()
	buf, err := p.AppendTo(o.buf, c.s.Version())
	if limit := c.s.MaximumPacketSize(); err != nil || limit != 0 && uint64(len(buf)-len(o.buf)) > uint64(limit) {
		return false
	}
	o.buf = buf
	c.b.metrics.sent(packet.PUBACK).Inc()
	return true
}

func (c *conn) appendMessage(a *session.Action) {
	e, err := a.Message.Encoded(c.s.Version(), a.QoS, false)
	if err != nil { // the session has looked before
		c.b.metrics.drop("encoding")
		return
	}
	o := c.buffer()
	o.buf = e.AppendTo(o.buf, a.PacketID, false, a.Expiry)
	c.b.metrics.sent(packet.PUBLISH).Inc()
}

// startWriter starts a writer unless one is at work or there is nothing to do.
// The caller holds the lock.
func (c *conn) startWriter() {
	if c.writing || c.gone || c.out == nil {
		return
	}
	c.writing = true
	c.work.Go(func() { c.guarded(c.write) }) // ends when out is empty, or by WriteTimeout
}

// flush is the reader's: it writes what no other is writing. Where another
// does and the client is behind, it waits: a client that sends and does not
// read is not read from either, so that what it is owed stays bounded.
func (c *conn) flush() {
	c.mu.Lock()
	if c.writing {
		c.await(func(c *conn) bool { return !c.writing || !c.behind() })
	}
	if c.writing || c.gone || c.out == nil {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	c.write()
}

const closeTimeout = 5 * time.Second // for writing the last packets before a close

// write writes until nothing is left. The caller has set writing.
func (c *conn) write() {
	for {
		o, err := c.next()
		if o == nil {
			return
		}
		if err == nil {
			_, err = c.nc.Write(o.buf)
		}
		putOutput(o)
		if err != nil {
			c.writeFailed(err)
			return
		}
	}
}

// next takes what is to be written, or nil, and then writing has ended.
func (c *conn) next() (*output, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.signal()
	if c.out == nil && c.s.Waiting() && !c.gone {
		c.stepLocked(session.Input{Kind: session.Drain}) // leaves nothing to perform
	}
	if c.out == nil || c.gone {
		c.writing = false
		return nil, nil
	}
	o := c.out
	c.out = nil
	timeout := c.b.opts.WriteTimeout
	if c.s.Ended() {
		timeout = min(timeout, closeTimeout)
	}
	// Under the lock: a later Shut makes it shorter.
	return o, c.nc.SetWriteDeadline(time.Now().Add(timeout))
}

func (c *conn) writeFailed(err error) {
	e := ending(err)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		e = lostByClient
		e.Evidence.Detail = "the client accepted no bytes for " + c.b.opts.WriteTimeout.String()
	} else if errors.Is(err, net.ErrClosed) {
		e = lostByClient
	}
	c.mu.Lock()
	c.gone = true
	c.out = nil
	c.writing = false
	c.signal()
	c.mu.Unlock()
	c.perform(c.step(session.Input{Kind: session.Lost, Ending: e}))
	abort(c.nc) // the reader notices
}

// abort closes the transport without a word: the peer takes none, and a polite
// close of TLS or WebSocket would wait for it.
func abort(nc net.Conn) {
	for {
		inner, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		nc = inner.NetConn()
	}
	nc.Close()
}
