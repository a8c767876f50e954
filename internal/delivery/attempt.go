package delivery

import (
	"context"
	"time"
)

// attempt is one request under way.
type attempt struct {
	Attempt
	destination Destination
	items       []*item
}

// run is a worker: it makes attempts while there is work, then ends.
func (q *Queue) run(ctx context.Context) {
	first := true
	for {
		a := q.next(ctx, first)
		if a == nil {
			return
		}
		first = false
		began := q.d.now()
		r := a.destination.Deliver(ctx, a.Attempt)
		q.judge(ctx, a, r, began)
	}
}

// next picks what to send. It returns nil when the worker must end, and gives
// up events whose time to live has passed on the way.
func (q *Queue) next(ctx context.Context, first bool) *attempt {
	for {
		now := q.d.now()
		q.mu.Lock()
		if first {
			q.starting--
			first = false
		}
		if ctx.Err() != nil || !q.mayAttempt(now) {
			q.leave(now)
			q.mu.Unlock()
			return nil
		}
		items, changes := q.pick(now)
		if len(items) > 0 {
			q.throttle.spend(q.sub.RatePerMinute, now)
		}
		sub := q.sub
		q.mu.Unlock()
		q.apply(changes)
		if len(items) == 0 {
			continue
		}
		return q.compose(sub, items)
	}
}

// mayAttempt reports whether this worker, one of running, may make another
// attempt. The queue is locked.
func (q *Queue) mayAttempt(now time.Time) bool {
	return q.live() && !q.sub.Paused && q.ready.len() > 0 && q.heldUntil(now).IsZero() &&
		(q.running == 1 || !q.health.single() && q.d.mayKeep(q.running))
}

// leave accounts for the end of a worker. The queue is locked.
func (q *Queue) leave(now time.Time) {
	q.running--
	q.d.free.Add(1)
	q.kick(now)
}

// pick takes events off the queue: one, or as many as may be one batch. Time
// to live is judged here, when an attempt is due, and nowhere else.
func (q *Queue) pick(now time.Time) (items []*item, changes []change) {
	limit, bytes := 1, 0
	if q.sub.Batch {
		limit = max(1, q.sub.MaxEvents)
	}
	for len(items) < limit && q.ready.len() > 0 {
		it := q.ready.pop()
		if reason := q.spent(it); reason != 0 {
			if q.health.onProbation() {
				it.rec.outcome = Probation
			}
			changes = append(changes, q.giveUp(it, reason, now)...)
			continue
		}
		bytes += it.event.Size()
		if len(items) > 0 && bytes > q.sub.PreferredBytes {
			q.ready.unshift([]*item{it})
			break
		}
		items = append(items, it)
	}
	return items, changes
}

func (q *Queue) spent(it *item) Reason {
	switch {
	case it.rec.attempts >= q.sub.Retry.MaxAttempts:
		return MaxDeliveryAttemptsExceeded
	case q.d.steady.Age(it.event.Accepted) >= q.sub.Retry.TTL:
		return TimeToLiveExceeded
	}
	return 0
}

// compose makes an attempt of the items that may share a request and puts the
// others back.
func (q *Queue) compose(sub Subscription, items []*item) *attempt {
	n := 1
	if len(items) > 1 {
		group := sub.Destination.Group(items[0].event)
		for n < len(items) && sub.Destination.Group(items[n].event) == group {
			n++
		}
	}
	if n < len(items) {
		q.mu.Lock()
		q.ready.unshift(items[n:])
		q.grow(q.d.now())
		q.mu.Unlock()
		items = items[:n]
	}
	a := &attempt{destination: sub.Destination, items: items}
	a.Attempt.Subscription, a.Schema, a.Batch = sub.Name, sub.Schema, sub.Batch
	a.Earlier = items[0].rec.attempts
	for _, it := range items {
		a.Events = append(a.Events, it.event)
	}
	return a
}

// judge settles an attempt.
func (q *Queue) judge(ctx context.Context, a *attempt, r Result, began time.Time) {
	now := q.d.now()
	q.d.metrics.attempt(r.Outcome, now.Sub(began))
	q.mu.Lock()
	if q.gone {
		q.mu.Unlock()
		return
	}
	if r.Verdict == 0 && ctx.Err() != nil { // abandoned because the dispatcher ends
		q.ready.unshift(a.items)
		q.mu.Unlock()
		return
	}
	if r.Verdict == 0 { // a destination that does not keep its contract has not delivered
		r.Verdict, r.Outcome = TryLater, GenericError
	}
	if a.destination != q.sub.Destination && r.Verdict != Delivered {
		// What a replaced destination says tells nothing about the present one,
		// which has not been asked yet: this was no attempt.
		q.ready.unshift(a.items)
		q.kick(now)
		q.mu.Unlock()
		return
	}
	current := a.destination == q.sub.Destination
	if current {
		q.health.observe(&q.d.set.Probation, r, began, now, q.d.set.RetryAfterCap)
	}
	q.tally.observe(r, q.d.clock.Now())
	if r.Verdict == Delivered {
		q.tally.delivered += uint64(len(a.items))
		q.d.metrics.delivered.Add(float64(len(a.items)))
	}
	changes := make([]change, 0, len(a.items))
	for _, it := range a.items {
		if r.Verdict == Delivered {
			changes = append(changes, change{item: it})
			continue
		}
		it.rec.attempts++
		changes = append(changes, q.fail(it, r, now)...)
	}
	q.mu.Unlock()
	q.apply(changes)
}

// fail decides what becomes of an event after a failed attempt. The record in
// memory is ahead of the one on disk until the change is durable, so the old
// place is kept in the change.
func (q *Queue) fail(it *item, r Result, now time.Time) []change {
	it.rec.outcome, it.rec.last = r.Outcome, q.d.clock.Now().UnixNano()
	switch {
	case r.Verdict == Refused:
		return q.giveUp(it, UndeliverableDueToClientError, now)
	case it.rec.attempts >= q.sub.Retry.MaxAttempts:
		return q.giveUp(it, MaxDeliveryAttemptsExceeded, now)
	}
	next := it.rec
	next.shelf = waiting
	next.due = now.Add(q.d.set.backoff(it.rec.attempts, r, q.d.random(), q.health.remaining(now))).UnixNano()
	return []change{{item: it, keep: true, next: next}}
}

// giveUp decides what becomes of an event that is not attempted any more: it
// is dead-lettered, later or at once, or dropped. The queue is locked.
func (q *Queue) giveUp(it *item, reason Reason, now time.Time) []change {
	if q.sub.DeadLetter == "" {
		q.drop(reason, 1)
		return []change{{item: it}}
	}
	it.rec.reason, it.rec.since = reason, now.UnixNano()
	// While there is no space not even a retry record is written: the event
	// stays in memory, and in the way of those that would come after it.
	if q.d.set.DeadLetterDelay == 0 || q.d.dead.low() {
		q.doomed = append(q.doomed, it)
		q.kick(now)
		return nil
	}
	if !q.buryAt.After(now) { // the first since the last file
		q.buryAt = now.Add(q.d.set.DeadLetterDelay)
	}
	next := it.rec
	next.shelf, next.due = dying, q.buryAt.UnixNano()
	return []change{{item: it, keep: true, next: next}}
}

// drop counts events that are lost to the subscription. The queue is locked.
func (q *Queue) drop(reason Reason, n uint64) {
	if n == 0 {
		return
	}
	q.tally.dropped[reason] += n
	q.d.metrics.dropped[reason].Add(float64(n))
	q.touch()
}
