package delivery

import (
	"encoding/binary"
	"time"

	"rollcall/internal/event"
)

// Tally is what became of a subscription's events. Counts survive restarts;
// after a crash those of the last moments may be missing or doubled. Backlog is
// no count: it is derived from positions and queues, on disk and in memory.
// Matched is what has been settled and what is pending, so that it is never
// less than the sum of what became of the events.
type Tally struct {
	Matched        uint64            `json:"matched"`
	Delivered      uint64            `json:"delivered"`
	DeadLettered   uint64            `json:"deadLettered"`
	Dropped        map[string]uint64 `json:"dropped,omitempty"`        // by reason
	FailedAttempts map[string]uint64 `json:"failedAttempts,omitempty"` // by outcome

	Backlog  uint64 `json:"backlog"`  // events not settled
	InFlight int    `json:"inFlight"` // events being attempted or written now
	Retrying int    `json:"retrying"` // events that wait for another attempt
	Dying    int    `json:"dying"`    // events that wait to be dead-lettered

	// Loading says that the server has just started and does not know yet what
	// is pending on disk.
	Loading bool `json:"loading,omitempty"`

	// OldestPending is when the oldest unsettled event was accepted; zero if
	// there is none. Where events wait on disk it may be up to a minute early.
	OldestPending  event.Time `json:"oldestPending,omitzero"`
	ProbationUntil event.Time `json:"probationUntil,omitzero"` // nothing is attempted before
	LastError      *LastError `json:"lastError,omitempty"`
}

// LastError is the newest failed attempt. It holds no URL and no body.
type LastError struct {
	Time    event.Time `json:"time"`
	Outcome string     `json:"outcome"`
	Status  int        `json:"status,omitempty"` // HTTP status, 0 if none came
	Detail  string     `json:"detail,omitempty"`
}

// tally is the counts within a queue.
type tally struct {
	delivered, deadLettered uint64
	dropped                 [reasons]uint64
	failed                  [outcomes]uint64
	lastError               *LastError
	logged                  uint64 // drops that have been logged
	passes                  uint   // reads made; not stored
}

func (t *tally) observe(r Result, now time.Time) {
	if r.Verdict == Delivered {
		return
	}
	t.failed[r.Outcome]++
	t.lastError = &LastError{Time: event.Time{Time: now}, Outcome: r.Outcome.String(), Status: r.Status, Detail: r.Detail}
}

func (t *tally) lost() uint64 {
	var n uint64
	for _, c := range t.dropped {
		n += c
	}
	return n
}

// settled is how many events have been settled, in whatever way.
func (t *tally) settled() uint64 { return t.delivered + t.deadLettered + t.lost() }

func (t *tally) append(dst []byte) []byte {
	dst = append(dst, recordVersion)
	// The first number was a count of matches, which is derived now.
	for _, n := range []uint64{t.settled(), t.delivered, t.deadLettered} {
		dst = binary.AppendUvarint(dst, n)
	}
	dst = append(dst, reasons, outcomes)
	for _, n := range t.dropped {
		dst = binary.AppendUvarint(dst, n)
	}
	for _, n := range t.failed {
		dst = binary.AppendUvarint(dst, n)
	}
	return dst
}

// add adds stored counts. Kinds that a newer version may have are left out.
func (t *tally) add(value []byte) error {
	if len(value) == 0 || value[0] != recordVersion {
		return errRecord
	}
	v, bad := value[1:], false
	take := func() uint64 {
		n, w := binary.Uvarint(v)
		if w <= 0 {
			bad = true
			return 0
		}
		v = v[w:]
		return n
	}
	_, delivered, deadLettered := take(), take(), take()
	if bad || len(v) < 2 {
		return errRecord
	}
	kinds := [2]int{int(v[0]), int(v[1])}
	v = v[2:]
	var dropped [reasons]uint64
	var failed [outcomes]uint64
	for i := range kinds[0] {
		if n := take(); i < reasons {
			dropped[i] = n
		}
	}
	for i := range kinds[1] {
		if n := take(); i < outcomes {
			failed[i] = n
		}
	}
	if bad {
		return errRecord
	}
	t.delivered += delivered
	t.deadLettered += deadLettered
	for i, n := range dropped {
		t.dropped[i] += n
		t.logged += n
	}
	for i, n := range failed {
		t.failed[i] += n
	}
	return nil
}

