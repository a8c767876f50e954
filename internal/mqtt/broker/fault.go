package broker

import (
	"fmt"
	"runtime"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// guarded calls f so that a fault of ours in it ends this connection and
// nothing else. Every goroutine that steps the session does so under guard.
func (c *conn) guarded(r *round, f func()) {
	defer c.guard(r)
	f()
}

// guard is to be deferred.
func (c *conn) guard(r *round) {
	if what := recover(); what != nil {
		c.failed(r, what)
	}
}

// failed ends the connection because the server failed. The session may be in
// any state, so its end is not left to it.
func (c *conn) failed(r *round, what any) {
	c.b.metrics.panics.Inc()
	c.b.opts.Log.Error("a connection failed inside the server", "session", c.name.id, "panic", what, "stack", stack())
	e := session.Ending{Reason: disconnect.ServerError, Evidence: disconnect.Evidence{
		Kind: disconnect.Internal, Detail: "internal error: " + fmt.Sprint(what),
	}}
	defer func() {
		if recover() != nil { // it cannot even end
			c.link.abort()
		}
		c.release(r, e)
	}()
	c.end(r, e, packet.UnspecifiedError)
}

// release ends the hold of a connection that may not have come to do so: the
// first release counts. What is stored is left as by a client that was lost.
func (c *conn) release(r *round, e session.Ending) {
	c.mu.Lock()
	h, bx := c.hold, c.box
	c.mu.Unlock()
	if h == nil {
		return
	}
	expiry := uint32(0)
	if bx != nil {
		bx.park(c, &session.State{}, false)
		expiry = bx.expiry()
	}
	h.Release(e.Reason, e.Evidence, c.offline(expiry, true))
	if bx != nil && (expiry == 0 || bx.isDead()) && bx.online() == nil {
		bx.end(r)
	}
	c.mu.Lock()
	c.released = true
	paused, abandoned := c.s.Paused(), c.abandoned
	c.mu.Unlock()
	if abandoned { // by the owner, who thought that the end was being settled
		c.dissolve(r)
	}
	if paused { // the fault came while it was being admitted, which nobody will do now
		c.turnAway(r, "fault", packet.ServerUnavailable, "")
	}
}

// fault is for what runs for no connection in particular.
func (b *Broker) fault(what any) {
	b.metrics.panics.Inc()
	b.opts.Log.Error("a task failed inside the server", "panic", what, "stack", stack())
}

func stack() string {
	buf := make([]byte, 8<<10)
	return string(buf[:runtime.Stack(buf, false)])
}
