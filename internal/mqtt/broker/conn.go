package broker

import (
	"fmt"
	"net"
	"sync"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/listen"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// conn drives one session over one transport. Its reader is the goroutine that
// called Serve; a writer exists only while there is something to write.
type conn struct {
	b    *Broker
	nc   net.Conn
	info listen.Info
	name sessionName // set before the session is claimed, constant from then on

	mu       sync.Mutex
	s        *session.Session
	out      []byte        // encoded packets not written yet
	writing  bool          // a goroutine is writing
	shut     bool          // close the transport once out is written
	gone     bool          // the transport is dead
	thaw     chan struct{} // not nil while frozen; closed by Unfreeze and Evict
	hold     Hold
	standing func() error
	timer    clock.Timer
	timerAt  time.Time
}

// Serve serves one connection until it has ended, and closes it. It implements
// listen.Handler.
func (b *Broker) Serve(nc net.Conn, info listen.Info) {
	c := &conn{b: b, nc: nc, info: info, s: session.New(&b.cfg, b.opts.Clock.Now())}
	if !b.enter(c) {
		nc.Close()
		return
	}
	defer b.leave(c)
	c.mu.Lock()
	c.arm()
	c.mu.Unlock()
	defer c.disarm()
	// The one place where a fault of ours is kept from taking others with it.
	defer func() {
		if r := recover(); r != nil {
			b.metrics.panics.Inc()
			b.opts.Log.Error("a connection failed inside the server", "session", c.name.id, "panic", r, "stack", stack())
			c.fault(fmt.Sprint(r))
		}
	}()
	c.read()
}

// step gives the session one input and carries out what follows. It must be
// called without the lock. It reports whether the session ended by it.
func (c *conn) step(in session.Input) bool {
	c.mu.Lock()
	ended, todo := c.stepLocked(in)
	c.mu.Unlock()
	c.perform(todo)
	return ended
}

// stepLocked gives the session one input. What can be done under the lock is
// done; the rest is returned, to be given to perform without the lock.
func (c *conn) stepLocked(in session.Input) (ended bool, todo []session.Action) {
	before := c.s.Ended()
	acts := c.s.Step(in, c.b.opts.Clock.Now(), nil)
	for i := range acts {
		a := &acts[i]
		switch a.Kind {
		case session.Send:
			c.append(a.Packet)
		case session.SendMessage:
			c.appendMessage(a)
		case session.Shut:
			c.shut = true
		default:
			todo = append(todo, *a)
		}
	}
	if in.Kind != session.Received && in.Kind != session.Deliver {
		c.arm()
	}
	return !before && c.s.Ended(), todo
}

// append encodes a packet for the client.
func (c *conn) append(p packet.Packet) {
	if c.s.Quiet() {
		switch p.(type) {
		case *packet.Connack, *packet.Disconnect:
		default:
			p = packet.WithoutProblemInformation(p) // [MQTT-3.1.2-29]
		}
	}
	out, err := packet.AppendLimited(c.out, p, c.s.Version(), c.s.MaximumPacketSize())
	if err != nil { // too large for the client: it has to do without [MQTT-3.1.2-24]
		c.b.metrics.dropped.WithLabelValues("too_large").Inc()
		return
	}
	c.out = out
	c.b.metrics.sent(p.Type()).Inc()
}

func (c *conn) appendMessage(a *session.Action) {
	e, err := a.Message.Encoded(c.s.Version(), a.QoS, false)
	if err != nil { // the session has looked before
		c.b.metrics.dropped.WithLabelValues("encoding").Inc()
		return
	}
	c.out = e.AppendTo(c.out, a.PacketID, false, a.Expiry)
	c.b.metrics.sent(packet.PUBLISH).Inc()
}

// perform carries out what needs no lock, or other connections' locks, and
// then sees to it that what is to be sent gets written.
func (c *conn) perform(todo []session.Action) {
	for i := range todo {
		a := &todo[i]
		switch a.Kind {
		case session.Admit:
			c.admit(a)
		case session.Route:
			c.b.route(a.Message)
			if a.Token != 0 {
				c.step(session.Input{Kind: session.Committed, Token: a.Token})
			}
		case session.Subscribe:
			c.subscribe(a)
		case session.Unsubscribe:
			for _, f := range a.Filters {
				c.b.tree.Unsubscribe(f, c)
			}
			c.step(session.Input{Kind: session.Committed, Token: a.Token, Codes: a.Codes})
		case session.Drop:
			c.b.metrics.dropped.WithLabelValues(a.Ending.Evidence.Detail).Inc()
		case session.End:
			c.ended(a)
		}
	}
}

func (c *conn) subscribe(a *session.Action) {
	for i, sub := range a.Subscriptions {
		if !a.Codes[i].Failed() {
			c.b.tree.Subscribe(sub.Filter, c, grant{conn: c, qos: sub.QoS, noLocal: sub.NoLocal})
		}
	}
	c.mu.Lock()
	ended := c.s.Ended()
	c.mu.Unlock()
	if ended { // by someone else, who may have been here before us
		c.b.tree.RemoveAll(c)
		return
	}
	c.step(session.Input{Kind: session.Committed, Token: a.Token, Codes: a.Codes})
}

// ended settles the end of an admitted session.
func (c *conn) ended(a *session.Action) {
	c.b.tree.RemoveAll(c)
	c.mu.Lock()
	h := c.hold
	c.mu.Unlock()
	h.Release(a.Ending.Reason, a.Ending.Evidence)
	c.b.opts.Log.Debug("session ended", "session", c.name.id, "reason", a.Ending.Reason.String(),
		"detail", a.Ending.Evidence.Detail)
	if a.Will != nil {
		a.Will.Received = c.b.opts.Clock.Now()
		c.b.route(a.Will)
	}
}

// deliver hands the client a message. It does not block.
func (c *conn) deliver(m *session.Message, qos packet.QoS) {
	c.mu.Lock()
	if !c.s.Online() {
		c.mu.Unlock()
		return
	}
	_, todo := c.stepLocked(session.Input{
		Kind: session.Deliver, Message: m, QoS: qos, Congested: len(c.out) > c.b.opts.OutputBytes,
	})
	c.startWriter()
	c.mu.Unlock()
	c.perform(todo)
}

// close ends the session on the server's behalf. It reports whether the
// session was there to end.
func (c *conn) close(e session.Ending, code packet.ReasonCode) bool {
	ended := c.step(session.Input{Kind: session.Close, Ending: e, Code: code})
	c.mu.Lock()
	c.startWriter()
	c.mu.Unlock()
	return ended
}

// reconsider ends the session if the client would not be let in any more.
func (c *conn) reconsider() bool {
	c.mu.Lock()
	standing := c.standing
	c.mu.Unlock()
	if standing == nil {
		return false
	}
	err := standing()
	if err == nil {
		return false
	}
	return c.close(session.Ending{
		Reason:   disconnect.ClientAuthenticationError,
		Evidence: disconnect.Evidence{Kind: disconnect.Config, Detail: err.Error()},
	}, packet.NotAuthorized)
}

// fault ends the session because the server failed.
func (c *conn) fault(what string) {
	c.close(session.Ending{
		Reason:   disconnect.ServerError,
		Evidence: disconnect.Evidence{Kind: disconnect.Internal, Detail: "internal error: " + what},
	}, packet.UnspecifiedError)
}

// Freeze implements Connection: nothing more that arrives is acted on.
func (c *conn) Freeze() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.thaw == nil {
		c.thaw = make(chan struct{})
	}
}

// Unfreeze implements Connection.
func (c *conn) Unfreeze() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.thaw != nil {
		close(c.thaw)
		c.thaw = nil
	}
}

// Evict implements Connection.
func (c *conn) Evict(v disconnect.Evidence) {
	c.close(session.Ending{Reason: disconnect.SessionTakenOver, Evidence: v}, packet.SessionTakenOver)
	c.Unfreeze()
}

// Gone implements Connection.
func (c *conn) Gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

// arm makes the timer fire when the session's deadline comes. A deadline that
// moves away costs nothing: the timer fires early and is set again.
func (c *conn) arm() {
	at := c.s.Deadline()
	if at.IsZero() || c.timer != nil && !at.Before(c.timerAt) {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.timerAt = at
	c.timer = c.b.opts.Clock.AfterFunc(max(0, at.Sub(c.b.opts.Clock.Now())), c.tick)
}

func (c *conn) disarm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}

func (c *conn) tick() {
	c.mu.Lock()
	c.timer = nil
	_, todo := c.stepLocked(session.Input{Kind: session.Tick}) // arms again
	c.startWriter()
	c.mu.Unlock()
	c.perform(todo)
}
