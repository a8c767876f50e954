package delivery

import (
	"encoding/binary"
	"slices"
	"time"

	"rollcall/internal/store"
)

// cut is a deletion from the front of one log: whole segments.
type cut struct {
	log      *logPart
	segments []*segment
	bytes    int64
	low, end position // everything between goes
}

// surplus takes the oldest segments while there are more bytes than may be,
// those being deleted left out: what is under way already is not done again.
// The log is locked; the caller submits the cuts.
func (l *eventLog) surplus() []*cut {
	if !l.ready || l.limit == 0 || l.size-l.cutting <= l.limit || l.refused && l.d.clock.Monotonic() < l.blocked {
		return nil
	}
	if l.opened > l.limit/openShare { // many logs that grow slowly
		l.sealAll(func(*segment) bool { return true })
	}
	low := l.limit - min(l.limit/trimShare, mostTrimmedBeyond)
	return l.take(func(*segment) bool { return l.size-l.cutting > low }, func() bool { return l.size-l.cutting <= low })
}

// trimOld deletes what was accepted too long ago, and whatever the store has
// refused to delete before.
func (l *eventLog) trimOld() {
	old := func(s *segment) bool { return l.d.steady.Age(time.Unix(0, s.newest)) > l.d.set.Retention.Age }
	l.mu.Lock()
	l.sealAll(old)
	cuts := l.take(old, func() bool { return false })
	cuts = append(cuts, l.surplus()...)
	l.mu.Unlock()
	l.submit(cuts)
}

// take takes segments off the front of their logs: those that go, until it is
// enough. What is behind one that stays, stays too, however it is dated: only
// all that a log has up to some position can be deleted. The log is locked.
func (l *eventLog) take(goes func(*segment) bool, enough func() bool) []*cut {
	var cuts []*cut
	by := map[*logPart]*cut{}
	stay := map[*logPart]bool{}
	kept := 0 // in front of those that are not looked at yet
	n := 0
	for ; n < len(l.sealed) && !enough(); n++ {
		s := l.sealed[n]
		if s.deleted { // by a later cut, while the store refused its own
			continue
		}
		if stay[s.log] || !goes(s) {
			stay[s.log] = true
			l.sealed[kept] = s
			kept++
			continue
		}
		c := by[s.log]
		if c == nil {
			c = &cut{log: s.log, low: s.log.low}
			by[s.log] = c
			cuts = append(cuts, c)
		}
		s.gone = true
		c.segments = append(c.segments, s)
		c.bytes += s.bytes
		c.end = max(c.end, s.end)
		l.cutting += s.bytes
	}
	// Those that were kept go next to the rest; from the front, as a rule, where
	// there is nothing to be moved.
	copy(l.sealed[n-kept:n], l.sealed[:kept])
	clear(l.sealed[:n-kept])
	l.sealed = l.sealed[n-kept:]
	return cuts
}

// submit deletes what was taken.
func (l *eventLog) submit(cuts []*cut) {
	for _, c := range cuts {
		p := c.log
		events := p.source.prefixes[p.partition]
		b := store.NewBatch(store.Reserve)
		// From where the last durable one ended: one under way may yet fail.
		b.DeleteRange(eventKey(events, c.low+1), eventKey(events, c.end+1))
		b.DeleteRange(logKey(p.prefix, 1), logKey(p.prefix, c.end+1))
		b.Put(logKey(p.prefix, 0), binary.BigEndian.AppendUint64([]byte{recordVersion}, uint64(c.end)))
		l.d.submit(b, func(r store.Result) { l.done(c, r) })
	}
}

// refusedFor is how long nothing more is deleted by size once the store has
// refused to.
const refusedFor = time.Second

// done takes the outcome of a deletion.
func (l *eventLog) done(c *cut, r store.Result) {
	p := c.log
	l.mu.Lock()
	l.cutting -= c.bytes
	if r.Err != nil {
		l.refused, l.blocked = true, l.d.clock.Monotonic()+refusedFor
		for _, s := range c.segments {
			s.gone = s.deleted
		}
		at := 0 // behind what a refusal before this one has put back
		for i, s := range l.sealed {
			if s.log == p && s.end < c.segments[0].begin {
				at = i + 1
			}
		}
		l.sealed = slices.Insert(l.sealed, at, c.segments...)
		l.mu.Unlock()
		l.d.log.Warn("old events are not deleted", "err", r.Err)
		return
	}
	l.refused = false
	left := map[uint64]uint64{}
	var events uint64
	n := 0
	for ; n < len(p.sealed) && p.sealed[n].end <= c.end; n++ {
		s := p.sealed[n]
		s.deleted, s.gone = true, true
		l.size -= s.bytes
		events += s.events
		s.each(func(id, n uint64) {
			p.total[id] -= min(p.total[id], n)
			left[id] = p.total[id]
			if p.total[id] == 0 {
				delete(p.total, id)
			}
		})
	}
	p.sealed = append(p.sealed[:0], p.sealed[n:]...)
	p.low = max(p.low, c.end)
	l.mu.Unlock()
	l.d.metrics.retained.Add(float64(events))
	for id, n := range left {
		if q := l.d.Queue(id); q != nil {
			q.expire(p.partition, c.end, n)
		}
	}
}

// expire counts events that were still the log's to deliver when it was cut.
// Left is how many of the subscription's the log has beyond the cut. It is
// called in commit order with the notifications, so that unread and left count
// the same events.
func (q *Queue) expire(partition uint8, cut position, left uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gone {
		return
	}
	l := q.lane(partition)
	if cut <= l.seen {
		return
	}
	lost := l.unread - min(l.unread, left)
	for p := range l.skip {
		if p <= cut {
			delete(l.skip, p) // its retry record tells when it is due
			lost -= min(lost, 1)
		}
	}
	l.unread = min(l.unread, left)
	q.drop(RetentionExceeded, lost)
	l.seen = cut
	l.dirty = true
	q.touch()
}
