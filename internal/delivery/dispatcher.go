package delivery

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/clock"
	"rollcall/internal/fault"
	"rollcall/internal/store"
	"rollcall/internal/store/setaside"
)

// Options configure a Dispatcher.
type Options struct {
	Engine   store.Engine // required
	Clock    clock.Clock  // default: clock.System
	Log      *slog.Logger // default: discards
	Settings Settings     // required; see DefaultSettings

	// DeadLetterRoot is the directory below which subscriptions have their
	// dead-letter directories. Empty: dead-lettering always fails.
	DeadLetterRoot string

	SetAside *setaside.List // of records that cannot be read; nil: one of its own

	// NewID names dead-letter files. Default: random UUIDs.
	NewID func() string
	// Random is uniform in [0, 1). Default: math/rand.
	Random func() float64
}

// Dispatcher delivers events. All methods may be called concurrently.
type Dispatcher struct {
	engine         store.Engine
	clock          clock.Clock
	steady         *clock.Steady // judges what was accepted long ago
	start          atomic.Int64  // see now
	log            *slog.Logger
	set            Settings
	deadLetterRoot string
	newID          func() string
	random         func() float64
	sync           func(*os.File) error // of dead-letter files and their directories
	metrics        *metrics
	events         *eventLog
	dead           *deadSpace
	dirs           dirs

	setAside    *setaside.List
	keepOrphans atomic.Bool // progress of unknown subscriptions is not erased

	free    atomic.Int64 // shared worker slots left; below zero by first workers
	readers chan struct{}
	wake    chan struct{} // flush now
	retain  chan struct{} // retention is due
	ready   chan struct{} // closed once progress has been read

	submits inFlight       // store batches without an outcome
	work    sync.WaitGroup // goroutines of queues, and Run itself

	mu       sync.Mutex
	started  bool
	loaded   bool
	stopping bool
	context  func() context.Context // of attempts; set by Run
	queues   map[uint64]*Queue
	sources  map[string]*Source

	dirtyMu  sync.Mutex
	dirty    []*Queue
	flushSet bool // a flush is on its way
}

// KeepProgress keeps the progress of subscriptions that the dispatcher is not
// told of: they cannot be read now. It is for before Run.
func (d *Dispatcher) KeepProgress() { d.keepOrphans.Store(true) }

