package delivery

import (
	"bytes"
	"context"
	"errors"
	"time"

	"rollcall/internal/event"
	"rollcall/internal/store"
)

// chunk is how many events a read takes before it locks the queue.
const chunk = 64

// lanePass is how many events a read takes from one lane before it turns to
// the next.
const lanePass = 256

// examine is how many events of others a read passes over before it turns to
// the next lane.
const examine = 1 << 14

// retryRoom bounds the retries in memory, and the dead letters likewise.
func (q *Queue) retryRoom() int { return max(1, q.d.set.WindowEvents/2) }

// wantsRead reports whether there is something on disk to be taken now and
// room for it. The queue is locked.
func (q *Queue) wantsRead(now time.Time) bool {
	if q.blocked.After(now) {
		return false
	}
	return q.behind > 0 && !q.stalled && q.hasRoom() || q.wantsShelf(dying, now) || q.wantsShelf(waiting, now)
}

// hasRoom reports whether a read of the log is worth its while: half the
// window is free.
func (q *Queue) hasRoom() bool {
	return q.fresh*2 <= q.d.set.WindowEvents && (q.fresh == 0 || q.bytes*2 <= q.d.set.WindowBytes)
}

func (q *Queue) wantsShelf(k shelfKind, now time.Time) bool {
	if q.due[k] == 0 || q.due[k] > now.UnixNano() {
		return false
	}
	if k == dying {
		return q.dead < q.retryRoom() && !q.buryHeld.After(now)
	}
	return q.retrying < q.retryRoom() && !q.sub.Paused && q.heldUntil(now).IsZero()
}

