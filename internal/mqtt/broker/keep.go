package broker

import (
	"fmt"
	"slices"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
)

// entry says what a client that connects finds and leaves in the store.
type entry struct {
	old    *box // what was kept under the name; nil: nothing
	fresh  bool // old, if there is one, ends
	keep   bool // the session outlives the connection, or may
	meta   stored.Session
	will   *stored.Will // of the new connection
	before *stored.Will // what is stored of an earlier one
}

// decide determines, in the turn of the session's name, what becomes of what
// is kept for it when c connects as number n.
func (c *conn) decide(p *packet.Connect, owner string, expiry uint32, n uint64, at time.Time) *entry {
	e := &entry{old: c.realm.box(c.name.id)}
	e.fresh = e.old == nil || p.CleanStart
	if e.old != nil {
		old := e.old.current()
		expires, ends := old.ExpiresAt()
		e.fresh = e.fresh || old.Expiry == 0 || ends && !at.Before(expires)
		e.meta = old
	}
	e.keep = expiry > 0 || !e.fresh
	if e.fresh {
		e.meta = stored.Session{Realm: c.realm.name, Name: c.name.id, Epoch: n}
	}
	e.meta.Owner, e.meta.Expiry, e.meta.Offline = owner, expiry, time.Time{}
	e.before = c.realm.will(c.b.store, c.name.id, e.old)
	if p.Will != nil {
		w := p.Will.Publish()
		e.will = &stored.Will{Message: &session.Message{Publish: w, From: c.name.id}, Delay: c.willDelay(p.Will)}
	}
	return e
}

func (c *conn) willDelay(w *packet.Will) uint32 {
	if most := c.b.cfg.MaxWillDelay; most != 0 {
		return min(w.DelayInterval, most)
	}
	return w.DelayInterval
}

// stage adds what e decides to the batch of the Connected.
func (e *entry) stage(st *stored.Store, b *store.Batch, realm, name string) error {
	var old *stored.Session
	if e.old != nil {
		meta := e.old.current()
		if e.fresh {
			st.StageEnd(b, &meta)
		} else {
			old = &meta
		}
	}
	if e.keep {
		st.StageSession(b, old, &e.meta)
	}
	if e.will == nil && e.before == nil {
		return nil
	}
	return st.StageWill(b, realm, name, e.before, e.will)
}

// enter makes c the connection of what e decided, once that is durable, and
// tells the session.
func (c *conn) enter(r *round, e *entry, ad session.Admission) {
	b, rl := c.b, c.realm
	c.will = e.will
	rl.setWill(c.name.id, e.will)
	if e.old != nil {
		undone := e.old.takeWill()
		if e.fresh {
			e.old.end(r)
			if undone != nil { // its session is over [MQTT-3.1.3-9]
				b.publishWill(r, rl, c.name.id, undone, nil)
			}
		}
	}
	if !e.keep {
		c.admitted(r, ad)
		return
	}
	bx := e.old
	if e.fresh {
		bx = b.newBox(rl, e.meta)
		bx.loaded = true
		rl.install(bx)
	}
	bx.mu.Lock()
	bx.asleep = bx.meta.Offline
	bx.meta, bx.will = e.meta, nil
	bx.conn, bx.out, bx.cursor = c, nil, stored.Cursor{}
	bx.behind, bx.feeding = true, true // until it has been resumed
	empty := bx.loaded && bx.messages == 0 && len(bx.received) == 0
	if empty {
		bx.behind, bx.feeding, bx.cursor = false, false, bx.last
	}
	bx.mu.Unlock()
	c.box = bx
	ad.Stored, ad.Resumed = true, !e.fresh
	switch {
	case e.fresh:
		c.admitted(r, ad)
	case empty:
		ad.State = &session.State{Subscriptions: bx.subscriptions()}
		c.listens = true
		c.admitted(r, ad)
	default:
		b.loader.submit(func() { bx.resume(c, ad) })
	}
}

