// Package clocktest has clocks for tests.
package clocktest

import (
	"sync"
	"sync/atomic"
	"time"

	"rollcall/internal/clock"
)

// Moved is the machine's clock with a wall clock that can be set. Timers and
// the monotonic reading are the machine's. It may be used concurrently.
type Moved struct {
	clock.System
	by atomic.Int64
}

// Now implements clock.Clock.
func (m *Moved) Now() time.Time { return m.System.Now().Add(time.Duration(m.by.Load())) }

// SetWall moves the wall clock by d from where it is now.
func (m *Moved) SetWall(d time.Duration) { m.by.Add(int64(d)) }

// Hand is a clock that stands still unless it is moved, by hand. It may be used
// concurrently.
type Hand struct {
	mu     sync.Mutex
	wall   time.Time
	mono   time.Duration
	timers map[*handTimer]struct{}
}

// NewHand returns a clock whose wall time is now.
func NewHand(now time.Time) *Hand {
	return &Hand{wall: now, mono: time.Hour, timers: make(map[*handTimer]struct{})}
}

// Now implements clock.Clock.
func (h *Hand) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wall.UTC()
}

// Monotonic implements clock.Clock.
func (h *Hand) Monotonic() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mono
}

// Advance lets d pass: both readings move, and calls that are due are made, each
// on a goroutine of its own. It returns when they have returned.
func (h *Hand) Advance(d time.Duration) {
	var wg sync.WaitGroup
	defer wg.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wall, h.mono = h.wall.Add(d), h.mono+d
	for t := range h.timers {
		if t.at <= h.mono {
			delete(h.timers, t)
			wg.Go(t.f)
		}
	}
}

// SetWall moves the wall clock, and it alone, by d.
func (h *Hand) SetWall(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wall = h.wall.Add(d)
}

type handTimer struct {
	h  *Hand
	at time.Duration
	f  func()
}

// AfterFunc implements clock.Clock.
func (h *Hand) AfterFunc(d time.Duration, f func()) clock.Timer {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := &handTimer{h: h, at: h.mono + d, f: f}
	if d <= 0 {
		go f()
		return t
	}
	h.timers[t] = struct{}{}
	return t
}

// Stop implements clock.Timer.
func (t *handTimer) Stop() bool {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	_, pending := t.h.timers[t]
	delete(t.h.timers, t)
	return pending
}
