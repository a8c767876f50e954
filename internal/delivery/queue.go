package delivery

import (
	"context"
	"sync"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/event"
)

// held names an event that memory owns.
type held struct {
	partition uint8
	pos       position
}

// Queue is one subscription's share of the dispatcher. Its goroutines exist
// only while there is work for them.
type Queue struct {
	d      *Dispatcher
	source *Source
	id     uint64 // of the subscription

	mu      sync.Mutex
	sub     Subscription
	loaded  bool // progress has been read from the store
	stopped bool // the dispatcher is ending
	gone    bool // the subscription was removed

	lanes   []*lane // by partition; nil until touched
	counted int     // partitions whose log has been counted
	behind  int     // lanes that are behind
	held    map[held]*item
	onDisk  int               // held items that have a retry record
	ages    ages              // of the events that have a retry record
	recent  map[held]struct{} // let go of since the read under way began, else nil

	fresh, retrying, dead int // unsettled items by where they came from
	bytes                 int // estimated size of all of them

	ready    fifo // to be attempted
	doomed   []*item
	running  int // workers
	starting int // of them, those that have not looked for work yet
	reading  bool
	burying  bool
	writes   int // submitted changes without an outcome
	erasing  bool

	health      health
	throttle    throttle
	blocked     time.Time // reading failed: not before
	stalled     bool      // there is no room for the next event of the log
	progress    uint64    // rises whenever a read gets on
	buryAt      time.Time // when what is given up now is to be written
	buryTries   int
	buryHeld    time.Time      // there was no space for dead letters: not before
	due         [shelves]int64 // earliest record not in memory, over all lanes, 0: none
	timer       clock.Timer
	timerAt     time.Time
	timerSerial uint64

	tally   tally
	settled int // since progress was last written
	dirty   bool
}

// live reports whether work may be done. The queue is locked.
func (q *Queue) live() bool { return q.loaded && !q.stopped && !q.gone }

// lane returns the lane of a partition. The queue is locked.
func (q *Queue) lane(partition uint8) *lane {
	l := q.lanes[partition]
	if l == nil {
		l = &lane{
			partition: partition,
			log:       q.source.Prefix(partition),
			retries:   retryPrefix(partition, q.sub.Realm, q.sub.ID),
			seen:      endOf(q.sub.Start),
		}
		q.lanes[partition] = l
	}
	return l
}

func (q *Queue) setBehind(l *lane, behind bool) {
	if l.behind == behind {
		return
	}
	l.behind = behind
	if behind {
		q.behind++
	} else {
		q.behind--
	}
}

// offer takes the notification of a commit. It never blocks on I/O.
func (q *Queue) offer(partition uint8, p position, e *event.Event, size int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gone { // matched before it was removed, committed afterwards
		q.d.metrics.dropped[SubscriptionDeleted].Inc()
		return
	}
	q.d.metrics.matched.Inc()
	l := q.lane(partition)
	l.offered = max(l.offered, p)
	if p <= l.seen { // a read was quicker than the notification
		return
	}
	l.notified = max(l.notified, p)
	switch {
	case !q.loaded && q.counted <= int(partition):
		l.early = append(l.early, p)
		q.setBehind(l, true)
		return
	case l.behind || !q.live() || !q.room(l, size):
		l.leave(unixNano(e.Accepted))
		q.setBehind(l, true)
		return
	}
	q.take(l, p, e, size)
	l.seen = p
	now := q.d.now()
	q.grow(now)
	if q.running == 0 { // held back: the timer has to start a worker
		q.arm(now)
	}
}

// room reports whether an event may be taken from the log. Lanes that keep up
// leave half of the window to those that are behind.
func (q *Queue) room(l *lane, size int) bool {
	events, bytes := q.d.set.WindowEvents, q.d.set.WindowBytes
	if q.behind > 0 && !l.behind {
		events, bytes = events/2, bytes/2
	}
	if l.waits() >= 8*q.d.set.WindowEvents {
		return false
	}
	return q.fresh == 0 || q.fresh < events && q.bytes+size <= bytes
}

// take makes memory the owner of an event of the log.
func (q *Queue) take(l *lane, p position, e *event.Event, size int) {
	it := &item{lane: l, pos: p, event: e, counter: &q.fresh, fromLog: true}
	it.rec.accepted = unixNano(e.Accepted)
	l.pending = append(l.pending, it)
	q.hold(it, size)
	q.ready.push(it)
}

func (q *Queue) hold(it *item, size int) {
	q.held[held{it.lane.partition, it.pos}] = it
	*it.counter++
	q.bytes += size
	if it.stored {
		q.onDisk++
	}
}

// release lets go of a settled item.
func (q *Queue) release(it *item) {
	it.settled = true
	q.stalled = false
	*it.counter--
	q.bytes -= it.event.Size()
	if it.stored {
		q.onDisk--
	}
	key := held{it.lane.partition, it.pos}
	delete(q.held, key)
	if q.recent != nil {
		q.recent[key] = struct{}{}
	}
	if it.fromLog {
		it.lane.advance()
	}
	it.lane.dirty = true
	q.settled++
	q.touch()
}

