package delivery

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"rollcall/internal/store"
)

// eventLog accounts for what all event logs take, stretch by stretch, so that
// retention knows without asking the engine, whose sizes follow a deletion
// after minutes only. A stretch (segment) is sealed when it is large or old
// enough, is stored then, and is deleted as a whole. It may be used
// concurrently.
type eventLog struct {
	d       *Dispatcher
	limit   int64         // bytes, 0: none
	large   int64         // bytes of a segment
	elapsed time.Duration // between its first and its last event

	mu       sync.Mutex
	ready    bool       // all logs are accounted for
	size     int64      // keys and values of all events
	opened   int64      // of them, in segments that are not sealed
	cutting  int64      // of them, what is being deleted
	sealed   []*segment // oldest first, without those that are being deleted
	open     map[*segment]struct{}
	unstored []*segment // sealed since progress was last written
	refused  bool
	blocked  time.Duration // when refused: nothing is deleted by size before, by the monotonic reading
}

// segment is a stretch of the log of one source in one partition.
type segment struct {
	log           *logPart
	begin, end    position // it has all events from begin to end
	bytes         int64
	events        uint64
	first, newest int64 // times of acceptance, Unix nanoseconds
	gone          bool  // deleted, or about to be
	deleted       bool  // durably

	// Events by subscription: counting while the segment is open, then packed,
	// because there may be thousands of segments.
	counting map[uint64]uint64
	packed   []byte // pairs of uvarints
}

// each calls f for every subscription that the segment has events of.
func (s *segment) each(f func(id, events uint64)) {
	for id, n := range s.counting {
		f(id, n)
	}
	for v := s.packed; len(v) > 0; {
		id, w := binary.Uvarint(v)
		n, w2 := binary.Uvarint(v[max(w, 0):])
		if w <= 0 || w2 <= 0 {
			return
		}
		v = v[w+w2:]
		f(id, n)
	}
}

func (s *segment) pack() {
	for id, n := range s.counting {
		s.packed = binary.AppendUvarint(binary.AppendUvarint(s.packed, id), n)
	}
	s.counting = nil
}

// count adds one event of a subscription.
func (s *segment) count(id uint64) {
	if s.counting == nil { // the outcome of a commit was unknown for long
		s.packed = binary.AppendUvarint(binary.AppendUvarint(s.packed, id), 1)
		return
	}
	s.counting[id]++
}

// logPart is the log of one source in one partition.
type logPart struct {
	source    *Source
	partition uint8
	prefix    []byte // of the records of its segments

	// The following are guarded by the event log's lock.
	counted bool              // what it had at the start is accounted for
	early   []grown           // notified before
	low     position          // retention has deleted everything up to here
	sealed  []*segment        // oldest first, also those that are being deleted
	open    *segment          // nil: none
	total   map[uint64]uint64 // events by subscription
}

// grown is an event by which a log grew.
type grown struct {
	pos      position
	bytes    int64    // key and value
	accepted int64    // Unix nanoseconds
	of       []uint64 // subscriptions, or
	queues   []*Queue // theirs
}

// Bounds of a segment. A limit is enforced by whole segments, so these are
// small in proportion to it.
const (
	segmentsOfLimit         = 1024
	leastSegment            = 1 << 10
	mostSegment             = 256 << 10
	segmentsOfAge           = 64
	openShare         int64 = 4 // of the limit may be in segments that are not sealed
	segmentVersion          = 1
	trimShare         int64 = 128 // of the limit is deleted beyond the surplus, so as not to come back for each event
	mostTrimmedBeyond       = 1 << 20
)

func newEventLog(d *Dispatcher) *eventLog {
	r := d.set.Retention
	l := &eventLog{d: d, limit: r.Bytes, large: mostSegment, elapsed: r.Age / segmentsOfAge, open: make(map[*segment]struct{})}
	if r.Bytes > 0 {
		l.large = min(max(r.Bytes/segmentsOfLimit, leastSegment), mostSegment)
	}
	return l
}

// part returns the account of a new source's log in one partition. It is
// counted if it is known to be empty.
func (l *eventLog) part(s *Source, partition uint8, counted bool) *logPart {
	return &logPart{source: s, partition: partition, prefix: logPrefix(partition, s.realm), counted: counted}
}

// bytes is the size of all logs.
func (l *eventLog) bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// grew accounts for an event and, if there is too much now, deletes what is
// oldest. It does not block on I/O.
func (l *eventLog) grew(p *logPart, g grown) {
	l.mu.Lock()
	if !p.counted {
		p.early = append(p.early, g)
		l.mu.Unlock()
		return
	}
	l.add(p, g)
	cuts := l.surplus()
	l.mu.Unlock()
	l.submit(cuts)
}

// add accounts for an event. The log is locked.
func (l *eventLog) add(p *logPart, g grown) {
	if p.open != nil && (p.open.bytes+g.bytes > l.large || g.accepted-p.open.first > int64(l.elapsed)) && g.pos > p.open.end {
		l.seal(p.open)
	}
	s := l.segmentOf(p, g)
	s.end = max(s.end, g.pos)
	s.bytes += g.bytes
	s.events++
	s.newest = max(s.newest, g.accepted)
	if p.total == nil {
		p.total = make(map[uint64]uint64)
	}
	for _, id := range g.of {
		s.count(id)
		p.total[id]++
	}
	for _, q := range g.queues {
		s.count(q.id)
		p.total[q.id]++
	}
	l.size += g.bytes
	if s == p.open {
		l.opened += g.bytes
	}
}

