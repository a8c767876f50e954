package broker

import (
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// deliver hands the client a message. It does not block.
func (c *conn) deliver(r *round, m *session.Message, qos packet.QoS, retain bool, ids []uint32, share string) {
	defer c.guard(r) // the publisher has no part in a fault here
	a := takeActions()
	in := session.Input{Kind: session.Deliver, Message: m, QoS: qos, Retain: retain, SubscriptionIDs: ids, Share: share}
	if !c.offer(r, in, a, false) {
		c.link.push(r) // it only waits for the end of the round
		c.offer(r, in, a, true)
	}
	if len(a.list) > 0 {
		c.perform(r, a)
	}
	a.put()
}

// offer gives the session a message, or reports false if there is more to write
// than there should be and the transport might take it now; last says that this
// does not matter any more.
func (c *conn) offer(r *round, in session.Input, a *actions, last bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.s.Online() {
		return true
	}
	if in.Congested = c.behind(); in.Congested && !last && !r.remote && !c.writing && c.stall.since == 0 {
		return false
	}
	c.stepLocked(r, in, a)
	return true
}

// end ends the session on the server's behalf. It reports whether the session
// was there to end.
func (c *conn) end(r *round, e session.Ending, code packet.ReasonCode) bool {
	a := takeActions()
	ended := c.endLocked(r, e, code, a)
	c.perform(r, a)
	a.put()
	return ended
}

func (c *conn) endLocked(r *round, e session.Ending, code packet.ReasonCode, a *actions) (ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.s.Ended()
	c.stepLocked(r, session.Input{Kind: session.Close, Ending: e, Code: code}, a)
	return !before && c.s.Ended()
}
