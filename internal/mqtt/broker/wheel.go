package broker

import (
	"sync"
	"time"

	"rollcall/internal/clock"
)

// wheel wakes connections at their deadlines. One timer serves all of them,
// and a deadline that moves away costs nothing: the connection is woken early
// and scheduled again. It is late by up to a notch.
type wheel struct {
	clock clock.Clock
	tick  func([]*conn)

	mu    sync.Mutex
	slots map[int64]*conn // first of a list, by notch
	next  int64           // that the timer is set for; 0: none
	timer clock.Timer
}

// notch is the precision of deadlines.
const notch = 250 * time.Millisecond

// spoke is a connection's place in the wheel.
type spoke struct {
	prev, next *conn
	notch      int64 // 0: none
}

func newWheel(c clock.Clock, tick func([]*conn)) *wheel {
	return &wheel{clock: c, tick: tick, slots: make(map[int64]*conn)}
}

// schedule has c woken at a time of the monotonic reading, or before. It may be called with c's lock.
func (w *wheel) schedule(c *conn, at time.Duration) {
	n := int64(at/notch) + 1
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.spoke.notch != 0 {
		if c.spoke.notch <= n {
			return
		}
		w.unlink(c)
	}
	head := w.slots[n]
	c.spoke = spoke{next: head, notch: n}
	if head != nil {
		head.spoke.prev = c
	}
	w.slots[n] = c
	if w.next == 0 || n < w.next {
		w.set(n)
	}
}

// remove forgets c.
func (w *wheel) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.spoke.notch != 0 {
		w.unlink(c)
	}
}

func (w *wheel) unlink(c *conn) {
	s := c.spoke
	if s.next != nil {
		s.next.spoke.prev = s.prev
	}
	switch {
	case s.prev != nil:
		s.prev.spoke.next = s.next
	case s.next != nil:
		w.slots[s.notch] = s.next
	default:
		delete(w.slots, s.notch)
	}
	c.spoke = spoke{}
	if len(w.slots) == 0 && w.timer != nil {
		w.timer.Stop()
		w.timer, w.next = nil, 0
	}
}

// set sets the timer for notch n. The wheel is locked.
func (w *wheel) set(n int64) {
	if w.timer != nil {
		w.timer.Stop()
	}
	w.next = n
	at := time.Duration(n) * notch
	w.timer = w.clock.AfterFunc(max(0, at-w.clock.Monotonic()), func() { w.turn(n) })
}

// turn wakes everybody whose time has come.
func (w *wheel) turn(n int64) {
	w.tick(w.due(n))
}

func (w *wheel) due(n int64) []*conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next != n { // replaced meanwhile
		return nil
	}
	now := int64(w.clock.Monotonic() / notch)
	var due []*conn
	earliest := int64(0)
	for slot, c := range w.slots {
		if slot > max(now, n) {
			if earliest == 0 || slot < earliest {
				earliest = slot
			}
			continue
		}
		for c != nil {
			next := c.spoke.next
			c.spoke = spoke{}
			due = append(due, c)
			c = next
		}
		delete(w.slots, slot)
	}
	w.timer, w.next = nil, 0
	if earliest != 0 {
		w.set(earliest)
	}
	return due
}
