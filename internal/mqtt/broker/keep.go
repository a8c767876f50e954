package broker

import (
	"math"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
)

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
	c.caughtUp(math.MaxInt)
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
	return func(b *store.Batch, _ uint64) {
		at := c.b.clock.Steady()
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

// dissolve is the owner's last: what ends with the connection ends, the Will is
// published if it does not wait, and the next connection of the name may go on.
// If another, who ended the session, has not settled that yet, he dissolves it
// too. All that comes after what the client has sent is handed to its subscribers.
func (c *conn) dissolve(r *round) {
	c.mu.Lock()
	if c.dissolves = len(c.fans) > 0; c.dissolves {
		c.mu.Unlock()
		return
	}
	if c.abandoned = c.final != nil && !c.released; c.abandoned {
		c.mu.Unlock()
		return
	}
	f, left, tells, held := c.final, c.left, c.tells, c.held
	c.final, c.left = nil, nil
	c.departs = true
	c.mu.Unlock()
	handed := false
	defer func() {
		if !handed {
			c.depart(r)
		}
	}()
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
	handed = true
	c.b.publishWill(r, c.realm, c.name.id, &stored.Will{Message: f.Will}, c.depart)
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
		bx.b.loader.submit(bx.partition(), bx.redistribute)
	}
}
