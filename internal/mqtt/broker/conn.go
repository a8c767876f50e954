package broker

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/listen"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
)

// conn drives one session over one transport, which its link knows. It has an
// owner, the goroutine that reads: a goroutine of its own (stream) or an event
// loop (socket). The owner alone subscribes, routes what the client publishes,
// its Will last, and closes. Whoever else steps the session touches it in a
// round, and rouses the owner where that has something to do.
type conn struct {
	b     *Broker
	link  link
	info  listen.Info
	name  sessionName // set before the session is claimed, constant from then on
	realm *realm
	box   *box // of a session that outlives the connection; set before it is admitted

	partition uint8 // of the session's name

	// The owner's.
	listens bool  // it has had subscriptions
	batch   uint8 // packets to be handled under one lock; 0: it has just come

	unsubscribed atomic.Uint64 // see grant.unsubscribed

	spoke spoke // in the broker's wheel, whose lock guards it

	mu        sync.Mutex
	s         *session.Session
	out       *output // encoded packets not written yet; nil if there are none
	stall     stall   // of a transport that takes no bytes
	dirty     bool    // a round will push
	writing   bool    // a goroutine is writing
	gone      bool    // the transport is dead, or closed by us
	frozen    bool    // what arrives must wait: the session is being taken over
	indebted  bool    // what arrives must wait: many acknowledgements are owed
	hungry    bool    // the box has more, and waits until the transport has taken what there is
	heard     bool    // bytes have come from the client
	polite    bool    // the client has said good-bye
	hold      Hold
	final     *session.Final // set at the end
	left      *session.State // set at the end, if something is to be done with it
	will      *stored.Will   // as the claim has stored it
	released  bool           // ended has settled the end
	departed  bool           // all that it leaves has been published
	evicted   bool           // its session was taken over
	abandoned bool           // the owner has stopped before
	tells     bool           // the owner is to publish the Will
	held      bool           // the Will waits in the box
	traced    bool           // that the client was not let in
	repaid    bool           // borrows nothing any more
	borrowed  loan           // bytes out of the budget for those who are not let in
	shared    filters        // of shared subscriptions, if there is no box
	waiting   chan struct{}  // somebody waits for room

	fans      []*fan // of the client's messages: the first is under way, the others wait behind it
	dissolves bool   // it is to dissolve after the last of them
	departs   bool   // it is about to depart

	catchUps   []func()       // called when what has arrived is handled
	caught     int            // bytes handled since somebody waits for that
	successors []func(*round) // called when it has departed

	// Under the realm's lock.
	earlier *conn // of the same name, accepted before and not departed; see takeover.go
	claimed bool  // it has held the session

	replays   replays // subscriptions whose retained messages are to be sent
	replaying bool
	liveBytes int
	live      map[string]uint64 // topics of retained messages that came as they were published, and which of all they were; nil: not noted
	notes     uint64            // how many were noted
	standing  func() error
}

// link is what a connection needs of its transport.
type link interface {
	// admit has the client judged and its session claimed, on a goroutine
	// that may wait.
	admit(r *round, id string, p *packet.Connect, expiry uint32)
	// push writes what waits, as far as the transport takes it, without
	// blocking anybody but the connection's own reader.
	push(r *round)
	// rouse has the owner look at the connection again: it was unfrozen,
	// admitted, or has ended. It is called with the lock and does not block.
	rouse()
	// backlog is how many bytes have left the connection's output and not been
	// taken by the transport. It is called with the lock.
	backlog() int
	// catchUp has the owner read and handle what has arrived so far, and then
	// call caughtUp, also if that cannot be handled now because the client does
	// not read. It is called with the lock and does not block.
	catchUp()
	// progress is how many bytes the peer has acknowledged, and whether there
	// are some that it has not; where the system does not know, how many the
	// system has taken, and true. It is called with the lock.
	progress() (n uint64, waits bool)
	// isDeaf reports that bytes of the client's may have arrived that are not
	// being read: we do not read, or have not read yet. It is called with the
	// lock.
	isDeaf() bool
	// abort closes the transport without a word.
	abort()
}

