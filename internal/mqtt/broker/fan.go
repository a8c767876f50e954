package broker

import (
	"errors"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/mqtt/topic"
)

// fan is one message on its way to its subscribers. Where there are many it goes
// to them in slices, so that an event loop is never held by one packet for longer
// than a slice takes: until the last of them has been handed the message, nothing
// else that its publisher sends is acted on, which keeps the publisher's order
// for each subscriber, and the others' connections have their turns in between.
// A fan is used again.
type fan struct {
	b       *Broker
	realm   *realm
	message *session.Message
	by      *conn
	token   uint64 // settled at the end; 0: nobody waits
	id      uint16 // of QoS 2
	p       *publisher
	keep    *publication // for stored sessions; nil: none so far
	then    func(*round) // called at the end; may be nil

	phase  fanPhase
	at     int    // the next in found or to, as the phase says
	held   int    // of pacing.held
	waited bool   // among pacing.waiting
	since  uint64 // the realm's removals before found
	found  []grant
	to     []receiver
	ids    []uint32
	withID bool           // some of found have an identifier
	groups int            // shared subscriptions among them
	seen   map[holder]int // where in to, when there are many
}

// fanPhase is what a fan does next.
type fanPhase uint8

const (
	fanBegins   fanPhase = iota // retain the message, find the subscriptions
	fanCollects                 // merge them by client
	fanCounts                   // count each client's identifiers
	fanFills                    // note them
	fanDelivers                 // hand the message to each client
	fanDone
)

// Work is counted in units of about 100 ns. Handing a message to a client
// includes what it costs to write to it.
const (
	deliverCost = 16
	costBytes   = 1 << 10 // of a message that is copied: one unit

	// fanTurn is what one turn of an event loop spends on fans: some 256 clients.
	fanTurn = 256 * deliverCost
	// fanSmall is what a fan may always spend at once: it is about what its
	// packet costs anyway.
	fanSmall = 32 * deliverCost
)

// heldMax is how many subscriptions may be held by the fans of a loop that are
// under way, at some 200 bytes each, when another large one begins. What waits
// behind holds its message.
const heldMax = 1 << 16

var errFault = errors.New("broker: the server failed")

// pacing is an event loop's: what its turn may spend on fans yet, and the fans
// that go on in its next turns, in which each has its slice.
type pacing struct {
	left    int
	held    int    // subscriptions that fans hold
	fans    []*fan // under way
	waiting []*fan // not begun, until others hold less
}

func (p *pacing) idle() bool { return len(p.fans) == 0 && len(p.waiting) == 0 }

// hold notes how many subscriptions f holds between turns.
func (p *pacing) hold(f *fan, n int) {
	p.held += n - f.held
	f.held = n
}

