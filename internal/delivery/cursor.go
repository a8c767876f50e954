package delivery

import (
	"rollcall/internal/store"
)

// idleLag is how far, in commits, the cursor of a subscription that had
// nothing to do may stay behind the log before it is written.
const idleLag = 8192

// written names a cursor that is being written, to mark it again on failure.
type written struct {
	queue *Queue
	lane  *lane // nil: the tally
}

// flush writes the progress of all queues that have some; when final, of
// every queue.
func (d *Dispatcher) flush(final bool) {
	d.dirtyMu.Lock()
	queues := d.dirty
	d.dirty, d.flushSet = nil, false
	d.dirtyMu.Unlock()
	d.mu.Lock()
	if !d.loaded {
		d.mu.Unlock()
		return
	}
	sources := make([]*Source, 0, len(d.sources))
	for _, s := range d.sources {
		sources = append(sources, s)
	}
	everyone := d.all()
	d.mu.Unlock()

	batches := make([]*flushBatch, d.engine.Partitions())
	for i := range batches {
		batches[i] = &flushBatch{}
	}
	if final {
		queues = everyone
	}
	for _, q := range queues {
		q.collect(batches)
	}
	for _, s := range sources {
		s.sweep(everyone, batches, final)
	}
	d.events.collect(batches, final)
	for _, fb := range batches {
		if fb.batch != nil {
			d.submit(fb.batch, fb.done)
		}
	}
}

// flushBatch is the progress of many subscriptions in one partition.
type flushBatch struct {
	batch *store.Batch
	of    []written
}

func (f *flushBatch) put(key, value []byte, w written) {
	f.add(key, value)
	f.of = append(f.of, w)
}

// add puts what may stay as it was if this is not written.
func (f *flushBatch) add(key, value []byte) {
	if f.batch == nil {
		f.batch = store.NewBatch(store.Reserve)
	}
	f.batch.Put(key, value)
}

// done marks what was not written, so that the next flush writes it.
func (f *flushBatch) done(r store.Result) {
	if r.Err == nil {
		return
	}
	for _, w := range f.of {
		q := w.queue
		q.mu.Lock()
		if w.lane != nil {
			w.lane.dirty, w.lane.refused = true, true
		}
		if !q.stopped && !q.gone {
			q.touch()
		}
		q.mu.Unlock()
	}
	if len(f.of) > 0 {
		f.of[0].queue.d.metrics.writeFailures.Inc()
	}
}

// collect adds the unwritten progress of a queue.
func (q *Queue) collect(batches []*flushBatch) {
	type tail struct {
		pos position
		ok  bool
	}
	tails := make([]tail, len(q.lanes)) // read before the lock: see lane.cursor
	for p := range tails {
		tails[p].pos, tails[p].ok = q.source.tailOf(uint8(p))
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dirty = false
	q.settled = 0
	if q.gone || !q.loaded {
		return
	}
	for _, l := range q.lanes {
		if l == nil || !l.dirty {
			continue
		}
		if !tails[l.partition].ok {
			q.touch()
			continue
		}
		q.collectLane(l, tails[l.partition].pos, batches)
	}
	batches[store.Config].put(tallyKey(q.sub.Realm, q.sub.ID), q.tally.append(nil), written{q, nil})
	if lost := q.tally.lost(); lost > q.tally.logged {
		q.d.log.Warn("events dropped", "subscription", q.sub.Name, "events", lost-q.tally.logged, "reasons", q.tally.reasons())
		q.tally.logged = lost
	}
}

// collectLane adds the cursor of a lane if it moved, or was not written when it
// did. The queue is locked.
func (q *Queue) collectLane(l *lane, tail position, batches []*flushBatch) {
	l.dirty = false
	c := l.progress(tail)
	c.low = q.lows(l)
	if c == l.written && !l.refused {
		return
	}
	l.written, l.refused = c, false
	batches[l.partition].put(cursorKey(l.partition, q.sub.Realm, q.sub.ID), c.append(nil), written{q, l})
}

// lows returns due times before which a lane has no retry records.
func (q *Queue) lows(l *lane) (low [shelves]int64) {
	held := false
	for k := range l.shelf {
		low[k] = l.shelf[k].from.due
		held = held || l.shelf[k].count > 0
	}
	if !held {
		return low
	}
	for _, it := range q.held {
		if it.lane == l && it.stored {
			low[it.rec.shelf] = min(low[it.rec.shelf], it.rec.due)
		}
	}
	return low
}

// sweep writes the cursors of subscriptions that had nothing to do while the
// log grew by idleLag commits; when final, however little it grew.
func (s *Source) sweep(queues []*Queue, batches []*flushBatch, final bool) {
	for p := range s.prefixes {
		s.mu.Lock()
		part := &s.parts[p]
		tail, lag := part.tail, part.tail.index()-part.swept.index()
		due := part.doubts == 0 && (lag >= idleLag || final && part.tail > part.swept)
		if due {
			part.swept = tail
		}
		s.mu.Unlock()
		if !due {
			continue
		}
		for _, q := range queues {
			if q.source == s {
				q.collectIdle(uint8(p), tail, batches)
			}
		}
	}
}

func (q *Queue) collectIdle(partition uint8, tail position, batches []*flushBatch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gone || !q.loaded || tail.index() <= q.sub.Start {
		return
	}
	q.collectLane(q.lane(partition), tail, batches)
}

func (t *tally) reasons() []string {
	var names []string
	for r, n := range t.dropped {
		if n > 0 {
			names = append(names, Reason(r).String())
		}
	}
	return names
}
