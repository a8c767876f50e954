package broker

import (
	"sync"

	"rollcall/internal/task"
)

// loader runs what must read the store before it can go on, one after the
// other: what depends on an earlier one of the same client finds it done.
type loader struct {
	mu      sync.Mutex
	queue   []func()
	running bool
	fault   func(what any)
	work    *task.Group
}

// submit has f called after all that were submitted before. It does not block.
func (l *loader) submit(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, f)
	if !l.running {
		l.running = true
		l.work.Go(l.run) // ends when the queue is empty
	}
}

// do calls f, whose fault is its own.
func (l *loader) do(f func()) {
	defer func() {
		if what := recover(); what != nil {
			l.fault(what)
		}
	}()
	f()
}

func (l *loader) run() {
	for {
		l.mu.Lock()
		jobs := l.queue
		l.queue = nil
		if len(jobs) == 0 {
			l.running = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, f := range jobs {
			l.do(f)
		}
	}
}
