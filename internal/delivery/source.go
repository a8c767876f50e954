package delivery

import (
	"context"
	"errors"
	"sync"
	"time"

	"rollcall/internal/event"
	"rollcall/internal/store"
)

// Source is the event log of one realm.
type Source struct {
	d        *Dispatcher
	realm    string
	prefixes [][]byte   // by partition
	logs     []*logPart // by partition

	mu    sync.Mutex
	parts []sourcePart // by partition
}

// sourcePart is what is known of a source in one partition.
type sourcePart struct {
	tail   position // newest notification
	swept  position // tail when idle subscriptions' cursors were last written
	doubts int      // commits of unknown outcome; no cursor moves meanwhile
}

// source returns the Source of a realm; d is locked.
func (d *Dispatcher) source(realm string) *Source {
	if s := d.sources[realm]; s != nil {
		return s
	}
	n := d.engine.Partitions()
	s := &Source{
		d: d, realm: realm, prefixes: make([][]byte, n), parts: make([]sourcePart, n), logs: make([]*logPart, n),
	}
	for p := range s.prefixes {
		s.prefixes[p] = EventPrefix(uint8(p), realm)
		s.logs[p] = d.events.part(s, uint8(p), d.loaded)
	}
	d.sources[realm] = s
	return s
}

// Prefix is the event prefix of a partition. The caller must not change it.
func (s *Source) Prefix(partition uint8) []byte { return s.prefixes[partition] }

// Notify tells that an event is durable at index and ordinal of partition, as a
// record of size bytes, with these subscriptions in it. It must be called once
// for every stored event, in commit order and in the order of ordinals, as the
// engine's done callbacks run; it does not block on I/O.
func (s *Source) Notify(partition uint8, index uint64, ordinal uint16, e *event.Event, size int, queues []*Queue) {
	p, estimate := at(index, ordinal), e.Size()
	for _, q := range queues {
		q.offer(partition, p, e, estimate)
	}
	s.mu.Lock()
	s.parts[partition].tail = max(s.parts[partition].tail, p)
	s.mu.Unlock()
	s.grew(partition, p, e, size, queues)
}

// grew accounts for an event that the log has.
func (s *Source) grew(partition uint8, p position, e *event.Event, size int, queues []*Queue) {
	s.d.events.grew(s.logs[partition], grown{
		pos: p, bytes: int64(len(s.prefixes[partition]) + store.SequencedSuffix + size), accepted: unixNano(e.Accepted), queues: queues,
	})
}

// tailOf returns a position up to which all notifications have arrived, and
// whether cursors may move.
func (s *Source) tailOf(partition uint8) (position, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[partition].tail, s.parts[partition].doubts == 0
}

// Doubt tells that the outcome of the commit that stored an event is unknown.
// The engine is asked until it knows; if the event was stored, it is delivered,
// perhaps twice. Until then no cursor of the partition is written. If it never
// knows, that stays so until the next start, which reads the log again from
// where the cursors were: events may be repeated then, and none is passed over.
func (s *Source) Doubt(id store.ID, partition uint8, ordinal uint16, e *event.Event, size int, queues []*Queue) {
	if len(queues) == 0 {
		return
	}
	s.mu.Lock()
	s.parts[partition].doubts++
	s.mu.Unlock()
	deadline := s.d.clock.Monotonic() + settleBy
	var ask func()
	ask = func() {
		r, known, err := s.d.engine.Outcome(context.Background(), id)
		asked := err == nil && known // and an unknown outcome is the last word
		if !asked && s.d.clock.Monotonic() < deadline && !s.d.isStopping() {
			s.d.clock.AfterFunc(100*time.Millisecond, ask)
			return
		}
		if !asked || errors.Is(r.Err, store.ErrUnknown) {
			s.d.log.Error("the outcome of a commit stays unknown; progress is not written until the next start", "event", e.ID, "err", err)
			return // the doubt stays
		}
		if r.Err == nil {
			for _, q := range queues {
				q.adopt(partition, at(r.Index, ordinal), e)
			}
			s.grew(partition, at(r.Index, ordinal), e, size, queues)
		}
		s.mu.Lock()
		s.parts[partition].doubts--
		s.mu.Unlock()
	}
	s.d.clock.AfterFunc(0, ask)
}

func (s *Source) inDoubt(partition uint8) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[partition].doubts > 0
}

func (d *Dispatcher) isStopping() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stopping
}

// adopt takes an event whose notification comes late, perhaps after newer
// ones: unless the reader will find it, it gets a retry record that is due now.
func (q *Queue) adopt(partition uint8, p position, e *event.Event) {
	q.mu.Lock()
	l := q.lane(partition)
	_, owned := q.held[held{partition, p}]
	if q.gone || owned || l.behind && p > l.seen {
		if !q.gone && !owned {
			l.leave(unixNano(e.Accepted)) // the reader will come to it
		}
		q.mu.Unlock()
		return
	}
	q.d.metrics.matched.Inc()
	it := &item{lane: l, pos: p, event: e, counter: &q.retrying}
	q.hold(it, e.Size())
	next := retryRecord{shelf: waiting, due: q.d.now().UnixNano(), accepted: unixNano(e.Accepted)}
	q.mu.Unlock()
	q.apply([]change{{item: it, keep: true, next: next}})
}