// resume reads what the session left, has the client admitted and sends it what
// it has not acknowledged.
func (bx *box) resume(c *conn, ad session.Admission) {
	r := c.b.begin()
	defer c.b.done(r)
	defer c.guard(r)
	st, err := bx.state(c)
	if err != nil {
		c.b.opts.Log.Error("a session cannot be resumed", "session", bx.name, "err", err)
		c.end(r, session.Ending{Reason: disconnect.ServerError, Evidence: disconnect.Evidence{
			Kind: disconnect.Internal, Detail: "the session cannot be read"}}, packet.UnspecifiedError)
		st = &session.State{}
	}
	ad.State = st
	c.listens = true
	c.admitted(r, ad)
	bx.mu.Lock()
	if bx.conn == c {
		bx.feeding = false
	}
	bx.mu.Unlock()
	bx.kick()
}

// state is what the session left: its subscriptions, the client's identifiers,
// and what it may have been sent before.
func (bx *box) state(c *conn) (*session.State, error) {
	if err := bx.load(); err != nil {
		return nil, err
	}
	st := &session.State{Subscriptions: bx.subscriptions()}
	bx.mu.Lock()
	for id := range bx.received {
		st.Received = append(st.Received, id)
	}
	slices.Sort(st.Received)
	known, sent, asleep := bx.sentKnown, bx.sent, bx.asleep
	bx.mu.Unlock()
	var cursor stored.Cursor
	for {
		page, err := bx.b.store.Pending(bx.key, &cursor, pageMessages, pageBytes)
		if err != nil {
			return nil, fmt.Errorf("read the queue of session %s: %w", bx.name, err)
		}
		for i := range page.Entries {
			e := &page.Entries[i]
			_, before := sent[e.PacketID]
			// What was sent before a restart is not known; whatever came before
			// the client went may have been.
			again := before || e.Released || !known && len(st.Inflight) < int(bx.b.cfg.MaxInflight) && !e.Message.Received.After(asleep)
			if !again {
				return st, nil
			}
			st.Inflight = append(st.Inflight, session.Outgoing{PacketID: e.PacketID, Message: e.Message, QoS: e.QoS, Retain: e.Retain,
				Sent: true, Released: e.Released, SubscriptionIDs: e.SubscriptionIDs, Share: e.Share})
			bx.mu.Lock()
			if bx.conn == c {
				bx.given(e.Ref, e.PacketID, e.Size)
			}
			bx.mu.Unlock()
			cursor = e.Ref.Cursor()
		}
		if !page.More {
			return st, nil
		}
	}
}

// admitted tells the session that its client is.
func (c *conn) admitted(r *round, ad session.Admission) {
	a := takeActions()
	c.admittedLocked(r, &ad, a)
	c.perform(r, a)
	a.put()
}

func (c *conn) admittedLocked(r *round, ad *session.Admission, a *actions) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stepLocked(r, session.Input{Kind: session.Admitted, Admission: ad}, a)
	c.link.rouse()
}

// park takes c from the session, whose state outlives it, or not.
func (bx *box) park(c *conn, st *session.State) bool {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	if bx.conn != c {
		return false
	}
	bx.conn, bx.out = nil, nil
	bx.sent, bx.sentKnown = nil, true
	for i := range st.Inflight {
		if o := &st.Inflight[i]; o.Sent {
			if bx.sent == nil {
				bx.sent = make(map[uint16]bool)
			}
			bx.sent[o.PacketID] = o.Released
		}
	}
	return true
}

// holdWill keeps a Will until its delay is over or the client comes back.
func (bx *box) holdWill(w *stored.Will) {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	bx.will = w
}

// current is what is stored of the session. It is for whoever has the turn of
// the session's name: what was staged in an earlier turn is stored by then.
func (bx *box) current() stored.Session {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	bx.meta = *bx.staged.pick(&bx.meta)
	bx.staged = nil
	return bx.meta
}

