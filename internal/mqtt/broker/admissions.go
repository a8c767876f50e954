package broker

import (
	"sync"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/task"
)

// admissions runs what judges CONNECTs for event loops, which must not wait.
// Its goroutines are kept for a while, because the judgement needs a deep
// stack. There are as many as jobs, within a bound; beyond it jobs queue.
type admissions struct {
	clock clock.Clock
	fault func(what any)
	group *task.Group

	mu      sync.Mutex
	queue   []func()
	idle    []chan func() // waiting goroutines, the last to come first
	workers int
	closed  bool // nobody waits for jobs: whoever has none ends
}

const (
	admissionsMax  = 256
	admissionsIdle = 10 * time.Second
)

// submit has f called soon. It does not block.
func (a *admissions) submit(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.idle); n > 0 {
		w := a.idle[n-1]
		a.idle[n-1] = nil
		a.idle = a.idle[:n-1]
		w <- f // has room
		return
	}
	if a.workers >= admissionsMax {
		a.queue = append(a.queue, f)
		return
	}
	a.workers++
	a.group.Go(func() { a.work(f) }) // ends when it has been idle
}

func (a *admissions) work(f func()) {
	jobs := make(chan func(), 1)
	for f != nil {
		a.do(f)
		f = a.next(jobs)
	}
}

// do calls f, whose fault is its own.
func (a *admissions) do(f func()) {
	defer func() {
		if what := recover(); what != nil {
			a.fault(what)
		}
	}()
	f()
}

// next returns the next job of the goroutine that waits on jobs, or nil when
// it has been idle for long.
func (a *admissions) next(jobs chan func()) func() {
	a.mu.Lock()
	if len(a.queue) > 0 {
		f := a.queue[0]
		a.queue[0] = nil
		a.queue = a.queue[1:]
		a.mu.Unlock()
		return f
	}
	if a.closed {
		a.workers--
		a.mu.Unlock()
		return nil
	}
	a.idle = append(a.idle, jobs)
	a.mu.Unlock()
	t := a.clock.AfterFunc(admissionsIdle, func() { a.dismiss(jobs) })
	defer t.Stop()
	return <-jobs
}

// dismiss ends the goroutine that waits on jobs, unless it has one.
func (a *admissions) dismiss(jobs chan func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, w := range a.idle {
		if w == jobs {
			a.idle = append(a.idle[:i], a.idle[i+1:]...)
			a.workers--
			jobs <- nil
			return
		}
	}
}

// open has goroutines wait for jobs, after close.
func (a *admissions) open() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = false
}

// close dismisses whoever is idle, and from now on whoever becomes so. Jobs are
// still done.
func (a *admissions) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for _, w := range a.idle {
		w <- nil
	}
	a.workers -= len(a.idle)
	a.idle = nil
}