// touch marks that progress or counts are unwritten.
func (q *Queue) touch() {
	if !q.dirty {
		q.dirty = true
		q.d.touched(q)
	}
	if q.settled >= q.d.set.CursorEvents {
		q.settled = 0
		q.d.flushSoon()
	}
}

// kick starts whatever there is to do now and arms the timer for what comes
// later. The queue is locked.
func (q *Queue) kick(now time.Time) {
	if !q.live() {
		return
	}
	q.grow(now)
	if !q.reading && q.wantsRead(now) {
		q.reading = true
		q.d.spawn(q.read)
	}
	if !q.burying && len(q.doomed) > 0 && !q.buryHeld.After(now) {
		q.burying = true
		q.d.spawn(q.bury)
	}
	q.arm(now)
}

// held back until: the time before which no attempt may start, zero if one may
// start now.
func (q *Queue) heldUntil(now time.Time) time.Time {
	var until time.Time
	if q.health.remaining(now) > 0 {
		until = q.health.heldUntil()
	}
	if t := q.throttle.next; t.After(now) && t.After(until) {
		until = t
	}
	return until
}

// grow starts workers while there is work that they may do.
func (q *Queue) grow(now time.Time) {
	if !q.live() || q.sub.Paused || q.ready.len() <= q.starting || !q.heldUntil(now).IsZero() {
		return
	}
	for q.ready.len() > q.starting && q.running < q.d.set.MaxInFlight {
		if q.running > 0 && (q.health.single() || !q.d.mayGrow(q.running)) {
			return
		}
		q.running++
		q.starting++
		q.d.free.Add(-1)
		q.d.spawn(q.run)
	}
}

// arm sets the timer to the next moment at which there may be something to do.
func (q *Queue) arm(now time.Time) {
	var next time.Time
	consider := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	until := q.heldUntil(now)
	later := func(t time.Time) time.Time {
		if q.blocked.After(t) {
			return q.blocked
		}
		return t
	}
	if !q.sub.Paused {
		if q.ready.len() > 0 && !until.IsZero() {
			consider(until)
		}
		if due := q.due[waiting]; due != 0 && q.retrying < q.retryRoom() {
			t := time.Unix(0, due)
			if until.After(t) {
				t = until
			}
			consider(later(t))
		}
	}
	if due := q.due[dying]; due != 0 && q.dead < q.retryRoom() {
		t := time.Unix(0, due)
		if q.buryHeld.After(t) {
			t = q.buryHeld
		}
		consider(later(t))
	}
	if len(q.doomed) > 0 && q.buryHeld.After(now) {
		consider(q.buryHeld)
	}
	if q.behind > 0 && q.blocked.After(now) {
		consider(q.blocked)
	}
	if next.Equal(q.timerAt) {
		return
	}
	q.disarm()
	if next.IsZero() || q.reading && !next.After(now) {
		return // the reader looks again before it ends
	}
	q.timerAt = next
	q.timerSerial++
	serial := q.timerSerial
	q.timer = q.d.clock.AfterFunc(max(0, next.Sub(now)), func() { q.ring(serial) })
}

func (q *Queue) disarm() {
	if q.timer != nil {
		q.timer.Stop()
		q.timer, q.timerAt = nil, time.Time{}
	}
}

func (q *Queue) ring(serial uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if serial != q.timerSerial {
		return
	}
	q.timer, q.timerAt = nil, time.Time{}
	q.kick(q.d.now())
}

// stop ends all work but that of goroutines under way.
func (q *Queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.disarm()
}

// set changes what is known of the subscription.
func (q *Queue) set(s Subscription) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s.Destination != q.sub.Destination {
		q.health, q.throttle = health{}, throttle{}
	}
	if s.RatePerMinute != q.sub.RatePerMinute {
		q.throttle = throttle{}
	}
	q.sub = s
	q.kick(q.d.now())
}

// start lets a queue work whose progress is known.
func (q *Queue) start() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.loaded = true
	q.kick(q.d.now())
}

// worker is a goroutine of a queue.
type worker func(ctx context.Context)

// throttle spaces attempts to keep to a destination's rate.
type throttle struct{ next time.Time }

// spend accounts for one attempt at now.
func (t *throttle) spend(perMinute int, now time.Time) {
	if perMinute <= 0 {
		return
	}
	if t.next.Before(now) {
		t.next = now
	}
	t.next = t.next.Add(time.Minute / time.Duration(perMinute))
}

// fifo is a queue of items that can be put back in front.
type fifo struct {
	items []*item
	head  int
}

func (f *fifo) len() int { return len(f.items) - f.head }

func (f *fifo) push(it *item) {
	if f.head > 64 && f.head*2 > len(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, it)
}

func (f *fifo) pop() *item {
	it := f.items[f.head]
	f.items[f.head] = nil
	f.head++
	if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	}
	return it
}

func (f *fifo) unshift(items []*item) {
	if f.head >= len(items) {
		f.head -= len(items)
		copy(f.items[f.head:], items)
		return
	}
	f.items = append(append(make([]*item, 0, len(items)+f.len()), items...), f.items[f.head:]...)
	f.head = 0
}

func (f *fifo) clear() { *f = fifo{} }