// read takes events from disk while there is room for them, then ends.
func (q *Queue) read(ctx context.Context) {
	for {
		if !q.d.beginRead(ctx) {
			q.endRead()
			return
		}
		before, err := q.pass()
		q.d.endRead()
		now := q.d.now()
		q.mu.Lock()
		if err != nil {
			q.d.log.Error("reading pending events failed", "subscription", q.sub.Name, "err", err)
			q.blocked = now.Add(rewait)
		}
		// Room there may be, but not for the next event: wait for a release.
		q.stalled = q.progress == before && len(q.held) > 0
		if !q.live() || !q.wantsRead(now) {
			q.reading = false
			q.kick(now)
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
	}
}

func (q *Queue) endRead() {
	q.mu.Lock()
	q.reading = false
	q.mu.Unlock()
}

// pass reads once through all lanes, on one snapshot. It returns the measure of
// progress from before.
func (q *Queue) pass() (before uint64, err error) {
	now := q.d.now()
	q.mu.Lock()
	if !q.live() {
		before = q.progress
		q.mu.Unlock()
		return before, nil
	}
	before = q.progress
	q.recent = make(map[held]struct{})
	var lanes []*lane
	for i := range q.lanes { // begin with another lane each time
		l := q.lanes[(i+int(q.tally.passes))%len(q.lanes)]
		if l == nil {
			continue
		}
		lanes = append(lanes, l)
		for k := range l.shelf {
			l.shelf[k].fresh = false
		}
	}
	q.tally.passes++
	wants := [shelves]bool{q.wantsShelf(waiting, now), q.wantsShelf(dying, now)}
	id := q.sub.ID
	q.mu.Unlock()

	snap := q.d.engine.Snapshot()
	defer snap.Close()
	var failed error
	for _, l := range lanes {
		for k, want := range wants {
			if want {
				failed = errors.Join(failed, q.readShelf(snap, l, shelfKind(k), now.UnixNano()))
			}
		}
		failed = errors.Join(failed, q.readLog(snap, l, id))
	}

	q.mu.Lock()
	q.recent = nil
	q.due = [shelves]int64{}
	for _, l := range q.lanes {
		if l == nil {
			continue
		}
		for k, s := range l.shelf {
			if s.next != 0 && (q.due[k] == 0 || s.next < q.due[k]) {
				q.due[k] = s.next
			}
		}
	}
	q.grow(q.d.now())
	q.mu.Unlock()
	return before, failed
}

// readLog takes events from the log of a lane that is behind, until it has
// caught up, there is no room, or it was long enough.
func (q *Queue) readLog(snap store.Snapshot, l *lane, id uint64) error {
	q.mu.Lock()
	from, behind := l.seen, l.behind
	q.mu.Unlock()
	if !behind {
		return nil
	}
	it := snap.Iter(eventKey(l.log, from+1), store.PrefixEnd(l.log))
	defer it.Close()
	var (
		batch []logged
		taken int
		more  = it.Next()
		last  = from
	)
	for seen := 0; more && taken < lanePass && seen < examine; seen++ {
		p, ok := eventPosition(it.Key())
		if !ok {
			q.d.setAside.Add(it.Key(), errRecord)
			more = it.Next()
			continue
		}
		last = p
		mine, err := recordHas(it.Value(), id)
		if mine || err != nil {
			var e *event.Event
			if err == nil {
				e, err = recordEvent(it.Value())
			}
			if err != nil {
				q.d.setAside.Add(it.Key(), err)
			}
			batch = append(batch, logged{p, e})
			taken++
		}
		more = it.Next()
		if len(batch) == chunk {
			if !q.accept(l, batch, last) {
				return it.Err()
			}
			batch = batch[:0]
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	if !more {
		last = max(last, endOf(snap.Index()))
	}
	if !q.accept(l, batch, last) {
		return nil
	}
	if !more {
		q.mu.Lock()
		// What was notified after the snapshot is still to be read.
		if l.notified <= l.seen {
			q.setBehind(l, false)
			l.unread = 0 // by now it is, whatever a commit of unknown outcome did to it
			q.progress++
		}
		q.mu.Unlock()
	}
	return nil
}

// logged is one event of the log; a nil event could not be read.
type logged struct {
	pos   position
	event *event.Event
}

// accept makes memory the owner of events of the log, all up to last having
// been looked at. It returns false when there is no room for more.
func (q *Queue) accept(l *lane, batch []logged, last position) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gone {
		return false
	}
	for _, ev := range batch {
		if ev.pos <= l.seen { // retention has counted it
			continue
		}
		accepted := l.unreadSince
		_, onShelf := l.skip[ev.pos]
		switch {
		case onShelf:
			delete(l.skip, ev.pos)
			l.pass(ev.pos)
		case ev.event == nil:
			q.drop(Unreadable, 1)
			l.pass(ev.pos)
		default:
			size := ev.event.Size()
			if !q.room(l, size) {
				return false
			}
			q.take(l, ev.pos, ev.event, size)
			accepted = unixNano(ev.event.Accepted)
		}
		q.progress++
		l.found(ev.pos, accepted)
		l.seen = ev.pos
	}
	if last > l.seen {
		l.seen = last
		q.progress++
	}
	l.dirty = true
	q.touch()
	q.grow(q.d.now())
	return true
}

// readShelf takes the retry records of one kind that are due by now.
func (q *Queue) readShelf(snap store.Snapshot, l *lane, k shelfKind, now int64) error {
	q.mu.Lock()
	s := &l.shelf[k]
	from, next := s.from, s.next
	q.mu.Unlock()
	if next == 0 || next > now {
		return nil
	}
	it := snap.Iter(retryKey(l.retries, k, from.due, from.pos), store.PrefixEnd(append(bytes.Clone(l.retries), byte(k))))
	defer it.Close()
	end, due := from, int64(0)
	for it.Next() {
		_, at, p, ok := retrySuffix(it.Key()[len(l.retries):])
		if !ok {
			q.d.setAside.Add(it.Key(), errRecord)
			continue
		}
		if at > now {
			due = at
			break
		}
		rec, err := decodeRetry(k, at, it.Value())
		if err != nil {
			// The event is there: it is attempted as if for the first time, or
			// dead-lettered if it waited for that.
			q.d.setAside.Add(it.Key(), err)
			rec = retryRecord{due: at, shelf: k, last: at, since: at}
			if k == dying {
				rec.reason = Unreadable
			}
		}
		took, err := q.recall(snap, l, p, rec)
		if err != nil {
			return err
		}
		if !took {
			due = at
			break
		}
		end = place{at, p + 1}
	}
	if err := it.Err(); err != nil {
		return err
	}
	q.mu.Lock()
	s.read(end, due)
	q.progress++
	q.mu.Unlock()
	return nil
}

// recall makes memory the owner of an event on a shelf. It returns false when
// there is no room.
func (q *Queue) recall(snap store.Snapshot, l *lane, p position, rec retryRecord) (bool, error) {
	key := held{l.partition, p}
	q.mu.Lock()
	counter := &q.retrying
	if rec.shelf == dying {
		counter = &q.dead
	}
	full := *counter >= q.retryRoom()
	known := q.owns(key)
	q.mu.Unlock()
	if known || full {
		return known, nil
	}
	value, _, err := snap.Get(eventKey(l.log, p))
	reason := Reason(0)
	var e *event.Event
	switch {
	case errors.Is(err, store.ErrNotFound):
		reason = RetentionExceeded
	case err != nil:
		return false, err
	default:
		if e, err = recordEvent(value); err != nil {
			reason = Unreadable
		}
	}
	if e == nil {
		e = &event.Event{}
	}
	it := &item{lane: l, pos: p, event: e, counter: counter, rec: rec, stored: true}
	q.mu.Lock()
	if q.owns(key) {
		q.mu.Unlock()
		return true, nil
	}
	q.hold(it, e.Size())
	switch {
	case reason != 0:
		q.drop(reason, 1)
	case rec.shelf == dying:
		q.doomed = append(q.doomed, it)
	default:
		q.ready.push(it)
	}
	q.mu.Unlock()
	if reason != 0 {
		q.apply([]change{{item: it}})
	}
	return true, nil
}

// owns reports whether memory owns an event, or did so after the snapshot of
// the read under way was taken. The queue is locked.
func (q *Queue) owns(key held) bool {
	if _, ok := q.held[key]; ok {
		return true
	}
	_, ok := q.recent[key]
	return ok
}
