package broker

import "math"

// EraseAgain tries at once to delete the sessions that could not be deleted.
func (b *Broker) EraseAgain() {
	for _, bx := range b.unerased.take(b.opts.Clock.Now().Add(eraseRetry), math.MaxInt) {
		bx.erase()
	}
}

// Connections is how many connections the broker has.
func (b *Broker) Connections() int { return len(b.all(func(*conn) bool { return true })) }
