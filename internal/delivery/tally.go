package delivery

import (
	"encoding/binary"
	"time"
)

// Tally is what became of a subscription's events. Counts survive restarts;
// after a crash those of the last moments may be missing or doubled.
type Tally struct {
	Matched        uint64            `json:"matched"`
	Delivered      uint64            `json:"delivered"`
	DeadLettered   uint64            `json:"deadLettered"`
	Dropped        map[string]uint64 `json:"dropped,omitempty"`        // by reason
	FailedAttempts map[string]uint64 `json:"failedAttempts,omitempty"` // by outcome

	Backlog  uint64 `json:"backlog"`  // estimate of events not settled
	InFlight int    `json:"inFlight"` // events being attempted or written now
	Retrying int    `json:"retrying"` // events that wait for another attempt
	Dying    int    `json:"dying"`    // events that wait to be dead-lettered

	// OldestPending is the acceptance time of the oldest unsettled event in
	// memory; zero if there is none.
	OldestPending  time.Time  `json:"oldestPending,omitzero"`
	ProbationUntil time.Time  `json:"probationUntil,omitzero"` // nothing is attempted before
	LastError      *LastError `json:"lastError,omitempty"`
}

// LastError is the newest failed attempt. It holds no URL and no body.
type LastError struct {
	Time    time.Time `json:"time"`
	Outcome string    `json:"outcome"`
	Status  int       `json:"status,omitempty"` // HTTP status, 0 if none came
	Detail  string    `json:"detail,omitempty"`
}

// tally is the counts within a queue.
type tally struct {
	matched, delivered, deadLettered uint64
	dropped                          [reasons]uint64
	failed                           [outcomes]uint64
	lastError                        *LastError
	logged                           uint64 // drops that have been logged
	passes                           uint   // reads made; not stored
}

func (t *tally) observe(r Result, now time.Time) {
	if r.Verdict == Delivered {
		return
	}
	t.failed[r.Outcome]++
	t.lastError = &LastError{Time: now, Outcome: r.Outcome.String(), Status: r.Status, Detail: r.Detail}
}

func (t *tally) lost() uint64 {
	var n uint64
	for _, c := range t.dropped {
		n += c
	}
	return n
}

// backlog is what matched and has not been settled as far as the counts tell.
func (t *tally) backlog() uint64 {
	done := t.delivered + t.deadLettered + t.lost()
	if done >= t.matched {
		return 0
	}
	return t.matched - done
}

func (t *tally) append(dst []byte) []byte {
	dst = append(dst, recordVersion)
	for _, n := range []uint64{t.matched, t.delivered, t.deadLettered} {
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
	matched, delivered, deadLettered := take(), take(), take()
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
	t.matched += matched
	t.delivered += delivered
	t.deadLettered += deadLettered
	for i, n := range dropped {
		t.dropped[i] += n
	}
	for i, n := range failed {
		t.failed[i] += n
	}
	t.logged += t.lost()
	return nil
}

// Tally returns the subscription's counts and state.
func (q *Queue) Tally() Tally {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := Tally{
		Matched: q.tally.matched, Delivered: q.tally.delivered, DeadLettered: q.tally.deadLettered,
		Dropped: map[string]uint64{}, FailedAttempts: map[string]uint64{},
		Backlog: max(q.tally.backlog(), uint64(len(q.held))), LastError: q.tally.lastError,
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
	for _, it := range q.held {
		if a := it.event.Accepted; !a.IsZero() && (t.OldestPending.IsZero() || a.Before(t.OldestPending)) {
			t.OldestPending = a
		}
	}
	if q.health.remaining(q.d.clock.Now()) > 0 {
		t.ProbationUntil = q.health.until
	}
	return t
}

// idle reports whether nothing is pending as far as memory can tell. The queue
// is locked.
func (q *Queue) idle() bool {
	if len(q.held) > 0 || q.behind > 0 || !q.loaded {
		return false
	}
	for _, l := range q.lanes {
		if l != nil && l.shelf[waiting].count+l.shelf[dying].count > 0 {
			return false
		}
	}
	return true
}