// stageOffline adds to the batch of a Disconnected what becomes of the session:
// it ends, or waits for its client to come back.
func (bx *box) stageOffline(b *store.Batch, expiry uint32, at time.Time) {
	st := bx.b.store
	bx.mu.Lock()
	defer bx.mu.Unlock()
	if expiry == 0 {
		st.StageEnd(b, &bx.meta)
		bx.realm.uninstall(bx)
		return
	}
	meta := bx.meta
	meta.Expiry, meta.Offline = expiry, at
	st.StageSession(b, &bx.meta, &meta)
	bx.staged = &stagedMeta{meta}
}

// stagedMeta is what has been staged in place of a box's meta.
type stagedMeta struct{ stored.Session }

func (s *stagedMeta) pick(otherwise *stored.Session) *stored.Session {
	if s != nil {
		return &s.Session
	}
	return otherwise
}

// takeWill returns the Will that waits for the client not to come back, which
// it now has.
func (bx *box) takeWill() *stored.Will {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	w := bx.will
	bx.will = nil
	return w
}

// ended settles the end of an admitted session. The owner does the rest.
func (c *conn) ended(r *round, f *session.Final) {
	c.mu.Lock()
	h := c.hold
	c.polite = f.Reason == disconnect.ClientInitiatedDisconnect && f.Evidence.Kind == disconnect.Packet
	if c.box != nil || len(c.shared) > 0 {
		c.left = c.s.State()
	}
	c.mu.Unlock()
	expiry := f.Expiry
	bx := c.box
	if bx != nil {
		if bx.park(c, c.left) && expiry > 0 && f.Will != nil && f.WillDelay > 0 {
			bx.holdWill(c.will)
		}
		if bx.isDead() {
			expiry = 0
		}
	}
	record, will := c.will, f.Will
	stage := func(b *store.Batch, _ uint64, at time.Time) {
		if bx != nil {
			bx.stageOffline(b, expiry, at)
		}
		if record == nil {
			return
		}
		var due *stored.Will
		if will != nil {
			due = &stored.Will{Message: record.Message, Delay: record.Delay, DueAt: at}
			if bx != nil && expiry > 0 {
				due.DueAt = at.Add(time.Duration(min(record.Delay, expiry)) * time.Second)
			}
		}
		if err := c.b.store.StageWill(b, c.realm.name, c.name.id, record, due); err != nil {
			c.b.opts.Log.Error("a Will cannot be stored", "session", c.name.id, "err", err)
		}
		c.realm.setWill(c.name.id, due)
	}
	h.Release(f.Reason, f.Evidence, stage)
	c.b.opts.Log.Debug("session ended", "session", c.name.id, "reason", f.Reason.String(), "detail", f.Evidence.Detail)
}

// dissolve is the owner's: what ends with the connection ends, and the Will is
// published if it does not wait.
func (c *conn) dissolve(r *round) {
	c.mu.Lock()
	f, left := c.final, c.left
	c.final, c.left = nil, nil
	c.mu.Unlock()
	bx := c.box
	if bx == nil {
		c.realm.removeAll(c, c.shared, grant{conn: c})
		c.redistribute(r, left)
	} else if f != nil && (f.Expiry == 0 || bx.isDead()) && bx.online() == nil {
		bx.end(r)
	}
	if f == nil || f.Will == nil {
		return
	}
	if bx != nil && f.Expiry > 0 && f.WillDelay > 0 && !bx.isDead() {
		return // it waits
	}
	c.b.publishWill(r, c.realm, c.name.id, &stored.Will{Message: f.Will}, c.will)
}

// end ends the session: nothing goes to it any more, and what a shared
// subscription gave it goes to others.
func (bx *box) end(r *round) {
	bx.mu.Lock()
	bx.dead = true
	shared := bx.shared
	bx.shared = nil
	bx.mu.Unlock()
	bx.realm.uninstall(bx)
	bx.realm.removeAll(bx, shared, bx.grant())
	if len(shared) > 0 {
		bx.b.loader.submit(bx.redistribute)
	}
}
