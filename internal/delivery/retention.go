package delivery

import (
	"bytes"
	"context"

	"rollcall/internal/store"
)

// retainStep is how many events one deletion removes at most.
const retainStep = 4096

// enforceRetention deletes from the front of every log what is too old or too
// much. It stops early when ctx ends.
func (d *Dispatcher) enforceRetention(ctx context.Context) {
	d.mu.Lock()
	sources := make([]*Source, 0, len(d.sources))
	for _, s := range d.sources {
		sources = append(sources, s)
	}
	d.mu.Unlock()
	sizes := make([][]uint64, len(sources))
	var total uint64
	for i, s := range sources {
		sizes[i] = make([]uint64, len(s.prefixes))
		for p, prefix := range s.prefixes {
			n, err := d.engine.Size(prefix, store.PrefixEnd(prefix))
			if err != nil {
				d.log.Error("the size of the event log is unknown", "err", err)
				return
			}
			sizes[i][p] = n
			total += n
		}
	}
	oldest := d.clock.Now().Add(-d.set.Retention.Age).UnixNano()
	for i, s := range sources {
		for p := range s.prefixes {
			var surplus uint64 // every partition gives in proportion to its size
			if limit := uint64(d.set.Retention.Bytes); limit > 0 && total > limit {
				surplus = uint64(float64(total-limit) * float64(sizes[i][p]) / float64(total))
			}
			for ctx.Err() == nil {
				removed, more := s.trim(uint8(p), oldest, &surplus)
				d.metrics.retained.Add(float64(removed))
				if !more {
					break
				}
			}
		}
	}
}

// trim deletes up to retainStep events that were accepted before oldest or are
// among the first surplus bytes. It reports whether there may be more.
func (s *Source) trim(partition uint8, oldest int64, surplus *uint64) (removed int, more bool) {
	prefix := s.prefixes[partition]
	cut, lost := position(0), map[uint64][]position{}
	snap := s.d.engine.Snapshot()
	it := snap.Iter(s.low[partition], store.PrefixEnd(prefix))
	for it.Next() && removed < retainStep {
		p, ok := eventPosition(it.Key())
		if !ok {
			break
		}
		size := uint64(len(it.Key()) + len(it.Value()))
		if *surplus == 0 {
			// An event that cannot be read is as old as its neighbours.
			if e, err := recordEvent(it.Value()); err == nil && e.Accepted.UnixNano() >= oldest {
				break
			}
		}
		*surplus -= min(*surplus, size)
		_, err := eachSubscription(it.Value(), func(id uint64) { lost[id] = append(lost[id], p) })
		if err != nil {
			s.d.log.Warn("an expired event cannot be read", "index", p.index())
		}
		cut = p
		removed++
	}
	err := it.Err()
	_ = it.Close() // its error is err
	snap.Close()
	if err != nil {
		s.d.log.Error("the event log cannot be read", "err", err)
		return 0, false
	}
	if removed == 0 {
		return 0, false
	}
	if !s.remove(partition, cut) {
		return 0, false
	}
	for id, positions := range lost {
		if q := s.d.Queue(id); q != nil {
			q.expire(partition, positions, cut)
		}
	}
	return removed, removed == retainStep
}

// remove deletes the log up to cut and waits until that is durable.
func (s *Source) remove(partition uint8, cut position) bool {
	end := eventKey(s.prefixes[partition], cut+1)
	b := store.NewBatch(store.Reserve)
	b.DeleteRange(s.low[partition], end)
	done := make(chan store.Result, 1)
	s.d.submit(b, func(r store.Result) { done <- r })
	if r := <-done; r.Err != nil {
		s.d.log.Warn("expired events are not deleted", "err", r.Err)
		return false
	}
	s.low[partition] = bytes.Clone(end)
	return true
}

// expire counts events that were still the log's to deliver.
func (q *Queue) expire(partition uint8, positions []position, cut position) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gone {
		return
	}
	l := q.lane(partition)
	var lost uint64
	for _, p := range positions {
		if p <= l.seen {
			continue
		}
		l.found(p, l.unreadSince)
		if _, onShelf := l.skip[p]; onShelf {
			delete(l.skip, p) // its retry record tells when it is due
			continue
		}
		lost++
	}
	q.drop(RetentionExceeded, lost)
	if cut > l.seen {
		l.seen = cut
		l.dirty = true
		q.touch()
	}
}
