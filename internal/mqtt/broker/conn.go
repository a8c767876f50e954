package broker

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/listen"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/topic"
)

// conn drives one session over one transport. Its reader is the goroutine that
// runs live: it alone reads, subscribes, routes what the client publishes,
// its Will last, says good-bye and closes. Whoever else ends the session wakes
// it. A writer exists only while there is something to write; live waits for
// it.
type conn struct {
	b    *Broker
	nc   net.Conn
	info listen.Info
	name sessionName // set before the session is claimed, constant from then on
	tree *topic.Tree[*conn, grant]
	work sync.WaitGroup // the writer
	// spoke: bytes have come from the client. It is the reader's.
	spoke bool

	mu       sync.Mutex
	s        *session.Session
	out      *output       // encoded packets not written yet; nil if there are none
	writing  bool          // a goroutine is writing
	gone     bool          // the transport is dead, or closed by us
	frozen   bool          // what arrives must wait: the session is being taken over
	wake     chan struct{} // the reader waits for it; nil if it does not
	hold     Hold
	will     *session.Message // due, to be published by the reader
	standing func() error
	timer    clock.Timer
	timerAt  time.Time
	timerNo  uint32 // tells a timer that was replaced from its successor
}

// Serve serves one connection until it has ended, closes it, and calls done.
// It may return before. It implements listen.Handler.
func (b *Broker) Serve(nc net.Conn, info listen.Info, done func()) {
	c := &conn{b: b, nc: nc, info: info, s: session.New(&b.cfg, b.opts.Clock.Now())}
	c.tree = b.enter(c)
	if c.tree == nil {
		nc.Close()
		done()
		return
	}
	c.mu.Lock()
	c.arm()
	c.mu.Unlock()
	c.live(done, true)
}

// live reads until the connection has ended. The judgement of CONNECT grows
// the stack beyond what a connection needs that rests, and stacks shrink late
// and not all the way: once CONNACK has left, a fresh goroutine goes on.
func (c *conn) live(done func(), connecting bool) {
	var err error
	c.guarded(func() { err = c.read(connecting) })
	if errors.Is(err, errConnected) {
		go c.live(done, false) // in place of this one
		return
	}
	c.guarded(func() { c.finish(err) })
	c.close()
	c.b.leave(c)
	done()
}

// finish settles the end of the session once the reader has stopped with err.
func (c *conn) finish(err error) {
	c.mu.Lock()
	over := c.s.Ended() // and the transport lives: there are last words
	c.gone = c.gone || !over
	c.mu.Unlock()
	c.perform(c.step(session.Input{Kind: session.Lost, Ending: ending(err)}))
	c.tree.RemoveAll(c)
	c.mu.Lock()
	will := c.will
	c.mu.Unlock()
	if will != nil {
		will.Received = c.b.opts.Clock.Now()
		c.route(will)
	}
	if over && c.spoke { // whoever was silent is told nothing, and has nothing unread that would reset the connection
		c.farewell()
	}
}

// close closes the transport and waits for the writer.
func (c *conn) close() {
	c.mu.Lock()
	c.gone = true
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.mu.Unlock()
	c.nc.Close()
	c.work.Wait()
}

// step gives the session one input and returns what is left to perform. It
// must be called without the lock.
func (c *conn) step(in session.Input) *actions {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stepLocked(in)
}

// stepLocked gives the session one input. What can be done under the lock is
// done; the rest is returned, to be given to perform without the lock.
func (c *conn) stepLocked(in session.Input) *actions {
	a := actionLists.Get().(*actions)
	a.list = c.s.Step(in, c.b.opts.Clock.Now(), a.list[:0])
	misfit, left := c.carryOut(a.list)
	if misfit != 0 && !c.s.Ended() {
		// A client that cannot be acknowledged cannot be served.
		e, code := tooSmall(c.s.MaximumPacketSize(), misfit), packet.PacketTooLarge
		if misfit == packet.CONNACK { // nothing goes before it [MQTT-3.2.0-1]
			code = 0
		}
		n := len(a.list)
		a.list = c.s.Step(session.Input{Kind: session.Close, Ending: e, Code: code}, c.b.opts.Clock.Now(), a.list)
		c.carryOut(a.list[n:])
		left = true
	}
	if in.Kind != session.Received && in.Kind != session.Deliver {
		c.arm()
	}
	if !left {
		a.put()
		return nil
	}
	return a
}

// actions are what a step asked for. They are pooled: every packet makes some.
type actions struct{ list []session.Action }

var actionLists = sync.Pool{New: func() any { return &actions{list: make([]session.Action, 0, 4)} }}

func (a *actions) put() {
	if cap(a.list) <= 64 {
		clear(a.list)
		actionLists.Put(a)
	}
}

