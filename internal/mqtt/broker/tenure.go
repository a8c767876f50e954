package broker

import (
	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

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
	c.end(r, session.Ending{Reason: disconnect.SessionTakenOver, Evidence: v}, packet.SessionTakenOver)
}

// Gone implements Connection.
func (c *conn) Gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}
