package broker

import (
	"fmt"
	"slices"
	"strings"
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
	rescue *stored.Will // before, if it is to be published nevertheless
	key    string       // where it is kept until it has been
}

// decide determines, in the turn of the session's name, what becomes of what
// is kept for it when c connects as number n.
func (c *conn) decide(p *packet.Connect, owner string, expiry uint32, n uint64, at time.Time) *entry {
	e := &entry{old: c.realm.box(c.name.id)}
	e.fresh = e.old == nil || p.CleanStart
	if e.old != nil {
		old := e.old.current()
		expires, ends := old.ExpiresAt()
		// It was another's, who has come and gone since c was judged: c finds none.
		e.fresh = e.fresh || !strings.EqualFold(old.Owner, owner)
		e.fresh = e.fresh || e.old.isDead() // and is to be deleted
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
	if e.survives(at) {
		rescue := *e.before
		rescue.DueAt = at
		e.rescue, e.key = &rescue, replacedKey(c.name.id, n)
		c.realm.addReplaced(c.name.id, e.key)
	}
	return e
}

// expiry is the session's, 0 if it ends with the connection.
func (e *entry) expiry() uint32 {
	if !e.keep {
		return 0
	}
	return e.meta.Expiry
}

// forget undoes what e has noted: it has not become true. E may be nil.
func (e *entry) forget(c *conn) {
	if e != nil && e.rescue != nil {
		c.realm.dropReplaced(c.name.id, e.key)
	}
}

// survives reports whether the earlier Will is published although the client is
// back [MQTT-3.1.3-9].
func (e *entry) survives(at time.Time) bool {
	w := e.before
	switch {
	case w == nil:
		return false
	case e.fresh:
		return true
	case w.DueAt.IsZero(): // its connection is being taken over
		return w.Delay == 0
	}
	return !w.DueAt.After(at)
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
	if e.rescue != nil {
		if err := st.StageWill(b, realm, e.key, nil, e.rescue); err != nil {
			return err
		}
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
	c.mu.Lock()
	c.will = e.will
	c.mu.Unlock()
	rl.setWill(c.name.id, e.will)
	undone := e.undone(rl, c.name.id, r.now)
	if e.old != nil && e.fresh {
		e.old.end(r)
	}
	if undone != nil { // its session is over, or its delay [MQTT-3.1.3-9]
		rl.beginWill(c.name.id, false)
		b.publishWill(r, rl, c.name.id, undone)
	} else if e.rescue != nil && !rl.publishesWill(c.name.id) { // its connection said good-bye meanwhile
		rl.beginWill(c.name.id, false)
		b.removeWill(rl, c.name.id, c.name.id)
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
	bx.parkOther(c)
	bx.mu.Lock()
	bx.asleep = bx.meta.Offline
	bx.meta, bx.will = e.meta, nil
	bx.conn, bx.out, bx.cursor = c, nil, stored.Cursor{}
	bx.behind, bx.feeding = true, true // until it has been resumed
	empty := bx.loaded && bx.messages == 0 && len(bx.received) == 0
	if empty {
		bx.behind, bx.feeding, bx.cursor = false, false, bx.last
	}
	overflown := bx.dead
	bx.mu.Unlock()
	c.mu.Lock()
	c.box = bx
	c.mu.Unlock()
	ad.Stored, ad.Resumed = true, !e.fresh
	if overflown { // while the claim was being stored
		c.end(r, session.Ending{Reason: disconnect.SessionOverflow, Evidence: disconnect.Evidence{
			Kind: disconnect.Limit, Detail: "the session's queue overflowed while the client connected"}}, packet.QuotaExceeded)
	}
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

// undone returns the Will of an earlier connection that is to be published now
// that the name has another, or nil. What of it was stored has been replaced.
func (e *entry) undone(rl *realm, name string, now time.Time) *stored.Will {
	if e.old != nil {
		if w := e.old.takeWill(); w != nil {
			if !e.fresh {
				return nil
			}
			return w
		}
	}
	w := e.before // of a connection that a crash ended, unless somebody publishes it
	if w == nil || w.DueAt.IsZero() || !e.fresh && w.DueAt.After(now) || rl.publishesWill(name) {
		return nil
	}
	return w
}

// resume reads what the session left, has the client admitted and sends it what
// it has not acknowledged.
func (bx *box) resume(c *conn, ad session.Admission) {
	r := c.b.begin()
	defer c.b.done(r)
	defer c.guard(r)
	bx.awaitInbound()
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
	rest := false // the entries are behind those that are sent again
	for {
		page, err := bx.b.store.Pending(bx.key, &cursor, pageMessages, pageBytes)
		if err != nil {
			return nil, fmt.Errorf("read the queue of session %s: %w", bx.name, err)
		}
		for i := range page.Entries {
			e := &page.Entries[i]
			cursor = e.Ref.Cursor()
			_, before := sent[e.PacketID]
			// What was sent before a restart is not known; whatever came before
			// the client went may have been.
			again := before || e.Released || !known && len(st.Inflight) < int(bx.b.cfg.MaxInflight) && !e.Message.Received.After(asleep)
			if !again {
				// A crash brings back what was acknowledged in the last moment, so
				// that more than a window may be ahead of what awaits PUBCOMP.
				if rest = true; known || e.Message.Received.After(asleep) {
					return st, nil
				}
				continue
			}
			st.Inflight = append(st.Inflight, session.Outgoing{PacketID: e.PacketID, Message: e.Message, QoS: e.QoS, Retain: e.Retain,
				Sent: true, Released: e.Released, SubscriptionIDs: e.SubscriptionIDs, Share: e.Share})
			bx.mu.Lock()
			if bx.conn == c {
				bx.given(e.Ref, e.PacketID, e.Size, !rest)
			}
			bx.mu.Unlock()
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

// park takes c from the session, whose state outlives it, or not. If its Will
// waits, it is kept until its delay is over or the client comes back.
func (bx *box) park(c *conn, st *session.State, waits bool) bool {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	if bx.conn != c {
		return false
	}
	if waits {
		bx.will = c.will
	}
	bx.conn = nil
	bx.sent, bx.sentKnown = make(map[uint16]bool), true
	for id := range bx.out { // what is not in st has been acknowledged a moment ago
		bx.sent[id] = false
	}
	for i := range st.Inflight {
		if o := &st.Inflight[i]; o.Sent {
			bx.sent[o.PacketID] = o.Released
		} else {
			delete(bx.sent, o.PacketID)
		}
	}
	if len(bx.sent) == 0 {
		bx.sent = nil
	}
	return true
}

// parkOther parks the connection that c takes the session over from, where the
// one who ended that has not come to do so.
func (bx *box) parkOther(c *conn) {
	old := bx.online()
	if old == nil || old == c {
		return
	}
	var st *session.State
	old.mu.Lock()
	if old.s.Online() || old.s.Ended() { // it was admitted
		st = old.s.State()
	}
	old.mu.Unlock()
	if st != nil {
		bx.park(old, st, false)
	}
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

// expiry is the session's in seconds while somebody is connected.
func (bx *box) expiry() uint32 {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	return bx.meta.Expiry
}

// stageOffline adds to the batch of a Disconnected what becomes of the session:
// it ends, or waits for its client to come back.
func (bx *box) stageOffline(b *store.Batch, expiry uint32, at time.Time) {
	st := bx.b.store
	if expiry == 0 || bx.isDead() { // perhaps since it was parked
		bx.mu.Lock()
		st.StageEnd(b, &bx.meta)
		bx.mu.Unlock()
		bx.realm.uninstall(bx) // without the lock, as in subscribe
		return
	}
	bx.mu.Lock()
	defer bx.mu.Unlock()
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
	c.realm.leave(c)
	c.mu.Lock()
	h := c.hold
	c.polite = f.Reason == disconnect.ClientInitiatedDisconnect && f.Evidence.Kind == disconnect.Packet
	if c.box != nil || len(c.shared) > 0 {
		c.left = c.s.State()
	}
	c.mu.Unlock()
	expiry := f.Expiry
	bx := c.box
	if bx != nil && bx.isDead() {
		expiry = 0
	}
	will := f.Will
	waits := will != nil && bx != nil && expiry > 0 && f.WillDelay > 0
	if will != nil && !waits {
		c.realm.beginWill(c.name.id, false) // dissolve publishes it
	}
	held := bx != nil && bx.park(c, c.left, waits) && waits
	c.mu.Lock()
	c.tells, c.held = will != nil && !waits, held
	c.mu.Unlock()
	h.Release(f.Reason, f.Evidence, c.offline(expiry, will != nil))
	c.mu.Lock()
	c.released = true
	abandoned := c.abandoned
	c.mu.Unlock()
	if abandoned {
		c.dissolve(r)
	}
	c.b.opts.Log.Debug("session ended", "session", c.name.id, "reason", f.Reason.String(), "detail", f.Evidence.Detail)
}

// offline is what is stored with the end of an admitted session: what becomes
// of a stored one, and its Will, which is due or, if it is not to be published,
// gone.
func (c *conn) offline(expiry uint32, will bool) Stage {
	bx, record := c.box, c.will
	return func(b *store.Batch, _ uint64, at time.Time) {
		expiry := expiry
		if bx != nil {
			if bx.isDead() { // since this began to wait
				expiry = 0
			}
			bx.stageOffline(b, expiry, at)
		}
		if record == nil {
			return
		}
		var due *stored.Will
		if will {
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
}

// dissolve is the owner's last: what ends with the connection ends, and the Will
// is published if it does not wait. If another, who ended the session, has not
// settled that yet, he dissolves it too.
func (c *conn) dissolve(r *round) {
	c.mu.Lock()
	if c.abandoned = c.final != nil && !c.released; c.abandoned {
		c.mu.Unlock()
		return
	}
	f, left, tells, held := c.final, c.left, c.tells, c.held
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
	if !tells {
		if !bx.isDead() || held && bx.takeWill() == nil {
			return // it waits, or whoever ended the session has published it
		}
		c.realm.beginWill(c.name.id, false)
	}
	c.b.publishWill(r, c.realm, c.name.id, &stored.Will{Message: f.Will})
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