// carryOut does what is done under the lock. It returns the type of a packet
// that the client has no room for, or 0, and whether anything is left.
func (c *conn) carryOut(acts []session.Action) (misfit packet.Type, left bool) {
	for i := range acts {
		a := &acts[i]
		switch a.Kind {
		case session.Send:
			if !c.append(a.Packet) && misfit == 0 {
				misfit = a.Packet.Type()
			}
		case session.SendPuback:
			if !c.appendPuback(a.PacketID, a.Code) && misfit == 0 {
				misfit = packet.PUBACK
			}
		case session.SendMessage:
			c.appendMessage(a)
		case session.Drop:
			c.b.metrics.drop(a.Ending.Evidence.Detail)
		case session.End:
			c.will, left = a.Will, true
		case session.Shut:
			// The reader goes on to finish, and no write keeps it for long.
			now := time.Now()
			_ = c.nc.SetReadDeadline(now) // it fails only if the transport is dead
			_ = c.nc.SetWriteDeadline(now.Add(min(c.b.opts.WriteTimeout, closeTimeout)))
		default:
			left = true
		}
	}
	return misfit, left
}

func tooSmall(limit uint32, t packet.Type) session.Ending {
	return session.Ending{Reason: disconnect.ClientError, Evidence: disconnect.Evidence{
		Kind: disconnect.Limit, Packet: t.String(),
		Detail: fmt.Sprintf("the client accepts packets of at most %d bytes, and its %s takes more", limit, t),
	}}
}

// perform carries out what needs no lock, or other connections' locks, and
// takes todo, which may be nil, over.
func (c *conn) perform(todo *actions) {
	if todo == nil {
		return
	}
	defer todo.put()
	for i := range todo.list {
		a := &todo.list[i]
		switch a.Kind {
		case session.Admit:
			c.admit(a.ClientID, a.Connect)
		case session.Route:
			c.route(a.Message)
			if a.Token != 0 {
				c.committed(a.Token, nil)
			}
		case session.Subscribe:
			c.subscribe(a.Subscriptions, a.Codes)
			c.committed(a.Token, a.Codes)
		case session.Unsubscribe:
			for _, f := range a.Filters {
				c.tree.Unsubscribe(f, c)
			}
			c.committed(a.Token, a.Codes)
		case session.End:
			c.ended(a.Ending)
		}
	}
}

func (c *conn) committed(token uint32, codes []packet.ReasonCode) {
	c.perform(c.step(session.Input{Kind: session.Committed, Token: token, Codes: codes}))
}

// subscribe is the reader's, and so is the removal of all subscriptions.
func (c *conn) subscribe(subs []packet.Subscription, codes []packet.ReasonCode) {
	for i, sub := range subs {
		if !codes[i].Failed() {
			c.tree.Subscribe(sub.Filter, c, grant{conn: c, qos: sub.QoS, noLocal: sub.NoLocal})
		}
	}
}

// ended settles the end of an admitted session. The reader does the rest.
func (c *conn) ended(e session.Ending) {
	c.mu.Lock()
	h := c.hold
	c.mu.Unlock()
	h.Release(e.Reason, e.Evidence)
	c.b.opts.Log.Debug("session ended", "session", c.name.id, "reason", e.Reason.String(), "detail", e.Evidence.Detail)
}

// deliver hands the client a message. It does not block. The reader's own
// messages are written when it is through with what it has read.
func (c *conn) deliver(m *session.Message, qos packet.QoS, own bool) {
	defer c.guard() // the publisher has no part in a fault here
	c.perform(c.offer(m, qos, own))
}

func (c *conn) offer(m *session.Message, qos packet.QoS, own bool) *actions {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.s.Online() {
		return nil
	}
	todo := c.stepLocked(session.Input{Kind: session.Deliver, Message: m, QoS: qos, Congested: c.behind()})
	if !own {
		c.startWriter()
	}
	return todo
}

// end ends the session on the server's behalf. It reports whether the session
// was there to end.
func (c *conn) end(e session.Ending, code packet.ReasonCode) bool {
	todo, ended := c.endLocked(e, code)
	c.perform(todo)
	return ended
}

func (c *conn) endLocked(e session.Ending, code packet.ReasonCode) (todo *actions, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.s.Ended()
	todo = c.stepLocked(session.Input{Kind: session.Close, Ending: e, Code: code})
	c.startWriter()
	return todo, !before && c.s.Ended()
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
	return c.end(session.Ending{
		Reason:   disconnect.ClientAuthenticationError,
		Evidence: disconnect.Evidence{Kind: disconnect.Config, Detail: err.Error()},
	}, packet.NotAuthorized)
}
