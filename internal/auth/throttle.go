package auth

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// Throttle bounds how often a key may fail: a number of failures at once, and
// then one per interval. Its memory is fixed: keys share slots by a seeded
// hash, so that two keys may, rarely and for this process's life, count as one.
// Its methods may be called concurrently.
type Throttle struct {
	seed  maphash.Seed
	start time.Duration
	every time.Duration
	burst time.Duration // what the burst is worth
	slots []atomic.Int64
}

// NewThrottle returns a Throttle with the given number of slots. Every key may
// fail burst times at once and recovers one failure per interval. now is the
// origin of its time, which is a monotonic reading.
func NewThrottle(slots, burst int, every time.Duration, now time.Duration) *Throttle {
	return &Throttle{
		seed: maphash.MakeSeed(), start: now, every: every,
		burst: time.Duration(max(burst, 1)) * every, slots: make([]atomic.Int64, max(slots, 1)),
	}
}

// Allowed reports whether key may try at now.
func (t *Throttle) Allowed(key string, now time.Duration) bool {
	debt := time.Duration(t.slot(key).Load()) - (now - t.start)
	return debt <= t.burst-t.every
}

// Wait is how long key has to wait before it may try; 0 or less: not at all.
func (t *Throttle) Wait(key string, now time.Duration) time.Duration {
	return time.Duration(t.slot(key).Load()) - (now - t.start) - (t.burst - t.every)
}

// Failed counts a failure of key at now. Failures that are let in while others
// are under way make a key wait longer, at most twice the burst.
func (t *Throttle) Failed(key string, now time.Duration) {
	s, at := t.slot(key), (now - t.start)
	for {
		old := s.Load()
		next := min(max(time.Duration(old), at)+t.every, at+2*t.burst)
		if s.CompareAndSwap(old, int64(next)) {
			return
		}
	}
}

func (t *Throttle) slot(key string) *atomic.Int64 {
	return &t.slots[maphash.String(t.seed, key)%uint64(len(t.slots))]
}
