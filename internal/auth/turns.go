package auth

import (
	"sync"

	"rollcall/internal/clock"
)

// turns is a bounded queue of work that is done by a few goroutines, which exist
// while there is some. Sources have turns one after the other, however many
// wait; when the queue is full, the source with the most gives one up.
type turns struct {
	workers int // at most so many goroutines
	most    int // that wait

	mu      sync.Mutex
	sources map[string]*line
	ring    []*line // those that wait, in the order of their turns
	next    int     // in ring
	waiting int
	running int
}

// line is what waits of one source, oldest first.
type line struct {
	source string
	at     int // in ring
	turns  []*turn
}

// turn is one thing to do. The queue's lock guards it.
type turn struct {
	run     func()
	refused func(error)
	line    *line // nil: not waiting
	timer   clock.Timer
}

func (t *turn) refuse(err error) {
	if t.timer != nil {
		t.timer.Stop()
	}
	t.refused(err)
}

// add has t's work done in its turn, and reports whether it waits for it. There
// may be one that is refused instead, which may be t.
func (q *turns) add(source string, t *turn) (waits bool, evicted *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running < q.workers {
		q.running++
		go q.work(t) // ends when nothing waits
		return false, nil
	}
	if q.waiting >= q.most {
		longest, own := q.longest(), 1
		if l := q.sources[source]; l != nil {
			own += len(l.turns)
		}
		if own >= len(longest.turns) {
			return false, t
		}
		evicted = longest.turns[len(longest.turns)-1]
		q.removeLocked(evicted)
	}
	if q.sources == nil {
		q.sources = make(map[string]*line)
	}
	l := q.sources[source]
	if l == nil {
		l = &line{source: source, at: len(q.ring)}
		q.sources[source] = l
		q.ring = append(q.ring, l)
	}
	l.turns = append(l.turns, t)
	t.line = l
	q.waiting++
	return true, evicted
}

// longest returns the line with the most. It looks at all of them: they are at
// most as many as wait, and it is asked for when the queue is full.
func (q *turns) longest() *line {
	most := q.ring[0]
	for _, l := range q.ring {
		if len(l.turns) > len(most.turns) {
			most = l
		}
	}
	return most
}

// watch has timer stopped when t's turn comes.
func (q *turns) watch(t *turn, timer clock.Timer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.line == nil {
		timer.Stop()
		return
	}
	t.timer = timer
}

// remove takes t out of the queue, and reports whether it was there.
func (q *turns) remove(t *turn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.line == nil {
		return false
	}
	q.removeLocked(t)
	return true
}

func (q *turns) removeLocked(t *turn) {
	l := t.line
	for i, other := range l.turns {
		if other == t {
			copy(l.turns[i:], l.turns[i+1:])
			l.turns[len(l.turns)-1] = nil
			l.turns = l.turns[:len(l.turns)-1]
			break
		}
	}
	t.line = nil
	q.waiting--
	if len(l.turns) > 0 {
		return
	}
	// The last line takes the place of this one.
	last := len(q.ring) - 1
	q.ring[l.at], q.ring[last].at = q.ring[last], l.at
	q.ring[last] = nil
	q.ring = q.ring[:last]
	delete(q.sources, l.source)
}

// work does t and then what waits, until nothing does.
func (q *turns) work(t *turn) {
	makeRoom()
	defer giveBack()
	for t != nil {
		t.run()
		t = q.take()
	}
}

// take returns whose turn it is, or nil, and then the caller ends.
func (q *turns) take() *turn {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting == 0 {
		q.running--
		return nil
	}
	q.next++
	if q.next >= len(q.ring) {
		q.next = 0
	}
	t := q.ring[q.next].turns[0]
	q.removeLocked(t)
	if t.timer != nil {
		t.timer.Stop()
	}
	return t
}

func (q *turns) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting
}
