package delay

import (
	"math/rand/v2"
	"sync"
	"time"

	"rollcall/internal/clock"
)

// line is a queue that holds each item for a random time and then calls f with
// it, in order, from one goroutine.
type line[T any] struct {
	clock clock.Clock
	max   time.Duration
	f     func(T)
	done  chan struct{}

	mu      sync.Mutex
	wake    sync.Cond
	random  *rand.Rand
	items   []held[T]
	due     time.Time   // of the last item
	timer   clock.Timer // for the first item, nil if none runs
	hurried bool
	ended   bool
}

type held[T any] struct {
	item T
	due  time.Time
}

func newLine[T any](c clock.Clock, longest time.Duration, seed uint64, f func(T)) *line[T] {
	l := &line[T]{
		clock: c, max: longest, f: f, done: make(chan struct{}),
		random: rand.New(rand.NewPCG(seed, 1)),
	}
	l.wake.L = &l.mu
	go l.run()
	return l
}

func (l *line[T]) add(item T) {
	l.mu.Lock()
	due := l.clock.Now()
	if l.max > 0 {
		due = due.Add(time.Duration(l.random.Int64N(int64(l.max) + 1)))
	}
	if due.Before(l.due) {
		due = l.due
	}
	l.due = due
	l.items = append(l.items, held[T]{item, due})
	l.mu.Unlock()
	l.wake.Signal()
}

// hurry ends all waiting, for good.
func (l *line[T]) hurry() {
	l.mu.Lock()
	l.hurried = true
	l.mu.Unlock()
	l.wake.Signal()
}

// end waits for the goroutine to leave. The line must be empty.
func (l *line[T]) end() {
	l.mu.Lock()
	l.ended = true
	if l.timer != nil {
		l.timer.Stop()
	}
	l.mu.Unlock()
	l.wake.Signal()
	<-l.done
}

func (l *line[T]) run() {
	defer close(l.done)
	for {
		item, ok := l.next()
		if !ok {
			return
		}
		l.f(item)
	}
}

// next waits for the first item to be due, or returns false at the end.
func (l *line[T]) next() (T, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if len(l.items) > 0 {
			first := l.items[0]
			wait := first.due.Sub(l.clock.Now())
			if wait <= 0 || l.hurried {
				l.items[0] = held[T]{}
				l.items = l.items[1:]
				return first.item, true
			}
			if l.timer == nil {
				l.timer = l.clock.AfterFunc(wait, func() {
					l.mu.Lock()
					l.timer = nil
					l.mu.Unlock()
					l.wake.Signal()
				})
			}
		} else if l.ended {
			var none T
			return none, false
		}
		l.wake.Wait()
	}
}