// step gives the session one input and performs what follows. It must be
// called without the lock.
func (c *conn) step(r *round, in session.Input) {
	a := takeActions()
	c.stepOnce(r, in, a)
	c.perform(r, a)
	a.put()
}

func (c *conn) stepOnce(r *round, in session.Input, a *actions) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stepLocked(r, in, a)
}

// stepLocked gives the session one input. What can be done under the lock is
// done; the rest is appended to a, to be performed without the lock.
func (c *conn) stepLocked(r *round, in session.Input, a *actions) {
	n := len(a.list)
	a.list = c.s.Step(in, r.now, a.list)
	if misfit := c.carryOut(r, a, n); misfit != 0 && !c.s.Ended() {
		// A client that cannot be acknowledged cannot be served.
		e, code := tooSmall(c.s.MaximumPacketSize(), misfit), packet.PacketTooLarge
		if misfit == packet.CONNACK { // nothing goes before it [MQTT-3.2.0-1]
			code = 0
		}
		n = len(a.list)
		a.list = c.s.Step(session.Input{Kind: session.Close, Ending: e, Code: code}, r.now, a.list)
		c.carryOut(r, a, n)
	}
	r.touch(c)
	c.signalRoom()
	if c.indebted && c.s.Owed() <= owedMax/2 {
		c.indebted = false
		c.link.rouse()
	}
	if in.Kind != session.Received && in.Kind != session.Deliver {
		c.schedule()
	}
}

// schedule has the wheel wake the connection at its next deadline.
func (c *conn) schedule() {
	if at := c.deadline(); at != 0 && !c.gone {
		c.b.wheel.schedule(c, at)
	}
}

// owedMax is how many acknowledgements a client may be owed before it is read
// from no further.
const owedMax = 4096

// owes reports, and remembers, that what arrives must wait until the client is
// owed less. The caller holds the lock.
func (c *conn) owes() bool {
	c.indebted = c.s.Owed() > owedMax && !c.s.Ended()
	return c.indebted
}

const (
	closeTimeout = 5 * time.Second        // for writing the last packets before a close
	evictTimeout = 250 * time.Millisecond // the same while the client waits for its new connection
)

func (c *conn) writeTimeout() time.Duration {
	switch {
	case c.evicted && !c.departed:
		return min(c.b.opts.WriteTimeout, evictTimeout)
	case c.s.Ended():
		return min(c.b.opts.WriteTimeout, closeTimeout)
	}
	return c.b.opts.WriteTimeout
}

// actions are what steps asked for. They are pooled: every packet makes some.
type actions struct {
	list   []session.Action
	tokens []settled
}

// settled is a token of the session that has been settled.
type settled struct {
	token uint64
	code  packet.ReasonCode
	codes []packet.ReasonCode
}

var actionLists = sync.Pool{New: func() any { return &actions{list: make([]session.Action, 0, 8)} }}

func takeActions() *actions { return actionLists.Get().(*actions) }

func (a *actions) put() {
	if cap(a.list) <= 256 {
		clear(a.list)
		a.list = a.list[:0]
		actionLists.Put(a)
	}
}

// carryOut does what is done under the lock of a.list from n on, and leaves
// the rest there. It returns the type of a packet that the client has no room
// for, or 0.
func (c *conn) carryOut(r *round, a *actions, n int) (misfit packet.Type) {
	kept := n
	for i := n; i < len(a.list); i++ {
		t := &a.list[i]
		switch t.Kind {
		case session.Send:
			if !c.append(r, t.Packet) && misfit == 0 {
				misfit = t.Packet.Type()
			}
		case session.SendAck:
			if !c.appendAck(r, t) && misfit == 0 {
				misfit = t.Type
			}
		case session.SendMessage:
			c.appendMessage(r, t)
		case session.Drop:
			c.b.metrics.drop(t.Why.String())
		case session.Shut:
			c.link.rouse()
		default:
			if t.Kind == session.End {
				c.final = t.Final
				c.stallsAnew()
			}
			if kept != i {
				a.list[kept] = *t
			}
			kept++
		}
	}
	clear(a.list[kept:])
	a.list = a.list[:kept]
	return misfit
}