// Tally returns the subscription's counts and state.
func (q *Queue) Tally() Tally {
	q.mu.Lock()
	defer q.mu.Unlock()
	pending := q.pending()
	t := Tally{
		Matched: q.tally.settled() + pending, Delivered: q.tally.delivered, DeadLettered: q.tally.deadLettered,
		Dropped: map[string]uint64{}, FailedAttempts: map[string]uint64{},
		Backlog: pending, Loading: !q.loaded, LastError: q.tally.lastError,
	}
	for r, n := range q.tally.dropped {
		if n > 0 {
			t.Dropped[Reason(r).String()] = n
		}
	}
	for o, n := range q.tally.failed {
		if n > 0 {
			t.FailedAttempts[Outcome(o).String()] = n
		}
	}
	t.InFlight = max(0, len(q.held)-q.ready.len()-len(q.doomed))
	for _, l := range q.lanes {
		if l != nil {
			t.Retrying += l.shelf[waiting].count
			t.Dying += l.shelf[dying].count
		}
	}
	if pending > 0 {
		t.OldestPending = event.Time{Time: q.oldest()}
	}
	if rest := q.health.remaining(q.d.now()); rest > 0 {
		t.ProbationUntil = event.Time{Time: q.d.clock.Now().Add(rest)}
	}
	return t
}

// pending is how many events are not settled: those in memory, those that have
// a retry record, and those that the log has beyond what was read. The queue is
// locked.
func (q *Queue) pending() uint64 {
	if q.gone {
		return 0
	}
	n := len(q.held) - q.onDisk
	for _, l := range q.lanes {
		if l == nil {
			continue
		}
		n += l.shelf[waiting].count + l.shelf[dying].count
		n += max(0, int(l.unread)-len(l.skip)) + len(l.early)
	}
	return uint64(max(0, n))
}

// oldest is when the oldest unsettled event was accepted. The queue is locked.
func (q *Queue) oldest() time.Time {
	oldest := q.ages.oldest()
	consider := func(t int64) {
		if t != 0 && (oldest == 0 || t < oldest) {
			oldest = t
		}
	}
	for _, it := range q.held {
		consider(unixNano(it.event.Accepted))
	}
	for _, l := range q.lanes {
		if l != nil && l.unread > uint64(len(l.skip)) {
			consider(l.unreadSince)
		}
	}
	if oldest == 0 {
		return time.Time{}
	}
	return time.Unix(0, oldest).UTC()
}

// ages tells how old the oldest of many events is, which come and go in any
// order. Events accepted within the same minute share an entry, so that its
// size is bounded by the longest time to live and not by their number.
type ages map[int64]age

type age struct {
	events int
	oldest int64 // of all that were added since the entry was empty
}

func minuteOf(accepted int64) int64 { return accepted / int64(time.Minute) }

func (a *ages) add(accepted int64) {
	if *a == nil {
		*a = make(ages)
	}
	m := minuteOf(accepted)
	have, ok := (*a)[m]
	if !ok || accepted < have.oldest {
		have.oldest = accepted
	}
	have.events++
	(*a)[m] = have
}

func (a ages) remove(accepted int64) {
	m := minuteOf(accepted)
	have := a[m]
	if have.events--; have.events <= 0 {
		delete(a, m)
		return
	}
	a[m] = have
}

// merge adds all of b.
func (a *ages) merge(b ages) {
	if *a == nil {
		*a = b
		return
	}
	for m, one := range b {
		have, ok := (*a)[m]
		if !ok || one.oldest < have.oldest {
			have.oldest = one.oldest
		}
		have.events += one.events
		(*a)[m] = have
	}
}

// oldest returns 0 if there is none.
func (a ages) oldest() int64 {
	var oldest int64
	for _, one := range a {
		if one.oldest != 0 && (oldest == 0 || one.oldest < oldest) {
			oldest = one.oldest
		}
	}
	return oldest
}

// unixNano is a time as it is kept, 0 for the zero time.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
