//go:build !linux

package broker

import "rollcall/internal/mqtt/listen"

// loops do not exist on this system.
type loops struct{}

// Acceptor returns what accepts plain TCP connections: nil, because there are
// no event loops on this system.
func (b *Broker) Acceptor() listen.Acceptor { return nil }
