package broker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
)

// What operators see of sessions, and do to them.

// Queue is what waits for a client, unacknowledged messages included and expired
// ones not.
type Queue struct {
	Messages int
	Bytes    int64  // of a stored session
	Dropped  uint64 // messages since the start, because the queue of a stored session was full
}

// SessionView is what there is of a session now.
type SessionView struct {
	Stored        bool      // it outlives its connection
	Owner         string    // authentication name; of a stored session
	Expiry        uint32    // seconds that it is kept without a connection; stored.NeverExpires
	ExpiresAt     time.Time // when it expires as things stand; zero: it does not
	Subscriptions int
	Queue         Queue
}

// View returns what there is of the session of that name, or false if it is
// neither connected nor stored. It reads the store if the queue has not been
// counted since the start.
func (b *Broker) View(realm, id string) (SessionView, bool, error) {
	rl := b.realm(realm)
	subs, ok := b.Subscriptions(realm, id)
	if !ok {
		return SessionView{}, false, nil
	}
	v := SessionView{Subscriptions: len(subs)}
	bx := rl.box(id)
	if bx == nil {
		if c := rl.connected(id); c != nil {
			c.mu.Lock()
			v.Queue.Messages = c.s.Queued()
			c.mu.Unlock()
		}
		return v, true, nil
	}
	var err error
	v.Queue, err = bx.depth()
	bx.mu.Lock()
	defer bx.mu.Unlock()
	meta := bx.staged.pick(&bx.meta)
	v.Stored, v.Owner, v.Expiry = true, meta.Owner, meta.Expiry
	v.ExpiresAt, _ = meta.ExpiresAt()
	return v, true, err
}

// depth returns what waits in the queue.
func (bx *box) depth() (Queue, error) {
	now := bx.b.clock.Steady()
	bx.mu.Lock()
	gone, goneBytes := bx.expiring.expired(now)
	q := Queue{Messages: bx.messages - gone, Bytes: bx.bytes - goneBytes, Dropped: bx.dropped}
	loaded := bx.loaded
	bx.mu.Unlock()
	if loaded {
		return q, nil
	}
	err := bx.b.store.Survey(bx.key, func(w stored.Waiting) bool {
		if w.Expires == 0 || w.Expires > now.UnixNano() {
			q.Messages++
			q.Bytes += int64(w.Size)
		}
		return true
	})
	return q, err
}

// Subscriptions returns those of the session of that name, in the order of their
// filters, or false if it is neither connected nor stored.
func (b *Broker) Subscriptions(realm, id string) ([]session.Subscription, bool) {
	rl := b.realm(realm)
	var subs []session.Subscription
	if bx := rl.box(id); bx != nil {
		subs = bx.subscriptions()
	} else if c := rl.connected(id); c != nil {
		c.mu.Lock()
		subs = c.s.State().Subscriptions
		c.mu.Unlock()
	} else {
		return nil, false
	}
	slices.SortFunc(subs, func(a, b session.Subscription) int { return strings.Compare(a.Filter, b.Filter) })
	return subs, true
}

// connected returns the connection that holds the session of that name, or nil.
func (rl *realm) connected(id string) *conn {
	rl.mu.Lock()
	var all []*conn
	for c := rl.newest[id]; c != nil; c = c.earlier {
		all = append(all, c)
	}
	rl.mu.Unlock()
	for _, c := range all {
		if c.has(sessionName{rl.name, id}) {
			return c
		}
	}
	return nil
}

// byOperator is the end of what an operator ends.
func byOperator(what, why string) session.Ending {
	if why != "" {
		what += ": " + why
	}
	return session.Ending{Reason: disconnect.ServerInitiatedDisconnect, Evidence: disconnect.Evidence{Kind: disconnect.Operator, Detail: what}}
}

// End ends the connection that holds a session on an operator's behalf
// (DISCONNECT 0x98, ServerInitiatedDisconnect). It reports whether there was
// one.
func (b *Broker) End(realm, id, why string) bool {
	return b.end(realm, id, byOperator("an operator ended the session", why))
}

func (b *Broker) end(realm, id string, e session.Ending) (ended bool) {
	found := b.all(func(c *conn) bool { return c.has(sessionName{realm, id}) })
	if len(found) == 0 {
		return false
	}
	r := b.begin()
	defer b.done(r)
	for _, c := range found { // one, but during a take-over
		ended = c.end(r, e, packet.AdministrativeAction) || ended
	}
	return ended
}

// ErrStays: a session was ended, and its deletion could not be stored yet. It is
// tried again until it is.
var ErrStays = errors.New("broker: the session has ended, but that could not be stored yet; it is tried again")

// Delete ends the session of that name on an operator's behalf, with what is
// stored of it: subscriptions, queue and packet identifiers. A Will that waits is
// published. Another client may have the name from then on. It reports whether
// there was a session, and returns once the end is durable, ErrStays if it could
// not be made so, or when ctx ends.
func (b *Broker) Delete(ctx context.Context, realm, id, why string) (bool, error) {
	rl := b.realm(realm)
	e := byOperator("an operator deleted the session", why)
	bx := rl.box(id)
	if bx == nil {
		if !b.end(realm, id, e) {
			return false, nil
		}
		return true, b.afterTurn(ctx, rl, id)
	}
	r := b.begin()
	bx.terminate(r, e)
	b.done(r)
	if err := b.afterTurn(ctx, rl, id); err != nil {
		return true, err
	}
	if rl.box(id) == bx {
		return true, ErrStays
	}
	return true, nil
}

// afterTurn waits for what is under way for a session name.
func (b *Broker) afterTurn(ctx context.Context, rl *realm, id string) error {
	decided := make(chan error, 1)
	b.opts.Presence.Amend(rl.name, id, func(*store.Batch, bool) bool { return false }, func(err error) { decided <- err })
	select {
	case err := <-decided:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// has reports whether c is connected under that name.
func (c *conn) has(name sessionName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hold != nil && c.name == name && !c.s.Ended()
}
