package bench

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/internal/mqtt/packet"
)

// engine moves the bytes of a shard's connections. There are two: event loops
// over plain TCP on Linux, and goroutines over any net.Conn.
type engine interface {
	// add takes a connection over before run. What was read ahead of the
	// engine is in c.rest already.
	add(c *conn, nc net.Conn) error
	// run moves bytes until stop, then closes the connections.
	run()
	// stop makes run return. It may be called from any goroutine, and again.
	stop()
	// close closes the connections of an engine that does not run.
	close()
}

// shard is a part of the load that no other shard talks to: everything in it
// is touched by one goroutine at a time. The fields above the line are read by
// everybody.
type shard struct {
	base      time.Time    // times are nanoseconds since then
	stopping  atomic.Bool  // nothing new is published any more
	recording atomic.Bool  // the warm-up is over
	delivered atomic.Int64 // as of the last round
	quiet     atomic.Bool  // stopping, and everything came that is awaited
	failed    chan error   // the first failure; buffered

	mu      sync.Mutex // held by the goroutines of the portable engine; event loops need no lock
	touched []*conn    // have something to be sent at the end of the round
	conns   []*conn
	groups  []*group
	arrived int64
	latency *histogram // nil: not measured
	late    *histogram // how late the generator itself was
	open    *schedule  // nil: a closed loop
}

func newShard(base time.Time) *shard {
	return &shard{base: base, failed: make(chan error, 1)}
}

func (s *shard) now() int64 { return int64(time.Since(s.base)) }

// fail reports a failure that ends the run.
func (s *shard) fail(err error) {
	select {
	case s.failed <- err:
	default: // one is enough
	}
}

// tickEvery is how often a closed loop looks for stalls.
const tickEvery = 50 * time.Millisecond

// tick does what is due at now and returns when to call it again.
func (s *shard) tick(now int64) int64 {
	next := now + int64(tickEvery)
	if s.open != nil {
		next = min(next, s.open.send(s, now))
	}
	idle := true
	for _, g := range s.groups {
		if !g.tick(now) {
			idle = false
		}
	}
	for _, c := range s.conns {
		c.keepAlive(now)
	}
	s.quiet.Store(s.stopping.Load() && idle)
	return next
}

// endRound publishes what the round has counted.
func (s *shard) endRound() { s.delivered.Store(s.arrived) }

// role is what a connection is there for.
type role interface {
	// take handles a packet: its first byte and what follows its length. The
	// body is valid until take returns.
	take(first byte, body []byte) error
}

// conn is a connection of a shard.
type conn struct {
	name    string
	shard   *shard
	version packet.Version
	role    role
	limit   int           // of a packet that arrives, bytes
	alive   time.Duration // keep alive that was agreed on; 0: none
	sentAt  int64         // as of the last tick with something sent
	sent    bool          // since the last tick

	rest  []byte // received, less than a packet
	out   []byte // to be sent at the end of the round
	dirty bool   // in shard.touched

	wire wire // the engine's part
}

// queue says that c.out has something for the end of the round.
func (c *conn) queue() {
	if !c.dirty {
		c.dirty, c.sent = true, true
		c.shard.touched = append(c.shard.touched, c)
	}
}

// feed handles what was received.
func (c *conn) feed(b []byte) error {
	if len(c.rest) > 0 {
		c.rest = append(c.rest, b...)
		b = c.rest
	}
	for {
		body, n, err := cut(b, c.limit)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if err := c.packet(b[0], b[body:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	c.rest = append(c.rest[:0], b...)
	return nil
}

func (c *conn) packet(first byte, body []byte) error {
	switch packet.Type(first >> 4) {
	case packet.PINGRESP:
		return nil
	case packet.DISCONNECT:
		code := packet.Success
		if len(body) > 0 {
			code = packet.ReasonCode(body[0])
		}
		return fmt.Errorf("%s: the broker sent DISCONNECT (%s)", c.name, code)
	}
	return c.role.take(first, body)
}

// keepAlive sends PINGREQ where nothing else has been sent for long.
func (c *conn) keepAlive(now int64) {
	if c.sent {
		c.sentAt, c.sent = now, false
		return
	}
	if c.alive > 0 && now-c.sentAt > int64(c.alive/2) {
		c.out = append(c.out, firstPingreq, 0)
		c.queue()
	}
}
