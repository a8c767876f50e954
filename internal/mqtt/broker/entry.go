package broker

import (
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

// enter makes c the connection of what e decided, once that is durable, in the
// turn of the session's name. It returns what tells the session.
func (c *conn) enter(r *round, e *entry, ad session.Admission) (admit func(*round)) {
	b, rl := c.b, c.realm
	c.mu.Lock()
	c.will = e.will
	c.mu.Unlock()
	rl.setWill(c.name.id, e.will)
	undone := e.undone(rl, c.name.id, r.now.Wall)
	if e.old != nil && e.fresh {
		e.old.end(r)
	}
	if undone != nil { // its session is over, or its delay [MQTT-3.1.3-9]
		rl.beginWill(c.name.id, false)
		b.publishWill(r, rl, c.name.id, undone, nil)
	} else if e.rescue != nil && !rl.publishesWill(c.name.id) { // its connection said good-bye meanwhile
		rl.beginWill(c.name.id, false)
		b.removeWill(rl, c.name.id, c.name.id)
	}
	if !e.keep {
		return func(r *round) { c.admitted(r, ad) }
	}
	bx := e.old
	if e.fresh {
		bx = b.newBox(rl, e.meta)
		bx.loaded, bx.sentKnown = true, true
		rl.install(bx)
	}
	bx.parkOther(c)
	bx.mu.Lock()
	bx.asleep = bx.meta.Offline
	bx.meta, bx.will = e.meta, nil
	bx.conn, bx.out, bx.cursor, bx.victims = c, nil, stored.Cursor{}, nil
	bx.behind, bx.feeding = true, true // until it has been resumed
	empty := bx.loaded && bx.messages == 0 && len(bx.received) == 0
	if empty {
		bx.behind, bx.cursor = false, bx.last
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
	if !empty {
		return func(*round) { bx.resumeSoon(c, ad) }
	}
	return func(r *round) {
		if !e.fresh {
			ad.State = &session.State{Subscriptions: bx.subscriptions()}
			c.listens = true
		}
		c.admitted(r, ad)
		bx.resumed(c)
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
