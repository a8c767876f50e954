package broker

import (
	"fmt"
	"slices"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
)

// resumeSoon has the session resumed before anything else that the loader has to
// do, but after what the client itself has published before, if that is not
// stored yet.
func (bx *box) resumeSoon(c *conn, ad session.Admission) {
	l := &bx.b.loader
	l.goFirst(func() {
		if bx.storesInbound() {
			l.submit(c.partition, func() { bx.resume(c, ad) })
			return
		}
		bx.resume(c, ad)
	})
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
	bx.resumed(c)
}

// resumed has c, which is admitted, given what has come meanwhile.
func (bx *box) resumed(c *conn) {
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
	if err := bx.load(nil); err != nil {
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
	rd := resumption{bx: bx, c: c, st: st, known: known, sent: sent, asleep: asleep}
	for {
		more, err := rd.page()
		if err != nil {
			return nil, fmt.Errorf("read the queue of session %s: %w", bx.name, err)
		}
		if !more {
			return st, nil
		}
	}
}

// resumption looks in a queue for what the client may have been sent before.
type resumption struct {
	bx     *box
	c      *conn
	st     *session.State
	known  bool            // sent is what the client was sent over the last connection
	sent   map[uint16]bool // see box
	asleep time.Time       // see box

	cursor stored.Cursor
	rest   bool // the entries are behind those that are sent again
	found  int  // of sent
}

// page looks at the next page of the queue, and reports whether there may be
// more to find.
func (rd *resumption) page() (more bool, err error) {
	defer rd.bx.b.store.Reading()()
	page, err := rd.bx.b.store.Pending(rd.bx.key, &rd.cursor, pageMessages, pageBytes)
	if err != nil {
		return false, err
	}
	for i := range page.Entries {
		e := &page.Entries[i]
		rd.cursor = e.Ref.Cursor()
		if rd.again(e) {
			rd.take(e)
			continue
		}
		// A crash brings back what was acknowledged in the last moment, so
		// that more than a window may be ahead of what awaits PUBCOMP.
		rd.rest = true
		over := e.Message.Received.After(rd.asleep)
		if rd.known {
			over = rd.found == len(rd.sent) || over && !rd.asleep.IsZero()
		}
		if over {
			return false, nil
		}
	}
	return page.More, nil
}

// again reports whether an entry is to be sent again.
func (rd *resumption) again(e *stored.Entry) bool {
	_, before := rd.sent[e.PacketID]
	if before {
		rd.found++
	}
	// What was sent before a restart is not known; whatever came before the
	// client went may have been.
	return before || e.Released || !rd.known && len(rd.st.Inflight) < int(rd.bx.b.cfg.MaxInflight) && !e.Message.Received.After(rd.asleep)
}

// take gives the connection an entry that has not been dropped meanwhile.
func (rd *resumption) take(e *stored.Entry) {
	bx := rd.bx
	bx.mu.Lock()
	defer bx.mu.Unlock()
	if bx.b.store.Settled(e.Ref) {
		return
	}
	rd.st.Inflight = append(rd.st.Inflight, session.Outgoing{PacketID: e.PacketID, Message: e.Message, QoS: e.QoS, Retain: e.Retain,
		Sent: true, Released: e.Released, SubscriptionIDs: e.SubscriptionIDs, Share: e.Share})
	if bx.conn == rd.c {
		bx.given(e.Ref, e.PacketID, charge{e.Size, e.Expires}, !rd.rest)
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