// segmentOf finds the segment that an event belongs to: the open one, unless
// the outcome of its commit was unknown for long. The log is locked.
func (l *eventLog) segmentOf(p *logPart, g grown) *segment {
	begin := p.low + 1
	if n := len(p.sealed); n > 0 {
		begin = p.sealed[n-1].end + 1
	}
	if g.pos < begin {
		for _, s := range p.sealed {
			if g.pos <= s.end && !s.gone {
				l.unstored = append(l.unstored, s) // its record has changed
				return s
			}
		}
	}
	if p.open == nil {
		p.open = &segment{log: p, begin: begin, end: begin, first: g.accepted, counting: make(map[uint64]uint64)}
		l.open[p.open] = struct{}{}
	}
	return p.open
}

// seal ends an open segment. The log is locked.
func (l *eventLog) seal(s *segment) {
	p := s.log
	s.pack()
	p.open = nil
	delete(l.open, s)
	l.opened -= s.bytes
	p.sealed = append(p.sealed, s)
	l.sealed = append(l.sealed, s)
	l.unstored = append(l.unstored, s)
	l.d.flushLater()
}

// sealAll ends the open segments that chosen says, oldest first. The log is
// locked.
func (l *eventLog) sealAll(chosen func(*segment) bool) {
	var all []*segment
	for s := range l.open {
		if chosen(s) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *segment) int { return cmp.Compare(a.first, b.first) })
	for _, s := range all {
		l.seal(s)
	}
}

// restore accounts for what a log has at the start: from where on, and the
// segments that were stored. The events after them follow, by recover, and then
// begin.
func (l *eventLog) restore(p *logPart, low position, segments []*segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.low = low
	for _, s := range segments {
		p.sealed = append(p.sealed, s)
		l.sealed = append(l.sealed, s)
		l.size += s.bytes
		if p.total == nil {
			p.total = make(map[uint64]uint64)
		}
		s.each(func(id, n uint64) { p.total[id] += n })
	}
}

// recover accounts for an event that was found at the start.
func (l *eventLog) recover(p *logPart, g grown) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(p, g)
}

// begin ends the restoring of a log, which was known up to a position, and
// accounts for what was notified meanwhile.
func (l *eventLog) begin(p *logPart, known position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.counted {
		return
	}
	p.counted = true
	for _, g := range p.early {
		if g.pos > known {
			l.add(p, g)
		}
	}
	p.early = nil
}

// restored reports whether begin has been called.
func (l *eventLog) restored(p *logPart) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return p.counted
}

// loaded puts the segments of all logs in order, once they are known.
func (l *eventLog) loaded() {
	l.mu.Lock()
	l.ready = true
	l.sort()
	cuts := l.surplus()
	l.mu.Unlock()
	l.submit(cuts)
}

// sort puts the sealed segments in the order in which they are to go: by when
// they began, and within a log by position. If the clock was set back between
// two starts, a segment counts as no older than those before it in its log,
// which a deletion of it would take along. The log is locked.
func (l *eventLog) sort() {
	latest := make(map[*logPart]int64)
	began := make(map[*segment]int64, len(l.sealed))
	for _, s := range l.sealed { // each log's are in order of position
		at, ok := latest[s.log]
		if !ok || s.first > at {
			at = s.first
		}
		latest[s.log], began[s] = at, at
	}
	slices.SortStableFunc(l.sealed, func(a, b *segment) int { return cmp.Compare(began[a], began[b]) })
}

// collect adds the records of segments that were sealed; when final, of all.
func (l *eventLog) collect(batches []*flushBatch, final bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if final {
		l.sealAll(func(*segment) bool { return true })
	}
	later := l.unstored[:0]
	for _, s := range l.unstored {
		switch {
		case s.deleted:
		case s.gone && !final: // being deleted, which may be refused
			later = append(later, s)
		case s.log.source.inDoubt(s.log.partition):
			later = append(later, s)
		default:
			// If this is refused its events are counted at the next start.
			batches[s.log.partition].add(logKey(s.log.prefix, s.end), s.append(nil))
		}
	}
	clear(l.unstored[len(later):])
	l.unstored = later
}

func (s *segment) append(dst []byte) []byte {
	dst = append(dst, segmentVersion)
	dst = binary.AppendUvarint(dst, uint64(s.begin))
	dst = binary.AppendUvarint(dst, uint64(s.bytes))
	dst = binary.AppendUvarint(dst, s.events)
	dst = binary.AppendVarint(dst, s.first)
	dst = binary.AppendVarint(dst, s.newest)
	return append(dst, s.packed...)
}

// decodeSegment reads the record under a key of logKey's, whose low-water mark
// is not a segment.
func decodeSegment(p *logPart, key, value []byte) (*segment, error) {
	bad := fmt.Errorf("segment of the event log: %w", errRecord)
	end, rest, ok := store.TakeUint64(key[min(len(key), len(p.prefix)):])
	if !ok || len(rest) > 0 || len(value) == 0 || value[0] != segmentVersion {
		return nil, bad
	}
	v := value[1:]
	number := func() uint64 {
		n, w := binary.Uvarint(v)
		ok = ok && w > 0
		v = v[max(w, 0):]
		return n
	}
	signed := func() int64 {
		n, w := binary.Varint(v)
		ok = ok && w > 0
		v = v[max(w, 0):]
		return n
	}
	s := &segment{log: p, end: position(end), begin: position(number()), bytes: int64(number()), events: number(),
		first: signed(), newest: signed()}
	s.packed = bytes.Clone(v)
	for ok && len(v) > 0 {
		number()
		number()
	}
	if !ok || s.begin > s.end || s.bytes < 0 {
		return nil, bad
	}
	return s, nil
}
