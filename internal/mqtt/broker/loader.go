package broker

import (
	"sync"

	"rollcall/internal/task"
)

// loader runs what must read the store before it can go on, on one goroutine.
// There is a queue for each partition of session names: what depends on an
// earlier job of the same client finds it done. Queues have their turns, and a
// job that takes long is done in steps, so that a message for very many sessions
// holds up only what comes behind it from the same partition. Clients that resume
// their sessions go before everything.
type loader struct {
	fault func(what any)
	work  *task.Group

	mu      sync.Mutex
	first   []func()
	queues  [][]loadJob // by partition
	waiting int         // jobs in queues
	turn    int
	running bool
}

// loadJob is done by calling step until it returns false.
type loadJob struct{ step func() (more bool) }

// submit has f called after all that were submitted before for the partition. It
// does not block.
func (l *loader) submit(partition uint8, f func()) {
	l.submitSteps(partition, func() bool { f(); return false })
}

// submitSteps has step called until it returns false, after all jobs that were
// submitted before for the partition are done.
func (l *loader) submitSteps(partition uint8, step func() (more bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queues[partition] = append(l.queues[partition], loadJob{step})
	l.waiting++
	l.start()
}

// goFirst has f called before what waits in the queues.
func (l *loader) goFirst(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.first = append(l.first, f)
	l.start()
}

func (l *loader) start() {
	if !l.running {
		l.running = true
		l.work.Go(l.run) // ends when nothing waits
	}
}

func (l *loader) run() {
	for {
		if f := l.takeFirst(); f != nil {
			l.do(func() bool { f(); return false })
			continue
		}
		partition, step := l.nextStep()
		if step == nil {
			return
		}
		if !l.do(step) {
			l.finish(partition)
		}
	}
}

func (l *loader) takeFirst() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.first) == 0 {
		return nil
	}
	f := l.first[0]
	l.first[0] = nil
	if l.first = l.first[1:]; len(l.first) == 0 {
		l.first = nil
	}
	return f
}

// nextStep returns the oldest job of the next queue that has one; nil: there is
// nothing to do, and the goroutine ends.
func (l *loader) nextStep() (partition int, step func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == 0 {
		l.running = len(l.first) > 0
		if l.running {
			return 0, func() bool { return true } // one has come just now
		}
		return 0, nil
	}
	for {
		l.turn = (l.turn + 1) % len(l.queues)
		if q := l.queues[l.turn]; len(q) > 0 {
			return l.turn, q[0].step
		}
	}
}

// finish takes the oldest job of a queue away.
func (l *loader) finish(partition int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[partition]
	q[0] = loadJob{}
	if q = q[1:]; len(q) == 0 {
		q = nil
	}
	l.queues[partition] = q
	l.waiting--
}

// do takes a step, whose fault is its own and ends the job.
func (l *loader) do(step func() bool) (more bool) {
	defer func() {
		if what := recover(); what != nil {
			more = false
			l.fault(what)
		}
	}()
	return step()
}
