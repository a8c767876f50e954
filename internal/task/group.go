// Package task runs goroutines that belong to somebody who waits for them.
package task

import "sync"

// Group is goroutines that somebody may wait for while others still begin, which
// a sync.WaitGroup forbids. The zero Group is ready to use, and its methods may
// be called concurrently.
type Group struct {
	mu      sync.Mutex
	running int
	idle    chan struct{} // closed when running falls to zero; nil if nobody waits
}

// Go runs f on a goroutine of its own.
func (t *Group) Go(f func()) {
	t.mu.Lock()
	t.running++
	t.mu.Unlock()
	go func() {
		defer t.done()
		f()
	}()
}

func (t *Group) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running--; t.running == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// Wait returns at a moment when none runs.
func (t *Group) Wait() {
	t.mu.Lock()
	if t.running == 0 {
		t.mu.Unlock()
		return
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle := t.idle
	t.mu.Unlock()
	<-idle
}
