// Package delay is a store.Engine for tests: it wraps another one and makes
// commits take their time, or fail, without making them any less correct.
//
// A batch waits before the inner engine gets it, so that nobody sees it early,
// and again between its becoming durable and its done, so that readers may see
// it before its submitter is told. Order is kept throughout. What passes its
// tests on this engine does not depend on commits being quick.
package delay

import (
	"context"
	"sync"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/store"
)

// DefaultMax is the longest delay by default.
const DefaultMax = 50 * time.Millisecond

// Fault is what is made to happen to a batch.
type Fault int

// The faults.
const (
	None           Fault = iota // the batch takes its course
	Conflict                    // it fails with ErrConflict and is not applied
	Full                        // it fails with ErrFull and is not applied
	UnknownApplied              // it takes its course, but reports ErrUnknown
	UnknownLost                 // it is not applied and reports ErrUnknown
)

// Options of New.
type Options struct {
	// Max bounds the time that a batch is held, before and after its commit
	// together. DefaultMax if 0; nothing is held if negative.
	Max time.Duration

	// Seed chooses the delays.
	Seed uint64

	// Fault decides on each batch, in the order of submission, one at a time.
	// It must not call the engine. No batch has a fault if it is nil.
	Fault func(*store.Batch) Fault

	// Clock is the machine's by default.
	Clock clock.Clock
}

// Engine wraps another engine. New returns one.
type Engine struct {
	store.Engine // the inner one: Partitions, Size, Usage, Snapshot

	fault    func(*store.Batch) Fault
	outcomes store.Outcomes // of batches that the inner engine never saw
	before   *line[submission]
	after    *line[settled]

	mu      sync.Mutex
	idle    sync.Cond
	pending int // submitted and not reported
	late    int // callers being told that they are too late
	closing bool
	closed  chan struct{}
	err     error // of closing
}

type submission struct {
	batch *store.Batch
	fault Fault
	done  func(store.Result)
}

type settled struct {
	result store.Result
	done   func(store.Result)
}

// New wraps inner, which it closes when it is closed.
func New(inner store.Engine, o Options) *Engine {
	if o.Max == 0 {
		o.Max = DefaultMax
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Fault == nil {
		o.Fault = func(*store.Batch) Fault { return None }
	}
	e := &Engine{Engine: inner, fault: o.Fault, closed: make(chan struct{})}
	e.idle.L = &e.mu
	half := max(o.Max/2, 0)
	e.before = newLine(o.Clock, half, o.Seed, e.commit)
	e.after = newLine(o.Clock, half, o.Seed+1, e.report)
	return e
}

// Submit implements store.Engine.
func (e *Engine) Submit(b *store.Batch, done func(store.Result)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		e.late++
		go func() {
			done(store.Result{Err: store.ErrClosed})
			e.mu.Lock()
			e.late--
			e.mu.Unlock()
			e.idle.Broadcast()
		}()
		return
	}
	e.pending++
	e.before.add(submission{b, e.fault(b), done}) // under the lock: order is kept
}

// commit is the end of the first wait.
func (e *Engine) commit(s submission) {
	var err error
	switch s.fault {
	case Conflict:
		err = store.ErrConflict
	case Full:
		err = store.ErrFull
	case UnknownLost:
		err = store.ErrUnknown
	default:
		e.Engine.Submit(s.batch, func(r store.Result) {
			if s.fault == UnknownApplied {
				r = store.Result{Err: store.ErrUnknown}
			}
			e.after.add(settled{r, s.done})
		})
		return
	}
	// A batch that is not applied reports after those before it too: an empty
	// one travels in its place.
	e.Engine.Submit(store.NewBatch(store.Reserve), func(store.Result) {
		if s.fault != UnknownLost { // nobody knows what became of that one
			e.outcomes.Remember(s.batch.ID(), store.Result{Err: err})
		}
		e.after.add(settled{store.Result{Err: err}, s.done})
	})
}

// report is the end of the second wait.
func (e *Engine) report(s settled) {
	s.done(s.result)
	e.mu.Lock()
	e.pending--
	e.mu.Unlock()
	e.idle.Broadcast()
}

// Outcome implements store.Engine. Of a batch that was reported as unknown it
// tells the truth: its index if it was applied, and that there is no memory of
// it if not.
func (e *Engine) Outcome(ctx context.Context, id store.ID) (store.Result, bool, error) {
	if r, ok := e.outcomes.Lookup(id); ok {
		return r, true, nil
	}
	return e.Engine.Outcome(ctx, id)
}

// Close implements store.Engine. What still waits goes on without delay.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	first := !e.closing
	e.closing = true
	e.mu.Unlock()
	e.before.hurry()
	e.after.hurry()
	e.mu.Lock()
	for e.pending > 0 {
		e.idle.Wait()
	}
	if first {
		e.mu.Unlock()
		e.before.end()
		e.after.end()
		err := e.Engine.Close()
		e.mu.Lock()
		e.err = err
		close(e.closed)
	} else {
		e.mu.Unlock()
		<-e.closed
		e.mu.Lock()
	}
	for e.late > 0 {
		e.idle.Wait()
	}
	return e.err
}
