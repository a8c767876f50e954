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
	c.signal()
}

// Evict implements Connection.
func (c *conn) Evict(v disconnect.Evidence) {
	defer c.Unfreeze()
	defer c.guard()
	c.end(session.Ending{Reason: disconnect.SessionTakenOver, Evidence: v}, packet.SessionTakenOver)
}

// Gone implements Connection.
func (c *conn) Gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

// await waits, with the lock held but while it sleeps, until done. Only the
// reader may.
func (c *conn) await(done func(*conn) bool) {
	for !done(c) {
		woken := make(chan struct{})
		c.wake = woken
		c.mu.Unlock()
		<-woken
		c.mu.Lock()
	}
}

// signal has the reader look again whether what it waits for has come.
func (c *conn) signal() {
	if c.wake != nil {
		close(c.wake)
		c.wake = nil
	}
}
