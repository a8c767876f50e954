package broker

import (
	"fmt"
	"slices"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
)

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
	found := 0    // of sent
	for {
		page, err := bx.b.store.Pending(bx.key, &cursor, pageMessages, pageBytes)
		if err != nil {
			return nil, fmt.Errorf("read the queue of session %s: %w", bx.name, err)
		}
		for i := range page.Entries {
			e := &page.Entries[i]
			cursor = e.Ref.Cursor()
			_, before := sent[e.PacketID]
			if before {
				found++
			}
			// What was sent before a restart is not known; whatever came before
			// the client went may have been.
			again := before || e.Released || !known && len(st.Inflight) < int(bx.b.cfg.MaxInflight) && !e.Message.Received.After(asleep)
			if !again {
				// A crash brings back what was acknowledged in the last moment, so
				// that more than a window may be ahead of what awaits PUBCOMP.
				rest = true
				over := e.Message.Received.After(asleep)
				if known {
					over = found == len(sent) || over && !asleep.IsZero()
				}
				if over {
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
