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
	prefixes [][]byte // by partition

	mu     sync.Mutex
	tail   []position // newest notification, by partition
	swept  []position // tail when idle subscriptions' cursors were last written
	doubts []int      // commits of unknown outcome, by partition; no cursor moves meanwhile
	low    [][]byte   // retention deleted everything before
}

// source returns the Source of a realm; d is locked.
func (d *Dispatcher) source(realm string) *Source {
	if s := d.sources[realm]; s != nil {
		return s
	}
	n := d.engine.Partitions()
	s := &Source{
		d: d, realm: realm, prefixes: make([][]byte, n),
		tail: make([]position, n), swept: make([]position, n), doubts: make([]int, n), low: make([][]byte, n),
	}
	for p := range s.prefixes {
		s.prefixes[p] = EventPrefix(uint8(p), realm)
		s.low[p] = s.prefixes[p]
	}
	d.sources[realm] = s
	return s
}

// Prefix is the event prefix of a partition. The caller must not change it.
func (s *Source) Prefix(partition uint8) []byte { return s.prefixes[partition] }

// Notify tells that an event is durable at index and ordinal of partition, with
// these subscriptions in its record. It must be called once for every stored
// event, in commit order and in the order of ordinals, as the engine's done
// callbacks run; it does not block on I/O.
func (s *Source) Notify(partition uint8, index uint64, ordinal uint16, e *event.Event, queues []*Queue) {
	p, size := at(index, ordinal), e.Size()
	for _, q := range queues {
		q.offer(partition, p, e, size)
	}
	s.mu.Lock()
	s.tail[partition] = max(s.tail[partition], p)
	s.mu.Unlock()
}

// tailOf returns a position up to which all notifications have arrived, and
// whether cursors may move.
func (s *Source) tailOf(partition uint8) (position, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tail[partition], s.doubts[partition] == 0
}

// Doubt tells that the outcome of the commit that stored an event is unknown.
// The engine is asked until it knows; if the event was stored, it is delivered,
// perhaps twice. Until then no cursor of the partition is written. If it never
// knows, that stays so until the next start, which reads the log again from
// where the cursors were: events may be repeated then, and none is passed over.
func (s *Source) Doubt(id store.ID, partition uint8, ordinal uint16, e *event.Event, queues []*Queue) {
	if len(queues) == 0 {
		return
	}
	s.mu.Lock()
	s.doubts[partition]++
	s.mu.Unlock()
	deadline := s.d.clock.Now().Add(settleBy)
	var ask func()
	ask = func() {
		r, known, err := s.d.engine.Outcome(context.Background(), id)
		asked := err == nil && known // and an unknown outcome is the last word
		if !asked && s.d.clock.Now().Before(deadline) && !s.d.isStopping() {
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
		}
		s.mu.Lock()
		s.doubts[partition]--
		s.mu.Unlock()
	}
	s.d.clock.AfterFunc(0, ask)
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
	next := retryRecord{shelf: waiting, due: q.d.clock.Now().UnixNano(), accepted: unixNano(e.Accepted)}
	q.mu.Unlock()
	q.apply([]change{{item: it, keep: true, next: next}})
}
