package delivery

import (
	"errors"
	"time"

	"rollcall/internal/store"
)

// change is what becomes of an item: it is settled, or kept on a shelf.
type change struct {
	item *item
	keep bool
	next retryRecord // when kept
}

// rewait is how long a change waits that the store refused.
const rewait = time.Second

// apply makes changes durable and then lets go of their items. Items that are
// settled and have no retry record need no write. It is called without the
// queue's lock and does not block.
func (q *Queue) apply(changes []change) {
	if len(changes) == 0 {
		return
	}
	var byPartition [][]change
	q.mu.Lock()
	settled := false
	for _, c := range changes {
		if !c.keep && !c.item.stored {
			q.release(c.item)
			settled = true
			continue
		}
		byPartition = appendPartition(byPartition, c)
	}
	q.writes += len(byPartition)
	if settled {
		q.kick(q.d.now())
	}
	q.mu.Unlock()
	for _, cs := range byPartition {
		q.write(cs)
	}
}

func appendPartition(by [][]change, c change) [][]change {
	for i := range by {
		if by[i][0].item.lane.partition == c.item.lane.partition {
			by[i] = append(by[i], c)
			return by
		}
	}
	return append(by, []change{c})
}

// write submits changes of one partition.
func (q *Queue) write(cs []change) {
	b := store.NewBatch(store.Reserve) // progress makes room and must not be lost
	l := cs[0].item.lane
	q.mu.Lock()
	low := l.written.low
	lowered := false
	for _, c := range cs {
		if c.item.stored {
			b.Delete(retryKey(l.retries, c.item.rec.shelf, c.item.rec.due, c.item.pos))
		}
		if !c.keep {
			continue
		}
		b.Put(retryKey(l.retries, c.next.shelf, c.next.due, c.item.pos), c.next.append(nil))
		if c.next.due < low[c.next.shelf] { // the clock was set back
			low[c.next.shelf], lowered = c.next.due, true
		}
	}
	if lowered {
		l.written.low = low
		// A flush under way may overtake this with the old mark: write it again.
		l.refused, l.dirty = true, true
		q.touch()
		b.Put(cursorKey(l.partition, q.sub.Realm, q.sub.ID), l.written.append(nil))
	}
	q.mu.Unlock()
	q.d.submit(b, func(r store.Result) { q.wrote(cs, r) })
}

// wrote takes the outcome of a write.
func (q *Queue) wrote(cs []change, r store.Result) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.d.now()
	if r.Err != nil && !q.gone {
		q.d.metrics.writeFailures.Inc()
		if q.stopped || errors.Is(r.Err, store.ErrClosed) {
			return // the log and the old records still have the events
		}
		q.d.clock.AfterFunc(rewait, func() { q.rewrite(cs) })
		return
	}
	q.writes--
	if q.gone {
		q.erase()
		return
	}
	for _, c := range cs {
		q.shelve(c)
	}
	q.kick(now)
}

// rewrite tries changes again; their batch gets a new id, because the old one
// has its outcome.
func (q *Queue) rewrite(cs []change) {
	q.mu.Lock()
	if q.gone {
		q.writes--
		q.erase()
		q.mu.Unlock()
		return
	}
	stopped := q.stopped
	q.mu.Unlock()
	if !stopped {
		q.write(cs)
	}
}

// shelve takes over a durable change. The queue is locked.
func (q *Queue) shelve(c change) {
	it, l := c.item, c.item.lane
	if it.stored {
		l.shelf[it.rec.shelf].count--
		q.ages.remove(it.rec.accepted)
	}
	if c.keep {
		s := &l.shelf[c.next.shelf]
		s.count++
		q.ages.add(c.next.accepted)
		s.put(place{c.next.due, it.pos})
		if due := q.due[c.next.shelf]; due == 0 || c.next.due < due {
			q.due[c.next.shelf] = c.next.due
		}
	}
	q.release(it)
}

// erase deletes the progress of a removed subscription once no write of its
// own can follow. The queue is locked.
func (q *Queue) erase() {
	if q.writes > 0 || q.erasing {
		return
	}
	q.erasing = true
	d, sub := q.d, q.sub
	d.spawnErase(func() { d.erase(sub.Realm, sub.ID) })
}
