package stored

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/store"
	"rollcall/internal/store/setaside"
	"rollcall/internal/task"
)

// DefaultGrace is the default of Options.Grace.
const DefaultGrace = time.Minute

// Options configure a Store. Engine is required.
type Options struct {
	Engine store.Engine
	Clock  clock.Clock  // the machine's by default
	Log    *slog.Logger // nil: nothing is logged

	// Grace is how long after the end of a session its queue is deleted. No
	// publication may take as long from being routed to being submitted.
	// DefaultGrace if 0.
	Grace time.Duration

	// Interval is how often ended sessions and expired retained messages are
	// looked for. 1 second if 0.
	Interval time.Duration

	Retained RetainedLimits

	SetAside *setaside.List // of records that cannot be read; nil: one of its own
}

// Store keeps MQTT state on an engine. Open returns one.
type Store struct {
	engine     store.Engine
	clock      *clock.Steady
	log        *slog.Logger
	grace      time.Duration
	interval   time.Duration
	partitions int
	metrics    *metrics
	reap       *reaper
	refs       references
	due        []dueFloor
	retained   *retained
	setAside   *setaside.List
	groups     sync.Pool  // of *group
	work       task.Group // goroutines that ask for outcomes
}

// Open returns a Store on what the engine holds, having read the topics of
// retained messages. There is one Store per engine,
// and nobody else writes its key spaces. It must be running (Run) for anything
// to be deleted.
func Open(o Options) (*Store, error) {
	if o.Engine == nil {
		return nil, errors.New("stored: Engine is required")
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
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Interval == 0 {
		o.Interval = time.Second
	}
	if o.Grace < 0 || o.Interval < 0 {
		return nil, fmt.Errorf("stored: Grace %s and Interval %s must not be negative", o.Grace, o.Interval)
	}
	if err := o.Retained.validate(); err != nil {
		return nil, err
	}
	n := o.Engine.Partitions()
	st := &Store{
		engine: o.Engine, clock: clock.SteadyOf(o.Clock), log: o.Log, grace: o.Grace, interval: o.Interval,
		partitions: n, metrics: newMetrics(), due: make([]dueFloor, n), setAside: o.SetAside,
	}
	snap := o.Engine.Snapshot()
	st.refs = references{start: snap.Index(), all: make(map[sequence]holders), old: make([]recount, n)}
	snap.Close()
	st.reap = newReaper(st)
	st.retained = &retained{st: st, walkers: make(chan struct{}, walkersMax), limits: o.Retained.withDefaults(), realms: make(map[string]*topicNode)}
	return st, st.retained.load()
}

// Partition returns the partition of a session name: of its state, and of what
// it publishes. A name may go on after a U+0000, which no Client Identifier has:
// a Will is kept there, in the same partition, that another has replaced.
func (st *Store) Partition(realm, name string) uint8 {
	name, _, _ = strings.Cut(name, "\x00")
	return store.Partition(st.partitions, realm, name)
}

// Run does the background work until ctx ends; then it submits the deletes that
// have gathered and waits for their outcomes.
func (st *Store) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := st.recount(ctx); err != nil && ctx.Err() == nil {
			st.log.Error("messages of earlier runs stay stored until the next start", "err", err)
		}
	})
	wg.Go(func() { st.collect(ctx) })
	wg.Go(func() { st.expireRetained(ctx) })
	st.flush(ctx)
	wg.Wait()
	st.drain()
	st.work.Wait()
	return nil
}

// flush submits deletes as they gather, until ctx ends.
func (st *Store) flush(ctx context.Context) {
	for {
		select {
		case <-st.reap.wake:
		case <-ctx.Done():
			return
		}
		for wait := reapDelay; wait > 0; wait = st.reap.flushAll(false) {
			if !st.wait(ctx, wait) {
				return
			}
		}
	}
}

// collect deletes what ended sessions left, until ctx ends.
func (st *Store) collect(ctx context.Context) {
	c := newCollector(st)
	for {
		if err := c.collect(ctx); err != nil && ctx.Err() == nil {
			st.log.Warn("queues of ended sessions stay for now", "err", err)
		}
		if !st.wait(ctx, st.interval) {
			return
		}
	}
}

// drain submits all deletes and waits until they are durable or failed.
func (st *Store) drain() {
	for st.reap.pass() {
	}
}

// wait waits for d and reports false if ctx ended first.
func (st *Store) wait(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	if d <= 0 {
		return true
	}
	fired := make(chan struct{})
	t := st.clock.AfterFunc(d, func() { close(fired) })
	defer t.Stop()
	select {
	case <-fired:
		return true
	case <-ctx.Done():
		return false
	}
}

// read returns a key's value, nil if it does not exist.
func (st *Store) read(key []byte) ([]byte, error) {
	value, _, err := store.Get(st.engine, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return value, err
}

// submit commits b and reports its outcome to done, which may be nil.
func (st *Store) submit(b *store.Batch, done func(error)) {
	st.commit(b, func(r store.Result) {
		st.metrics.outcome(r.Err)
		report(done, r.Err)
	})
}

func report(done func(error), err error) {
	if done != nil {
		done(err)
	}
}
