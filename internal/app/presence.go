package app

import (
	"errors"
	"fmt"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/presence"
)

// ledger makes the presence ledger what the broker asks for.
type ledger struct{ *presence.Ledger }

// Claim implements broker.Presence.
func (l ledger) Claim(c broker.Claim, done func(broker.Hold, error)) {
	l.Ledger.Claim(presence.Claim{
		Realm: c.Realm, Session: c.Session, Owner: c.Owner,
		Origin: presence.Origin{Protocol: c.Protocol, Transport: c.Transport, Remote: c.Remote, Method: c.Method},
		Conn:   connection{c.Conn},
	}, func(h *presence.Hold, err error) {
		if err != nil {
			done(nil, claimError(err))
			return
		}
		done(h, nil)
	})
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
