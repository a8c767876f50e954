package broker

import "rollcall/internal/mqtt/session"

// arm makes the timer fire when the session's deadline comes. A deadline that
// moves away costs nothing: the timer fires early and is set again.
func (c *conn) arm() {
	at := c.s.Deadline()
	if at.IsZero() || c.gone || c.timer != nil && !at.Before(c.timerAt) {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.timerNo++
	no := c.timerNo
	c.timerAt = at
	c.timer = c.b.opts.Clock.AfterFunc(max(0, at.Sub(c.b.opts.Clock.Now())), func() { c.tick(no) })
}

func (c *conn) tick(no uint32) {
	defer c.guard()
	c.perform(c.tickLocked(no))
}

func (c *conn) tickLocked(no uint32) *actions {
	c.mu.Lock()
	defer c.mu.Unlock()
	if no != c.timerNo {
		return nil
	}
	c.timer = nil
	todo := c.stepLocked(session.Input{Kind: session.Tick}) // arms again
	c.startWriter()
	return todo
}
