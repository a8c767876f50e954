package broker

import (
	"math"
	"rollcall/internal/mqtt/stored"
	"time"
)

// EraseAgain tries at once to delete the sessions that could not be deleted.
func (b *Broker) EraseAgain() {
	for _, bx := range b.unerased.take(b.clock.Monotonic()+eraseRetry, math.MaxInt) {
		bx.erase()
	}
}

// Connections is how many connections the broker has.
func (b *Broker) Connections() int { return len(b.all(func(*conn) bool { return true })) }

// Retained is how many retained messages there are.
func (b *Broker) Retained() int {
	n, _ := b.store.Retained()
	return n
}

// AwaitsRoom reports whether retained messages wait until the client of that name
// has room.
func (b *Broker) AwaitsRoom(id string) bool {
	return len(b.all(func(c *conn) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.name.id == id && c.waiting != nil
	})) > 0
}

// Replaying reports whether retained messages are being sent to the client of that
// name.
func (b *Broker) Replaying(id string) bool {
	for _, c := range b.all(func(c *conn) bool { return c.name.id == id }) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.replaying
	}
	return false
}

// WorkOffDue does once what Run does every half second.
func (b *Broker) WorkOffDue() { b.workOffDue(make(map[stored.DueItem]time.Duration)) }

// Idle reports that nobody is writing to a client's connection; "": to any.
func (b *Broker) Idle(id string) bool {
	return len(b.all(func(c *conn) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return (id == "" || c.name.id == id) && (c.writing || c.stall.since != 0)
	})) == 0
}

// LentToStrangers is how much is held for clients that are not let in.
func (b *Broker) LentToStrangers() int64 { return b.strangers.used.Load() }

// LoaderJobs is how much waits for the loader, or is being done.
func (b *Broker) LoaderJobs() int {
	b.loader.mu.Lock()
	defer b.loader.mu.Unlock()
	return b.loader.waiting + len(b.loader.first)
}