// Open checks the options and returns a Dispatcher that does nothing until Run.
func Open(o Options) (*Dispatcher, error) {
	if o.Engine == nil {
		return nil, errors.New("delivery: an engine is required")
	}
	if err := o.Settings.Validate("delivery").Err(); err != nil {
		return nil, err
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SetAside == nil {
		o.SetAside = setaside.New(o.Log)
	}
	if o.NewID == nil {
		o.NewID = uuid.NewString
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	d := &Dispatcher{
		engine: o.Engine, clock: o.Clock, log: o.Log, set: o.Settings, setAside: o.SetAside,
		deadLetterRoot: o.DeadLetterRoot, newID: o.NewID, random: o.Random,
		sync:    (*os.File).Sync,
		dead:    &deadSpace{root: o.DeadLetterRoot},
		readers: make(chan struct{}, o.Settings.Readers),
		wake:    make(chan struct{}, 1),
		retain:  make(chan struct{}, 1),
		ready:   make(chan struct{}),
		queues:  make(map[uint64]*Queue),
		sources: make(map[string]*Source),
	}
	d.dead.d = d
	d.metrics = newMetrics(d)
	d.events = newEventLog(d)
	d.steady = clock.SteadyOf(o.Clock)
	d.start.Store(d.steady.Steady().UnixNano() - int64(o.Clock.Monotonic()))
	d.free.Store(int64(o.Settings.Workers))
	return d, nil
}

// Put adds a subscription or changes what is known of it. All subscriptions
// that existed before the last stop must be put before Run: progress of others
// is deleted then.
func (d *Dispatcher) Put(s Subscription) *Queue {
	if s.MaxEvents < 1 {
		s.MaxEvents = 1
	}
	d.mu.Lock()
	q := d.queues[s.ID]
	if q == nil {
		q = &Queue{
			d: d, source: d.source(s.Realm), id: s.ID, sub: s,
			loaded: d.loaded, stopped: d.stopping,
			lanes: make([]*lane, d.engine.Partitions()),
			held:  make(map[held]*item),
		}
		d.queues[s.ID] = q
		d.mu.Unlock()
		return q
	}
	d.mu.Unlock()
	q.set(s)
	return q
}

// Remove ends a subscription: its pending events are counted as dropped, its
// progress is deleted.
func (d *Dispatcher) Remove(id uint64) {
	d.mu.Lock()
	q := d.queues[id]
	delete(d.queues, id)
	d.mu.Unlock()
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	pending := q.pending()
	q.drop(SubscriptionDeleted, pending)
	if pending > 0 {
		d.log.Warn("events dropped", "subscription", q.sub.Name, "reason", SubscriptionDeleted.String(), "events", pending)
	}
	q.gone = true
	q.disarm()
	q.ready.clear()
	q.doomed = nil
	q.erase()
}

// Queue returns the queue of a subscription, or nil.
func (d *Dispatcher) Queue(id uint64) *Queue {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queues[id]
}

// Source returns the log of a realm, to be notified of its commits.
func (d *Dispatcher) Source(realm string) *Source {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.source(realm)
}

// now is what everything is due by, and held back until: the time that has
// passed since the start, counted from what the clock said then. It does not
// jump when the clock is set, so that a delay of ten seconds is ten seconds. To
// people the clock's time is told.
func (d *Dispatcher) now() time.Time {
	return time.Unix(0, d.start.Load()+int64(d.clock.Monotonic())).UTC()
}

// reach makes now late enough for a retry record that is due then: if it is due
// later than any can be, the clock has been set back between two starts.
func (d *Dispatcher) reach(due int64) {
	s := &d.set
	longest := max(s.RetryAfterCap, s.RetryFloor, s.BusyFloor, s.TimeoutFloor, s.Probation.Cap, s.DeadLetterDelay, 5*time.Minute)
	for _, step := range s.Schedule {
		longest = max(longest, time.Duration(float64(step)*(1+s.Jitter)))
	}
	if early := due - int64(longest) - d.now().UnixNano(); early > 0 {
		d.start.Add(early)
	}
}

// Loaded is closed once Run has read the progress of all subscriptions. Until
// then a Tally does not know what waits on disk, and says so.
func (d *Dispatcher) Loaded() <-chan struct{} { return d.ready }

// Run loads progress, delivers until ctx ends, then waits for attempts in
// flight and writes progress down. It may be called once. Errors are those of
// loading.
func (d *Dispatcher) Run(ctx context.Context) error {
	attempts, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	d.mu.Lock()
	if d.started {
		d.mu.Unlock()
		return fault.New(fault.Internal, "the dispatcher has been run already")
	}
	d.started = true
	d.context = func() context.Context { return attempts }
	d.mu.Unlock()
	d.work.Add(1)
	if err := d.load(); err != nil {
		d.work.Done()
		return err
	}
	d.countDeadLetters(ctx)
	retention := d.retainLater()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-d.wake:
			d.flush(false)
		case <-d.retain:
			d.events.trimOld()
			d.countDeadLetters(ctx)
			retention = d.retainLater()
		}
	}
	retention.Stop()
	d.stop(cancel)
	return nil
}

// stop ends all queues, within the grace for attempts in flight, and writes
// progress.
func (d *Dispatcher) stop(cancel context.CancelFunc) {
	d.mu.Lock()
	d.stopping = true
	queues := d.all()
	d.mu.Unlock()
	for _, q := range queues {
		q.stop()
	}
	d.work.Done()
	grace := d.clock.AfterFunc(d.set.ShutdownGrace, cancel)
	d.work.Wait()
	grace.Stop()
	d.submits.wait(d.clock, stopBy)
	d.flush(true)
	d.submits.wait(d.clock, stopBy)
}

// stopBy bounds each of the two waits for the store when the dispatcher ends;
// what it has not written by then is done again after the next start.
const stopBy = 10 * time.Second

