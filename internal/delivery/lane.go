package delivery

import "rollcall/internal/event"

// item is one event that memory owns on behalf of one subscription.
type item struct {
	lane    *lane
	pos     position
	event   *event.Event
	counter *int // which of the queue's bounds it counts against
	rec     retryRecord
	stored  bool // rec is on disk, under rec's shelf and due time
	fromLog bool // its lane's cursor waits for it
	settled bool
}

// place is a place on a shelf: retry records are in order of due time, then
// position.
type place struct {
	due int64
	pos position
}

func (p place) before(q place) bool {
	return p.due < q.due || p.due == q.due && p.pos < q.pos
}

// shelf is what memory knows of the retry records of one kind in one lane.
type shelf struct {
	count int   // records on disk
	next  int64 // due time of the first record that memory does not own, 0: none
	from  place // every record before is owned by memory
	added place // the first record put since the read under way began
	fresh bool  // added is set
}

// put notes that a record has become durable and that memory let go of it.
func (s *shelf) put(p place) {
	if s.next == 0 || p.due < s.next {
		s.next = p.due
	}
	if p.before(s.from) {
		s.from = p
	}
	if !s.fresh || p.before(s.added) {
		s.added, s.fresh = p, true
	}
}

// read notes that all records before end have been read and that the one after
// is due at next (0: none), though others may have been put meanwhile.
func (s *shelf) read(end place, next int64) {
	s.from, s.next = end, next
	if !s.fresh {
		return
	}
	if s.added.before(s.from) {
		s.from = s.added
	}
	if s.next == 0 || s.added.due < s.next {
		s.next = s.added.due
	}
}

// lane is the progress of a subscription in one partition of its source's log.
type lane struct {
	partition uint8
	log       []byte // prefix of the events
	retries   []byte // prefix of the subscription's retry records

	// Every event up to seen is owned by memory or settled. While the lane
	// keeps up, seen follows the notifications; while it is behind, the reader.
	seen     position
	notified position // newest notification beyond what a read had seen
	behind   bool

	// Events of the log beyond seen that nobody owns: those that were notified
	// and not taken. They are counted, not listed, since there may be any number.
	offered     position // newest notification, or newest event found at the start
	unread      uint64
	unreadSince int64      // the first of them was accepted then or later, Unix nanoseconds
	early       []position // notified before the log had been counted
	cut         uint64     // that retention took before the start, not counted yet
	cutTo       position

	pending []*item               // taken from the log, in order, from head on
	head    int                   // before it all are settled
	skip    map[position]struct{} // beyond seen, but on a shelf since before the start
	shelf   [shelves]shelf

	written cursorRecord // newest that was submitted
	refused bool         // it may not be what is on disk
	dirty   bool
}

// advance forgets the settled events at the front.
func (l *lane) advance() {
	for l.head < len(l.pending) && l.pending[l.head].settled {
		l.pending[l.head] = nil
		l.head++
	}
	switch {
	case l.head == len(l.pending):
		l.pending, l.head = l.pending[:0], 0
	case l.head >= 256 && l.head*2 >= len(l.pending):
		n := copy(l.pending, l.pending[l.head:])
		clear(l.pending[n:])
		l.pending, l.head = l.pending[:n], 0
	}
}

// cursor is the position up to which everything is settled or on a shelf. Tail
// is a position up to which every notification had arrived before the queue was
// locked.
func (l *lane) cursor(tail position) position {
	switch {
	case l.head < len(l.pending):
		return max(l.pending[l.head].pos-1, l.written.position)
	case l.behind:
		return max(l.seen, l.written.position)
	}
	return max(l.seen, tail, l.written.position)
}

// leave counts an event of the log that is not taken now.
func (l *lane) leave(accepted int64) {
	if l.unread == 0 {
		l.unreadSince = accepted
	}
	l.unread++
}

// found discounts an event that the lane has come to, accepted then. A read can
// come to an event before its notification; it was not counted.
func (l *lane) found(p position, accepted int64) {
	if p > l.offered || l.unread == 0 {
		return
	}
	l.unread--
	l.unreadSince = max(l.unreadSince, accepted) // the next one is no older
}

// pass notes an event that nothing has to be done for, so that those beyond
// the cursor stay complete.
func (l *lane) pass(p position) {
	if l.head < len(l.pending) {
		l.pending = append(l.pending, &item{lane: l, pos: p, fromLog: true, settled: true})
	}
}

// progress is the lane's progress as it is to be written. Tail is as for
// cursor.
func (l *lane) progress(tail position) cursorRecord {
	return cursorRecord{
		position: l.cursor(tail),
		counted:  max(tail, l.offered, l.seen),
		beyond:   uint64(l.waits()) + l.unread,
	}
}

// waits is the number of events the cursor has to pass, settled or not.
func (l *lane) waits() int { return len(l.pending) - l.head }
