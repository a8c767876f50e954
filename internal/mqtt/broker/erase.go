package broker

import (
	"fmt"
	"sync"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
)

// overflow ends a session whose queue is full (SessionOverflow).
func (bx *box) overflow(r *round) {
	bx.mu.Lock()
	e := session.Ending{Reason: disconnect.SessionOverflow, Evidence: disconnect.Evidence{
		Kind: disconnect.Limit, Detail: fmt.Sprintf("%d messages of %d bytes waited to be acknowledged; the limit is %d messages or %d bytes",
			bx.messages, bx.bytes, bx.b.cfg.QueueMessages, bx.b.cfg.QueueBytes)}}
	bx.mu.Unlock()
	bx.exceed(r, e)
}

// exceed ends a session because it is past a limit.
func (bx *box) exceed(r *round, e session.Ending) {
	if !bx.terminate(r, e) {
		return
	}
	b := bx.b
	b.metrics.sessions.WithLabelValues(e.Reason.String()).Inc()
	b.opts.Log.Warn("a session is past a limit and ends", "session", bx.name, "reason", e.Reason.String(), "detail", e.Evidence.Detail)
}

// terminate ends a session: its connection, and what is stored of it. It reports
// whether nobody has before.
func (bx *box) terminate(r *round, e session.Ending) bool {
	bx.mu.Lock()
	was := bx.dead
	bx.dead = true
	if !was {
		bx.ending = &e
	}
	c := bx.conn
	bx.mu.Unlock()
	if was {
		return false
	}
	if c != nil {
		c.end(r, e, terminationCode(e))
	} else {
		bx.erase()
	}
	return true
}

// terminationCode is how a client is told of the end of its session.
func terminationCode(e session.Ending) packet.ReasonCode {
	if e.Evidence.Kind == disconnect.Operator {
		return packet.AdministrativeAction
	}
	return packet.QuotaExceeded
}

// terminated is the end of a session that terminate has ended.
func (bx *box) terminated() session.Ending {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	if bx.ending != nil {
		return *bx.ending
	}
	return session.Ending{Reason: disconnect.SessionOverflow, Evidence: disconnect.Evidence{Kind: disconnect.Limit, Detail: "the session has ended"}}
}

// erase ends a session without a connection that has overflowed or expired: in
// the store, then here. Until it has succeeded the session keeps its name: it
// is tried again, unless a client comes, which begins another in its place.
func (bx *box) erase() {
	b, rl := bx.b, bx.realm
	staged := false
	var hastened *stored.Will
	b.opts.Presence.Amend(rl.name, bx.name, func(batch *store.Batch, _ bool) bool {
		staged, hastened = false, nil
		if rl.box(bx.name) != bx { // whoever came has ended it
			return false
		}
		dead := bx.isDead()
		if c := bx.online(); c != nil { // it has come back meanwhile
			if dead {
				r := b.begin()
				defer b.done(r)
				e := bx.terminated()
				c.end(r, e, terminationCode(e))
			}
			return false
		}
		meta := bx.current()
		if at, ends := meta.ExpiresAt(); !dead && (!ends || at.After(b.clock.Steady())) {
			return false
		}
		b.store.StageEnd(batch, &meta)
		if dead {
			hastened = bx.hastenWill(batch)
		} else {
			bx.takeWill() // its own due entry is not later than the session's
		}
		staged = true
		return true
	}, func(err error) {
		if err != nil {
			b.opts.Log.Error("a session that has ended could not be deleted, trying again", "session", bx.name, "err", err)
			b.unerased.add(bx, b.clock.Monotonic()+eraseRetry)
			return
		}
		if !staged {
			if bx.isDead() && rl.box(bx.name) != bx { // its Disconnected, which was waiting, has ended it in the store
				r := b.begin()
				defer b.done(r)
				bx.end(r)
			}
			return
		}
		if hastened != nil {
			rl.setWill(bx.name, hastened)
		}
		r := b.begin()
		r.remote = true
		defer b.done(r)
		if !bx.isDead() {
			b.metrics.sessions.WithLabelValues("SessionExpiry").Inc()
		}
		bx.end(r)
	})
}

const (
	eraseRetry = 2 * time.Second // until a session is tried again that could not be deleted
	eraseLimit = 256             // such sessions tried at once
)

// unerased are sessions that have ended and could not be deleted.
type unerased struct {
	mu    sync.Mutex
	boxes map[*box]time.Duration // when to try again, monotonic
}

func (u *unerased) add(bx *box, at time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.boxes == nil {
		u.boxes = make(map[*box]time.Duration)
	}
	u.boxes[bx] = at
}

// take returns up to limit of those that are to be tried at now.
func (u *unerased) take(now time.Duration, limit int) (due []*box) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for bx, at := range u.boxes {
		if len(due) == limit {
			break
		}
		if at <= now {
			due = append(due, bx)
			delete(u.boxes, bx)
		}
	}
	return due
}

// eraseAgain is the janitor's.
func (b *Broker) eraseAgain() {
	for _, bx := range b.unerased.take(b.clock.Monotonic(), eraseLimit) {
		bx.erase()
	}
}
