package app

import (
	"errors"
	"fmt"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/presence"
	"rollcall/internal/store"
)

// ledger makes the presence ledger what the broker asks for.
type ledger struct{ *presence.Ledger }

// Claim implements broker.Presence.
func (l ledger) Claim(c broker.Claim, done func(broker.Hold, error)) {
	l.Ledger.Claim(presence.Claim{
		Realm: c.Realm, Session: c.Session, Owner: c.Owner,
		Origin: presence.Origin{Protocol: c.Protocol, Transport: c.Transport, Remote: c.Remote, Method: c.Method},
		Conn:   connection{c.Conn},
		Stage:  stage(c.Stage),
	}, func(h *presence.Hold, err error) {
		if err != nil {
			done(nil, claimError(err))
			return
		}
		done(hold{h}, nil)
	})
}

// Amend implements broker.Presence.
func (l ledger) Amend(realm, session string, f func(b *store.Batch, open bool) bool, done func(error)) {
	l.Ledger.Amend(realm, session, func(b *store.Batch, _ uint8, open bool) bool { return f(b, open) }, done)
}

func stage(f broker.Stage) presence.Stage {
	if f == nil {
		return nil
	}
	return func(b *store.Batch, _ uint8, t *presence.Transition) { f(b, t.Number) }
}

// hold makes a hold of the ledger what the broker asks for.
type hold struct{ *presence.Hold }

// Release implements broker.Hold.
func (h hold) Release(r disconnect.Reason, v disconnect.Evidence, f broker.Stage) {
	h.Hold.Release(r, v, stage(f))
}

func claimError(err error) error {
	switch {
	case errors.Is(err, presence.ErrOwned):
		return broker.ErrOwned
	case errors.Is(err, presence.ErrBusy):
		return broker.ErrBusy
	case errors.Is(err, presence.ErrFull):
		return broker.ErrFull
	case errors.Is(err, presence.ErrGone):
		return broker.ErrGone
	}
	return err
}

// connection makes a connection of the broker what the ledger asks for.
type connection struct{ broker.Connection }

// Evict implements presence.Connection.
func (c connection) Evict(by presence.Origin) {
	c.Connection.Evict(disconnect.Evidence{
		Kind: disconnect.Newcomer, Packet: "CONNECT",
		Detail: fmt.Sprintf("the client connected again from %s over %s", by.Remote, by.Transport),
	})
}
