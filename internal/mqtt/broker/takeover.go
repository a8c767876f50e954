package broker

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// A client that connects again may be heard on the new connection before the
// server has read, or acted on, all that it sent on the old one. What the client
// did in order must have its effect in order:
//
//  1. Before the new connection claims the session, the old one handles what has
//     arrived on it (awaitLastWords): a DISCONNECT that was sent before the new
//     CONNECT is the client's own end, not a take-over.
//  2. When the claim is durable, the old one is ended, and its owner publishes
//     the Will and leaves (depart). Only then is the new one admitted
//     (afterEarlier), so that CONNACK, and whatever is sent on the new
//     connection, come after all that the old one leaves [MQTT-3.1.4-3].
//
// The realm knows the connections of a name, linked from the newest to the
// oldest that has not left. Step 1 waits for those that came before, in the
// order in which they were accepted; step 2 for those that held the session
// before, in the order of the ledger. Neither order has a cycle.

const (
	// lastWordsTimeout bounds step 1 where the old connection cannot go on: its
	// own claim waits for the disk, or its writer for the peer. What such a
	// connection has not read by then is not handled.
	lastWordsTimeout = 2 * time.Second
	// lastWordsBytes bounds step 1 for a client that goes on sending. It is more
	// than the receive buffer of a socket holds.
	lastWordsBytes = 8 << 20
	// lastWordsFrom is how many connections of a name are waited for.
	lastWordsFrom = 8
)

// join makes c the newest connection of its name and returns up to limit of
// those before it, newest first.
func (rl *realm) join(c *conn, limit int) (earlier []*conn) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	c.earlier = rl.newest[c.name.id]
	rl.newest[c.name.id] = c
	for e := c.earlier; e != nil && len(earlier) < limit; e = e.earlier {
		earlier = append(earlier, e)
	}
	return earlier
}

// part undoes join.
func (rl *realm) part(c *conn) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	at := rl.newest[c.name.id]
	if at == c {
		if c.earlier == nil {
			delete(rl.newest, c.name.id)
		} else {
			rl.newest[c.name.id] = c.earlier
		}
		c.earlier = nil
		return
	}
	for ; at != nil; at = at.earlier {
		if at.earlier == c {
			at.earlier, c.earlier = c.earlier, nil
			return
		}
	}
}

// holds notes that c holds its session now and returns those that held it
// before and have not left. It is called in the turn of the session's name.
func (rl *realm) holds(c *conn) (before []*conn) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	c.claimed = true
	for e := rl.newest[c.name.id]; e != nil; e = e.earlier {
		if e.claimed && e != c {
			before = append(before, e)
		}
	}
	return before
}

// awaitLastWords calls then once the connections of the same name that came
// before have handled what had arrived on them, or cannot.
func (c *conn) awaitLastWords(then func()) {
	earlier := c.realm.join(c, lastWordsFrom)
	if len(earlier) == 0 {
		then()
		return
	}
	var once sync.Once
	goOn := func() { once.Do(then) }
	timer := c.b.opts.Clock.AfterFunc(lastWordsTimeout, goOn)
	left := new(atomic.Int32)
	left.Store(int32(len(earlier)))
	for _, e := range earlier {
		e.onCaughtUp(func() {
			if left.Add(-1) == 0 {
				timer.Stop()
				goOn()
			}
		})
	}
}

// onCaughtUp has the owner read and handle what has arrived so far, and then
// call done; or calls done at once if the session is over.
func (c *conn) onCaughtUp(done func()) {
	c.mu.Lock()
	if c.released || c.departed {
		c.mu.Unlock()
		done()
		return
	}
	if len(c.catchUps) == 0 {
		c.caught = 0
	}
	c.catchUps = append(c.catchUps, done)
	c.link.catchUp()
	c.mu.Unlock()
}

// askers is how many wait until what has arrived is handled. A look at the
// transport answers those who had asked before it.
func (c *conn) askers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.catchUps)
}

// caughtUp tells the first n of those that wait that what had arrived is
// handled, or will not be.
func (c *conn) caughtUp(n int) {
	c.mu.Lock()
	n = min(n, len(c.catchUps))
	done := c.catchUps[:n:n]
	c.catchUps = c.catchUps[n:]
	c.mu.Unlock()
	for _, f := range done {
		f()
	}
}

// afterEarlier calls f once those that held the session before c have left, on
// the goroutine of the last of them, or at once.
func (c *conn) afterEarlier(r *round, before []*conn, f func(*round)) {
	left := new(atomic.Int32)
	left.Store(int32(len(before)) + 1)
	one := func(r *round) {
		if left.Add(-1) == 0 {
			defer c.guard(r)
			f(r)
		}
	}
	for _, e := range before {
		if !e.onDeparture(one) {
			one(r)
		}
	}
	one(r)
}

// onDeparture has f called when c has left, or reports that it has.
func (c *conn) onDeparture(f func(*round)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.departed {
		return false
	}
	c.successors = append(c.successors, f)
	return true
}

// depart is for when all that c leaves has been published: whoever takes its
// place may go on.
func (c *conn) depart(r *round) {
	r.submit() // stored before what the next one sends
	c.mu.Lock()
	c.departed = true
	if c.gone { // its transport is closed after this
		c.link.rouse()
	}
	next := c.successors
	c.successors = nil
	c.mu.Unlock()
	c.realm.part(c)
	c.caughtUp(math.MaxInt)
	for _, f := range next {
		f(r)
	}
}

// departAtLast is for a connection whose transport is closed: had its end failed
// inside the server, its successors would wait for ever.
func (c *conn) departAtLast() {
	c.mu.Lock()
	departs := c.departs || c.dissolves || c.abandoned // then whoever ended it sees to it
	c.mu.Unlock()
	if departs {
		return
	}
	r := c.b.begin()
	defer c.b.done(r)
	c.depart(r)
}

// Freeze implements Connection: nothing more that arrives is acted on.
func (c *conn) Freeze() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = true
}

// Unfreeze implements Connection.
func (c *conn) Unfreeze() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = false
	c.link.rouse()
}

// Evict implements Connection.
func (c *conn) Evict(v disconnect.Evidence) {
	r := c.b.begin()
	defer c.b.done(r)
	defer c.Unfreeze()
	defer c.guard(r)
	c.mu.Lock()
	c.evicted = true
	c.mu.Unlock()
	c.end(r, session.Ending{Reason: disconnect.SessionTakenOver, Evidence: v}, packet.SessionTakenOver)
}

// Gone implements Connection.
func (c *conn) Gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}
