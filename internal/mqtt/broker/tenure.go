package broker

import (
	"context"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// catchUpTimeout bounds how long a take-over waits for what the old connection
// has sent before.
const catchUpTimeout = 100 * time.Millisecond

// awaitLastWords has the connection that holds the session, if there is one,
// handle what it has sent before it is taken over. A client that sends
// DISCONNECT and connects again at once may be read here first; without this
// its Will would be published [MQTT-3.14.4-3], and it would seem to have been
// taken over. It cannot be heard if it comes late, behind more than a turn's
// bytes or unread answers, or over a stream.
func (c *conn) awaitLastWords(ctx context.Context) {
	old := c.realm.holding(c.name.id)
	if old == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	said := make(chan struct{})
	old.link.catchUp(func() { close(said) })
	select {
	case <-said:
	case <-ctx.Done():
	}
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
	c.end(r, session.Ending{Reason: disconnect.SessionTakenOver, Evidence: v}, packet.SessionTakenOver)
}

// Gone implements Connection.
func (c *conn) Gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}
