package presence

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/store"
)

// Claim asks for a session name on behalf of a connection.
type Claim struct {
	Realm   string
	Session string
	Owner   string // authentication name; compared ignoring case
	Origin  Origin
	Conn    Connection
	Stage   Stage // of the Connected; nil: none
}

type claim struct {
	Claim
	done func(*Hold, error)
	old  *Hold // frozen while the take-over commits
}

// Claim makes the connection the holder of its session and calls done exactly
// once: with the hold once Connected(n) is durable, or with an error. If a
// connection of the same owner holds the session, it is frozen, and
// Disconnected(n-1, SessionTakenOver) and Connected(n) are one commit; only
// then is it evicted. What a crashed incarnation left open is closed in the
// same commit.
//
// Claim may read the store; it does not wait for a commit. done may be called
// before Claim returns and must not block. The transition stands even if the
// connection dies meanwhile: the caller then releases the hold. done may do so.
func (l *Ledger) Claim(c Claim, done func(*Hold, error)) {
	op := &operation{claim: &claim{Claim: c, done: done}}
	l.unsure.Add(1)
	if err := l.enqueue(name{c.Realm, c.Session}, op); err != nil {
		l.claimFailed(nil, op.claim, err)
	}
}

func (l *Ledger) runClaim(s *seat, op *operation) {
	c := op.claim
	if c.Conn.Gone() {
		l.fail(s, op, ErrGone)
		return
	}
	if s.holder != nil && !strings.EqualFold(s.state.Owner, c.Owner) {
		l.fail(s, op, ErrOwned)
		return
	}
	if s.holder != nil && c.old == nil {
		c.old = s.holder
		c.old.conn.Freeze()
	}
	ts := l.claimTransitions(s, c)
	l.commit(s, store.Normal, ts, func(err error) {
		if errors.Is(err, store.ErrConflict) && op.tries < 3 {
			op.tries++
			l.work.Go(func() { l.run(s, op) })
			return
		}
		if err != nil {
			l.fail(s, op, err)
			return
		}
		l.claimed(s, c, ts)
	})
}

// claimTransitions are those that make c the holder: the end of what stands
// open, if anything does, and the new beginning.
func (l *Ledger) claimTransitions(s *seat, c *claim) []Transition {
	at := l.instant(s)
	ts := make([]Transition, 0, 2)
	skipped := s.lost
	if s.state.Open() {
		end := l.ending(s, at)
		if c.old != nil {
			end.Reason = disconnect.SessionTakenOver
			end.Evidence = disconnect.Evidence{
				Kind: disconnect.Newcomer, Packet: "CONNECT",
				Detail: fmt.Sprintf("the client connected again from %s over %s", c.Origin.Remote, c.Origin.Transport),
			}
		} else {
			end.Reason = disconnect.ServerError
			end.Evidence = crashEvidence(s.state.Holder, l.self)
			end.stage = l.crashed
		}
		ts = append(ts, end)
		at = at.Add(100 * time.Nanosecond)
		skipped = 0 // the end has said it
	}
	return append(ts, Transition{
		Realm: s.name.realm, Session: s.name.session, Number: s.state.Number + s.lost + 1, Kind: Connected,
		Skipped: skipped, Time: at, EventID: l.newID(), Owner: c.Owner, Origin: c.Origin, Holder: l.self, stage: c.Stage,
	})
}

// ending is the Disconnected of the seat's open session, reason and evidence
// still to be filled in. It has the session's number, or the one after what may
// have been lost.
func (l *Ledger) ending(s *seat, at time.Time) Transition {
	return Transition{
		Realm: s.name.realm, Session: s.name.session, Number: s.state.Number + s.lost, Kind: Disconnected,
		Skipped: s.lost, Time: at, EventID: l.newID(), Owner: s.state.Owner, Origin: s.state.Origin, Holder: s.state.Holder,
	}
}

func (l *Ledger) claimed(s *seat, c *claim, ts []Transition) {
	h := &Hold{ledger: l, seat: s, conn: c.Conn, number: s.state.Number, open: true}
	l.open.Add(1)
	s.holder = h
	for i := range ts {
		l.metrics.count(&ts[i])
	}
	if c.old != nil {
		c.old.open = false
		c.old.conn.Evict(c.Origin)
		c.old.settled()
	}
	c.done(h, nil)
	l.next(s)
}

func (l *Ledger) claimFailed(s *seat, c *claim, err error) {
	l.metrics.refused.WithLabelValues(refusal(err)).Inc()
	if c.old != nil && s.holder == c.old {
		c.old.conn.Unfreeze()
	}
	c.done(nil, err)
	l.sure()
}

func refusal(err error) string {
	switch {
	case errors.Is(err, ErrOwned):
		return "owned"
	case errors.Is(err, ErrBusy):
		return "busy"
	case errors.Is(err, ErrGone):
		return "gone"
	case errors.Is(err, ErrFull):
		return "full"
	case errors.Is(err, store.ErrConflict):
		return "conflict"
	}
	return "store"
}