func tooSmall(limit uint32, t packet.Type) session.Ending {
	return session.Ending{Reason: disconnect.ClientError, Evidence: disconnect.Evidence{
		Kind: disconnect.Limit, Packet: t.String(),
		Detail: fmt.Sprintf("the client accepts packets of at most %d bytes, and its %s takes more", limit, t),
	}}
}

// perform carries out what needs no lock, or other connections' locks.
func (c *conn) perform(r *round, a *actions) {
	for i := range a.list {
		t := &a.list[i]
		switch t.Kind {
		case session.Admit:
			c.link.admit(r, t.ClientID, t.Connect, t.Expiry)
		case session.Authenticate: // no method is offered, so the session asks for none
			c.step(r, session.Input{Kind: session.Refused, Code: packet.BadAuthenticationMethod})
		case session.Route:
			if code, ok := c.route(r, t.Message, t.Token, t.PacketID); ok && t.Token != 0 {
				a.tokens = append(a.tokens, settled{token: t.Token, code: code})
			}
		case session.Subscribe:
			c.subscribe(r, t.Request, t.Token, a)
		case session.Unsubscribe:
			c.unsubscribe(t.Request, t.Token, a)
		case session.Settle:
			c.box.settle(c, t.PacketID)
		case session.Release:
			c.box.released(c, t.PacketID, t.Token, a)
		case session.Complete:
			c.box.completed(c, t.PacketID, t.Token, a)
		case session.End:
			c.settle(r, a) // acknowledgements before the end
			c.ended(r, t.Final)
		}
	}
	c.settle(r, a)
}

// settle tells the session of the tokens that are settled.
func (c *conn) settle(r *round, a *actions) {
	if len(a.tokens) == 0 {
		return
	}
	next := takeActions()
	c.settleLocked(r, a.tokens, next)
	clear(a.tokens)
	a.tokens = a.tokens[:0]
	c.perform(r, next)
	next.put()
}

func (c *conn) settleLocked(r *round, tokens []settled, a *actions) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range tokens {
		c.stepLocked(r, session.Input{Kind: session.Committed, Token: t.token, Code: t.code, Codes: t.codes}, a)
	}
}

// committed tells the session that a token is settled.
func (c *conn) committed(r *round, token uint64, code packet.ReasonCode, codes []packet.ReasonCode) {
	c.step(r, session.Input{Kind: session.Committed, Token: token, Code: code, Codes: codes})
}

// unstored ends the session because what it depends on could not be stored.
func (c *conn) unstored(r *round, err error) {
	c.b.opts.Log.Error("what a client sent could not be stored", "session", c.name.id, "err", err)
	c.end(r, session.Ending{Reason: disconnect.ServerError, Evidence: disconnect.Evidence{
		Kind: disconnect.Internal, Detail: "what the client sent could not be stored",
	}}, packet.UnspecifiedError)
}

func (c *conn) version() packet.Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.s.Version()
}

// reconsider ends the session if the client would not be let in any more.
func (c *conn) reconsider(r *round) bool {
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
	return c.end(r, session.Ending{
		Reason:   disconnect.ClientAuthenticationError,
		Evidence: disconnect.Evidence{Kind: disconnect.Config, Detail: err.Error()},
	}, packet.NotAuthorized)
}

// wrapUp settles the end of the session once the owner has stopped with err,
// publishes its Will and reports whether there are last words to be written.
func (c *conn) wrapUp(r *round, err error) (lastWords bool) {
	c.mu.Lock()
	over := c.s.Ended() // and the transport lives: there are last words
	c.gone = c.gone || !over
	lastWords = over && c.heard && !c.gone // whoever was silent is told nothing, and has nothing unread that would reset the connection
	c.mu.Unlock()
	c.step(r, session.Input{Kind: session.Lost, Ending: ending(err)})
	if errors.Is(err, errTooMuch) {
		c.refused("memory", 0, false, err.Error())
	}
	c.traceRejection()
	c.mu.Lock()
	c.repay()
	c.mu.Unlock()
	c.dissolve(r)
	return lastWords
}
