package broker

import (
	"math"
	"time"

	"rollcall/internal/mqtt/session"
)

// A client is taken for dead when nothing has come from it for too long, or
// when it has taken nothing that is sent to it for too long. Both are facts
// about the client only if we have looked: packets that wait in the system's
// buffers have come although nobody has read them, and a large write that has
// not finished may have been making progress all the while. So what a timer
// suggests is looked up before it is acted on.

// stall is what waits for a transport that takes no more bytes. A conn's lock
// guards it.
type stall struct {
	since    time.Duration // that the peer has acknowledged nothing more; monotonic, 0: nothing waits
	checked  time.Duration // when progress was last looked at
	progress uint64        // what the peer had acknowledged then
}

// stallChecks is how often progress is looked at within the time that a client
// may take.
const stallChecks = 4

// unknownProgress differs from whatever is found: writes are frequent, looking
// is not free, and the first look comes soon enough.
const unknownProgress = math.MaxUint64

// stalls notes that bytes wait for the transport to take them. The caller holds
// the lock.
func (c *conn) stalls() {
	if c.stall.since != 0 {
		return
	}
	now := c.b.clock.Monotonic() // the round may have begun long ago
	c.stall = stall{since: now, checked: now, progress: unknownProgress}
	c.schedule()
}

// stallsAnew gives the transport its time for the last words from now on, however
// long it has taken nothing before. The caller holds the lock.
func (c *conn) stallsAnew() {
	if c.stall.since != 0 {
		c.stall.since = c.b.clock.Monotonic()
		c.stall.checked = c.stall.since
		c.schedule()
	}
}

// deadline is when the connection is to be looked at: the session's, or that of
// a transport which takes no bytes; 0: never. The caller holds the lock.
func (c *conn) deadline() time.Duration {
	at := c.s.Deadline(c.b.clock.Instant())
	if c.stall.since == 0 {
		return at
	}
	if next := c.stall.checked + c.writeTimeout()/stallChecks; at == 0 || next < at {
		at = next
	}
	return at
}

// isStuck reports that the peer has acknowledged nothing for too long. The
// caller holds the lock.
func (c *conn) isStuck(now time.Duration) bool {
	st := &c.stall
	if st.since == 0 {
		return false
	}
	st.checked = now
	n, waits := c.link.progress()
	if (n != st.progress || !waits) && !c.s.Ended() { // what is left after the end is worth closeTimeout only
		st.progress, st.since = n, now
	}
	return now-st.since >= c.writeTimeout()
}

// isDeaf reports that what the client sends is not being read, which is not its
// silence. The caller holds the lock.
func (c *conn) isDeaf() bool {
	return c.frozen || c.indebted || len(c.fans) > 0 || c.s.Paused() || c.link.isDeaf()
}

// tick wakes connections whose deadline may have come.
func (b *Broker) tick(due []*conn) {
	if len(due) == 0 {
		return
	}
	r := b.begin()
	defer b.done(r)
	for _, c := range due {
		c.tick(r)
	}
}

func (c *conn) tick(r *round) {
	defer c.guard(r)
	a := takeActions()
	v := c.tickLocked(r, a)
	switch v {
	case tickStuck:
		c.step(r, session.Input{Kind: session.Lost, Ending: stalledEnding(c.b.opts.WriteTimeout)})
		c.link.abort()
	case tickLate:
		c.onCaughtUp(c.silent)
	}
	c.perform(r, a)
	a.put()
}

// silent ends the session if nothing has come from the client, now that
// whatever has arrived was read.
func (c *conn) silent() {
	r := c.b.begin()
	defer c.b.done(r)
	defer c.guard(r)
	a := takeActions()
	c.silentLocked(r, a)
	c.perform(r, a)
	a.put()
}

func (c *conn) silentLocked(r *round, a *actions) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s.Late(r.now) && c.isDeaf() { // there was more than is read at once
		c.stepLocked(r, session.Input{Kind: session.Heard}, a)
	}
	c.stepLocked(r, session.Input{Kind: session.Tick}, a) // schedules again
}

// tickVerdict says what is to be done after a tick, without the lock.
type tickVerdict uint8

const (
	tickDone  tickVerdict = iota
	tickStuck             // the transport has taken no bytes for too long
	tickLate              // nothing has been read for too long
)

func (c *conn) tickLocked(r *round, a *actions) tickVerdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isStuck(r.now.Mono) {
		c.stall = stall{}
		c.gone = true
		return tickStuck
	}
	if c.s.Ended() {
		c.schedule()
		c.link.rouse()
		return tickDone
	}
	if c.s.Late(r.now) {
		if !c.isDeaf() {
			return tickLate
		}
		c.stepLocked(r, session.Input{Kind: session.Heard}, a)
	}
	c.stepLocked(r, session.Input{Kind: session.Tick}, a) // schedules again
	return tickDone
}

// largePacket is how much of a packet must be there for its client to be in the
// middle of a large one.
const largePacket = 1 << 10

// trickles notes that bytes have come and that n of them are no whole packet
// yet: a client in the middle of a large one is not silent. Part of a small one
// is no packet [MQTT-3.1.2-22].
func (c *conn) trickles(r *round, n int) {
	if n < largePacket {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a := takeActions()
	a.list = c.s.Step(session.Input{Kind: session.Heard}, r.now, a.list) // asks for nothing
	a.put()
}