// fan begins f, which c publishes, or has it wait behind its earlier ones. It
// reports whether f is done; if not, it ends in a later turn of the loop.
func (c *conn) fan(r *round, f *fan) (done bool) {
	c.mu.Lock()
	waits := len(c.fans) > 0
	if waits {
		f.message = f.message.Keep()
		c.fans = append(c.fans, f)
	}
	c.mu.Unlock()
	if waits {
		return false
	}
	if r.carry(f) {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.message = f.message.Keep()
	c.fans = append(c.fans, f)
	return false
}

// begin makes the message what is retained for its topic, if it is to be
// [MQTT-3.3.1-5], and finds the subscriptions. Who subscribes later finds it
// retained.
func (f *fan) begin(r *round) {
	if f.message.Retain {
		if f.p == nil {
			f.p = newPublisher(f.by, f.token, f.id)
		}
		f.b.retain(r, f.realm, f.message, f.p)
	}
	f.match()
	r.fanned += len(f.found)
	f.phase = fanCollects
}

func (f *fan) match() {
	f.since = f.realm.removals.Load()
	f.found = f.realm.tree.Match(f.message.Topic, f.found[:0])
}

// isSmall reports whether f, which has not begun, goes to few.
func (f *fan) isSmall() bool {
	f.match()
	n := len(f.found)
	if n > fanSmall/deliverCost {
		f.found = nil
		return false
	}
	return true
}

// carry goes on with f as far as the round's turn allows, and reports whether f
// is done. If not, it is among those that the loop goes on with. Who is no event
// loop goes on to the end, and writes between slices.
func (r *round) carry(f *fan) (done bool) {
	defer func() {
		if what := recover(); what != nil {
			f.giveUp(r)
			panic(what)
		}
	}()
	p := r.pacing
	if p == nil {
		for !f.run(r, fanTurn) {
			r.end(f.b)
		}
		return true
	}
	if f.phase == fanBegins && !f.waited && (p.held >= heldMax || len(p.waiting) > 0) && !f.isSmall() {
		f.waited = true
		p.waiting = append(p.waiting, f)
		return false
	}
	budget := max(p.left, fanSmall)
	spent := f.spend(r, budget)
	p.left -= spent
	if f.phase == fanDone {
		p.hold(f, 0)
		return true
	}
	p.hold(f, len(f.found))
	p.fans = append(p.fans, f)
	return false
}

// goOn gives fans that wait their first or next slice, as many as the turn allows,
// and one of each at least.
func (p *pacing) goOn(r *round) {
	for n := 0; len(p.waiting) > 0 && p.held < heldMax && (n == 0 || p.left > 0); n++ {
		f := p.waiting[0]
		p.waiting[0] = nil
		p.waiting = p.waiting[1:]
		b := f.b
		f.slice(r)
		r.end(b)
	}
	for n := len(p.fans); n > 0; n-- {
		f := p.fans[0]
		p.fans[0] = nil
		p.fans = p.fans[1:]
		b := f.b
		f.slice(r)
		r.end(b)
		if p.left <= 0 {
			break
		}
	}
	if len(p.fans) == 0 {
		p.fans = nil
	}
}

// slice goes on with f, and if it is done with what its publisher sent behind it.
func (f *fan) slice(r *round) {
	c := f.by
	if f.guarded(r) {
		c.nextFan(r)
	}
}

// guarded goes on with f and reports whether it is over. A fault of ours ends the
// publisher; what it leaves goes on all the same.
func (f *fan) guarded(r *round) (over bool) {
	c := f.by
	defer func() {
		if what := recover(); what != nil {
			c.failed(r, what)
			over = true
		}
	}()
	if !r.carry(f) {
		return false
	}
	f.conclude(r)
	return true
}

// giveUp is for after a fault of ours: nobody waits for ever for what f would have
// led to.
func (f *fan) giveUp(r *round) {
	if p := r.pacing; p != nil {
		p.hold(f, 0)
	}
	if f.p != nil {
		f.p.stored(r, errFault)
	}
	if f.then != nil {
		f.then(r)
	}
}

// conclude is finish, with the token settled.
func (f *fan) conclude(r *round) {
	c, token := f.by, f.token
	if code, settled := f.finish(r); settled && token != 0 {
		c.committed(r, token, code, nil)
	}
}

// nextFan goes on with what waits behind the first of the connection's fans,
// which is done. After the last, the owner reads on, or the connection dissolves.
func (c *conn) nextFan(r *round) {
	for {
		c.mu.Lock()
		if len(c.fans) > 0 {
			c.fans[0] = nil
			c.fans = c.fans[1:]
		}
		if len(c.fans) == 0 {
			dissolves := c.dissolves
			c.fans, c.dissolves = nil, false
			c.link.rouse()
			c.mu.Unlock()
			if dissolves {
				c.dissolve(r)
			}
			return
		}
		f := c.fans[0]
		c.mu.Unlock()
		if !f.guarded(r) {
			return
		}
	}
}

// spend is run, and returns how much it has spent.
func (f *fan) spend(r *round, budget int) (spent int) {
	left := budget
	for left > 0 && f.phase != fanDone {
		left -= f.part(r, left)
	}
	return budget - left
}

// run goes on until the message has gone to everybody or about budget is spent,
// and reports whether it has.
func (f *fan) run(r *round, budget int) (done bool) {
	f.spend(r, budget)
	return f.phase == fanDone
}

// part does a part of what the phase is for, or all of it, and returns what that
// cost.
func (f *fan) part(r *round, budget int) (cost int) {
	switch f.phase {
	case fanBegins:
		f.begin(r)
		return len(f.found) / 8
	case fanCollects:
		cost = f.collect(budget)
		if f.at < len(f.found) {
			return cost
		}
		f.at, f.phase = 0, fanDelivers
		if f.withID {
			f.phase = fanCounts
			return cost
		}
		f.b.endExcessive(r, f)
	case fanCounts:
		cost = f.countIDs(budget)
		if f.at == len(f.found) {
			f.at, f.phase = 0, fanFills
			f.makeRoom()
		}
	case fanFills:
		cost = f.fillIDs(budget)
		if f.at == len(f.found) {
			f.at, f.phase = 0, fanDelivers
			f.b.endExcessive(r, f)
		}
	case fanDelivers:
		for ; f.at < len(f.to) && cost < budget; f.at++ {
			cost += f.deliver(r, &f.to[f.at])
			if r.gathered >= roundBytes {
				r.end(f.b) // it does not pile up in memory
			}
		}
		if f.at == len(f.to) {
			f.phase = fanDone
		}
	}
	return cost
}

// deliver hands the message to one client, at once or by way of the store, and
// returns what it cost.
func (f *fan) deliver(r *round, t *receiver) (cost int) {
	m := f.message
	cost = 1
	if !f.stands(t) {
		n, ok := f.judgeAgain(t)
		if cost += n; !ok {
			return cost
		}
	}
	if m.Retain {
		t.note(m)
	}
	qos := min(t.qos, m.QoS)
	c := t.conn
	switch {
	case t.ended:
		return cost
	case c == nil && qos == packet.QoS0:
		if c = t.box.online(); c == nil {
			return cost
		}
	case c == nil:
		f.store(t, qos)
		return cost
	}
	c.deliver(r, m, t.qos, t.retain, f.idsOf(t), t.share())
	return cost + deliverCost + len(m.Payload)/costBytes
}

// stands reports whether what was found out about t holds still.
func (f *fan) stands(t *receiver) bool {
	g := grant{conn: t.conn, box: t.box}
	if t.group == nil {
		return g.unsubscribed().Load() <= f.since
	}
	if !t.group.has(g) {
		return false
	}
	qos := min(t.qos, f.message.QoS)
	how := g.readiness(qos)
	return how != away && (how != asleep || qos > packet.QoS0)
}

// judgeAgain is for a receiver that does not stand: another member of its group
// is chosen, or it is looked at which of its subscriptions are left
// [MQTT-3.10.4-2]. It returns what that cost, and whether the message goes to it
// at all.
func (f *fan) judgeAgain(t *receiver) (cost int, ok bool) {
	if t.group != nil {
		return f.choose(t)
	}
	m := f.message
	t.found, t.qos, t.retain, t.first, t.n = 0, 0, false, len(f.ids), 0
	h := t.holder()
	f.realm.tree.Each(h, func(filter string, g grant) bool {
		cost++
		if !topic.Match(filter, m.Topic) || g.noLocal && m.From == g.name() {
			return true
		}
		t.found++
		t.qos = max(t.qos, g.qos)
		t.retain = t.retain || m.Retain && g.asPublished
		if g.id != 0 {
			f.ids = append(f.ids, g.id)
			t.n++
		}
		return true
	})
	return cost, t.found > 0
}

// store notes that the message is to be stored for a client.
func (f *fan) store(t *receiver, qos packet.QoS) {
	if f.keep == nil {
		if f.p == nil {
			f.p = newPublisher(f.by, f.token, f.id)
		}
		f.keep = &publication{b: f.b, realm: f.realm, message: f.message.Keep(), by: f.p}
	}
	f.keep.boxes = append(f.keep.boxes, t.box)
	f.keep.targets = append(f.keep.targets, stored.Target{Session: t.box.name, Epoch: t.box.key.Epoch, QoS: qos,
		Retain: t.retain, SubscriptionIDs: append([]uint32(nil), f.idsOf(t)...), Share: t.share()})
}

// finish has the message stored for those who need that. The code is for the
// publisher: whether there was anybody, section 3.4.2.1. Settled says that it may
// be told at once.
func (f *fan) finish(r *round) (code packet.ReasonCode, settled bool) {
	p := f.p
	if f.then != nil {
		then := f.then
		defer func() { then(r) }()
	}
	code = packet.Success
	if len(f.found) == 0 { // it counts, too, who wants none of its own
		code = packet.NoMatchingSubscribers
	}
	if p != nil {
		p.code = code
	}
	if f.keep != nil {
		p.part()
		f.b.keep(r, f.keep)
	}
	r.putFan(f)
	settled = p == nil || p.routed(r)
	return code, settled
}