func (d *Dispatcher) all() []*Queue {
	queues := make([]*Queue, 0, len(d.queues))
	for _, q := range d.queues {
		queues = append(queues, q)
	}
	return queues
}

// spawn starts a goroutine of a live queue, which is locked: stop marks every
// queue before it waits.
func (d *Dispatcher) spawn(w worker) {
	d.work.Go(func() { w(d.context()) })
}

// submit hands a batch of progress to the store.
func (d *Dispatcher) submit(b *store.Batch, done func(store.Result)) {
	d.submits.add()
	d.engine.Submit(b, func(r store.Result) {
		done(r)
		d.submits.done()
	})
}

// mayGrow reports whether a subscription with n workers may have another. It
// may have as many as it leaves free, so that no set of subscriptions can take
// all, and each gets an equal share of what they take.
func (d *Dispatcher) mayGrow(n int) bool { return d.free.Load() > int64(n) }

// mayKeep reports whether a subscription may keep n workers.
func (d *Dispatcher) mayKeep(n int) bool { return d.free.Load()+1 >= int64(n)-1 }

func (d *Dispatcher) beginRead(ctx context.Context) bool {
	select {
	case d.readers <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (d *Dispatcher) endRead() { <-d.readers }

// touched notes that a queue has something to be written. The queue is locked.
func (d *Dispatcher) touched(q *Queue) {
	d.dirtyMu.Lock()
	defer d.dirtyMu.Unlock()
	d.dirty = append(d.dirty, q)
	d.flushInTime()
}

// flushLater makes Run write progress within the cursor interval.
func (d *Dispatcher) flushLater() {
	d.dirtyMu.Lock()
	defer d.dirtyMu.Unlock()
	d.flushInTime()
}

// flushInTime does so with dirtyMu locked.
func (d *Dispatcher) flushInTime() {
	if !d.flushSet {
		d.flushSet = true
		d.clock.AfterFunc(d.set.CursorInterval, d.flushSoon)
	}
}

// flushSoon makes Run write progress.
func (d *Dispatcher) flushSoon() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *Dispatcher) retainLater() clock.Timer {
	return d.clock.AfterFunc(d.set.Retention.Interval, func() {
		select {
		case d.retain <- struct{}{}:
		default:
		}
	})
}

// spawnErase runs f outside of the lock of the removed queue that asks.
func (d *Dispatcher) spawnErase(f func()) { d.clock.AfterFunc(0, f) }

// erase deletes the progress of a subscription that nothing writes to any more.
func (d *Dispatcher) erase(realm string, id uint64) {
	for p := range d.engine.Partitions() {
		b := store.NewBatch(store.Reserve)
		b.Delete(cursorKey(uint8(p), realm, id))
		prefix := retryPrefix(uint8(p), realm, id)
		b.DeleteRange(prefix, store.PrefixEnd(prefix))
		if p == int(store.Config) {
			b.Delete(tallyKey(realm, id))
		}
		d.submit(b, func(r store.Result) {
			if r.Err != nil { // the next start finds and deletes it
				d.log.Warn("progress of a removed subscription is left behind", "subscription", id, "err", r.Err)
			}
		})
	}
}

// settleBy bounds how long an unknown outcome is asked for.
const settleBy = time.Minute

// inFlight counts what is under way. Unlike a WaitGroup it may be added to
// while someone waits.
type inFlight struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n falls to zero; nil: nobody waits
}

func (f *inFlight) add() {
	f.mu.Lock()
	f.n++
	f.mu.Unlock()
}

func (f *inFlight) done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	if f.n == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// wait returns when nothing is under way, or after d.
func (f *inFlight) wait(c clock.Clock, d time.Duration) {
	f.mu.Lock()
	if f.n == 0 {
		f.mu.Unlock()
		return
	}
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	idle := f.idle
	f.mu.Unlock()
	late := make(chan struct{})
	timer := c.AfterFunc(d, func() { close(late) })
	defer timer.Stop()
	select {
	case <-idle:
	case <-late:
	}
}
