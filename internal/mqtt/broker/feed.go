package broker

import (
	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
)

// kick has the connection given more if there is more.
func (bx *box) kick() {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	if !bx.behind || bx.feeding || bx.conn == nil || bx.dead {
		return
	}
	bx.feeding = true
	bx.b.admissions.submit(bx.feed)
}

const (
	pageMessages = 64
	pageBytes    = 256 << 10
)

// feed gives the connection what it has room for from the store.
func (bx *box) feed() {
	r := bx.b.begin()
	defer bx.b.done(r)
	for bx.feedPage(r) {
		r.end(bx.b)
		r.now = bx.b.clock.Instant()
	}
}

// feedPage gives the connection a page, and reports whether there may be more
// that it has room for. If not, feeding has ended.
func (bx *box) feedPage(r *round) bool {
	bx.mu.Lock()
	c, cursor := bx.conn, bx.cursor
	if c == nil || !bx.behind || !c.takes() {
		bx.feeding = false
		bx.mu.Unlock()
		return false
	}
	bx.mu.Unlock()
	defer c.guard(r)
	defer bx.b.store.Reading()()
	page, err := bx.b.store.Pending(bx.key, &cursor, pageMessages, pageBytes)
	if err != nil {
		bx.b.opts.Log.Error("the queue of a session cannot be read", "session", bx.name, "err", err)
		c.end(r, session.Ending{Reason: disconnect.ServerError, Evidence: disconnect.Evidence{
			Kind: disconnect.Internal, Detail: "the session's queue cannot be read"}}, packet.UnspecifiedError)
	}
	a := takeActions()
	defer a.put()
	goOn := bx.givePage(r, c, cursor, &page, err, a)
	c.perform(r, a)
	return goOn
}

func (bx *box) givePage(r *round, c *conn, from stored.Cursor, page *stored.Page, err error, a *actions) bool {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	if bx.conn != c || bx.cursor != from { // another connection has come
		return bx.conn != nil
	}
	if err != nil {
		bx.feeding = false
		return false
	}
	more := page.More
	for i := range page.Entries {
		e := &page.Entries[i]
		if after(bx.last, e.Ref.Cursor()) { // committed is about to be told of it
			more, page.Index = false, bx.last.Index
			break
		}
		// Given before, if the connection began with it or the cursor was set
		// back; settled since the page was read, perhaps. What only awaits PUBCOMP
		// is for the beginning of a connection.
		if _, have := bx.out[e.PacketID]; have || e.Released || bx.b.store.Settled(e.Ref) {
			bx.cursor = e.Ref.Cursor()
			continue
		}
		if !c.give(r, &session.Input{Kind: session.Deliver, Message: e.Message, QoS: e.QoS, Retain: e.Retain,
			SubscriptionIDs: e.SubscriptionIDs, PacketID: e.PacketID, Share: e.Share}, a) {
			bx.feeding = false
			return false
		}
		bx.given(e.Ref, e.PacketID, charge{e.Size, e.Expires}, true)
	}
	if more || page.Index < bx.last.Index {
		return true
	}
	// Everything up to the last has been given.
	if after(bx.cursor, bx.last) {
		bx.cursor = bx.last
	}
	bx.behind, bx.feeding = false, false
	return false
}
