// Package pebble is the durable store.Engine, on an embedded Pebble.
//
// Its promise is the one of package store. One committer takes all batches that
// wait, judges each against the state after the ones before it, and writes them
// as one record to Pebble's log; a second goroutine waits for the record's sync
// and then makes the group visible and reports its outcomes, while the
// committer fills the next group. So concurrent batches share a sync, outcomes
// are reported in commit order, a slow done never delays a commit by more than
// one group, and what a snapshot shows is on disk.
//
// When the log cannot be written the engine fails for good, and never takes
// the process with it: see Options.OnFatal. Batches that may be in the log get
// ErrUnknown, all others ErrClosed; what had been acknowledged can still be
// read. A failed engine leaves parked goroutines behind until the process ends.
package pebble

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pebbledb "github.com/cockroachdb/pebble/v2"

	"rollcall/internal/store"
)

// Engine is a store.Engine on Pebble. Open returns one.
type Engine struct {
	opts     Options
	db       *pebbledb.DB
	disk     *disk
	space    *space
	ballast  *ballast
	findings *findings
	account  *account
	views    views
	outcomes store.Outcomes
	counts   counts

	groups    chan *group   // from commitLoop to settleLoop
	committed chan struct{} // commitLoop has returned
	settled   chan struct{} // settleLoop has returned
	buried    chan struct{} // buryLoop has returned
	failed    chan struct{} // failure is set
	stop      chan struct{} // Close or a failure has begun
	stopOnce  sync.Once
	closeOnce sync.Once
	closeErr  error

	complained atomic.Int64 // when a background error was last logged, monotonic nanoseconds

	mu          sync.Mutex
	wake        sync.Cond
	queue       []submission // from head on
	head        int
	queued      uint64   // bytes
	outstanding []*group // taken and not reported, oldest first
	reporting   bool     // a group that was taken from it is being reported
	spare       []*group
	late        int // callers being told that they are too late
	closing     bool
	failure     error
	suspects    []suspect       // tables that somebody could not read, for the committer
	marking     map[string]bool // of which the mark is being committed
	hopeless    map[string]bool // that could not be set aside
	goneLogs    []string        // that the account listed at the start

	// The committer's own.
	index        uint64
	accounted    bool // an account was there when the store was opened
	overlay      *overlay
	entered      int // results of the group at hand that the overlay knows
	room         room
	lookup       *pebbledb.Iterator
	flushedAt    time.Duration // monotonic
	flushedIndex uint64
	probedAt     time.Duration // monotonic
}

// counts are the numbers of Stats.
type counts struct{ batches, groups, conflicts, refused, stalls atomic.Uint64 }

// Stats counts what the engine has done since it was opened.
type Stats struct {
	Batches   uint64 // outcomes reported, of any kind
	Groups    uint64 // groups written; Batches/Groups is how many shared a sync
	Conflicts uint64 // batches that failed with ErrConflict
	Refused   uint64 // batches that failed with ErrFull
	Stalls    uint64 // times that commits had to wait for tables to be written
	Written   uint64 // bytes written to disk, compactions included
	Starved   uint64 // times that a file could not be opened for want of descriptors
}

// Stats returns the present counts.
func (e *Engine) Stats() Stats {
	return Stats{
		Batches:   e.counts.batches.Load(),
		Groups:    e.counts.groups.Load(),
		Conflicts: e.counts.conflicts.Load(),
		Refused:   e.counts.refused.Load(),
		Stalls:    e.counts.stalls.Load(),
		Written:   e.disk.written.Load(),
		Starved:   e.disk.starvations.Load(),
	}
}

// Submit implements store.Engine.
func (e *Engine) Submit(b *store.Batch, done func(store.Result)) {
	e.mu.Lock()
	if e.closing || e.failure != nil {
		e.refuse(done)
		e.mu.Unlock()
		return
	}
	s := submission{batch: b, done: done}
	bound := e.opts.MaxQueued
	if b.Class() == store.Reserve {
		bound *= 2
	}
	if e.queued+uint64(b.Size()) > bound {
		// The refusal keeps its place in the queue, but not its bytes.
		e.counts.refused.Add(1)
		s.batch, s.refused = store.NewBatchWithID(b.ID(), b.Class()), store.ErrFull
	}
	e.queued += uint64(s.batch.Size())
	e.queue = append(e.queue, s)
	e.mu.Unlock()
	e.wake.Broadcast()
}

// Snapshot implements store.Engine.
func (e *Engine) Snapshot() store.Snapshot {
	return &snapshot{views: &e.views, view: e.views.acquire()}
}

// Outcome implements store.Engine. It answers without waiting.
func (e *Engine) Outcome(_ context.Context, id store.ID) (store.Result, bool, error) {
	e.mu.Lock()
	closing := e.closing
	e.mu.Unlock()
	if closing {
		return store.Result{}, false, store.ErrClosed
	}
	r, ok := e.outcomes.Lookup(id)
	return r, ok, nil
}

// Partitions implements store.Engine.
func (e *Engine) Partitions() int { return e.opts.Partitions }

// sizeWalk is the number of keys that Size counts one by one.
const sizeWalk = 4096

// Size implements store.Engine. It is the size of the tables on disk, which
// lags behind by what is still in memory (at most four memtables of 16 MiB);
// where that could be most of it, because the range is small, the keys are
// counted instead, up to 4,096 of them.
func (e *Engine) Size(lower, upper []byte) (uint64, error) {
	v := e.views.acquire()
	if v == nil {
		return 0, store.ErrClosed
	}
	defer e.views.release(v)
	end := upper
	if end == nil {
		end = lastKey
	}
	s := snapshot{views: &e.views, view: v}
	it := s.Iter(lower, upper)
	var counted uint64
	for n := 0; n < sizeWalk && it.Next(); n++ {
		counted += uint64(len(it.Key()) + len(it.Value()))
	}
	if err := errors.Join(it.Err(), it.Close()); err != nil {
		return 0, err
	}
	if counted == 0 {
		return 0, nil
	}
	tables, err := e.db.EstimateDiskUsage(lower, end)
	if err != nil {
		return 0, fmt.Errorf("estimate a size: %w", err)
	}
	return max(counted, tables), nil
}

// Usage implements store.Engine. Its numbers are at most a quarter of a second
// old while the engine is open, and the last ones known afterwards.
func (e *Engine) Usage() store.Usage { return e.space.usage() }

// used returns the bytes that Pebble takes on disk.
func (e *Engine) used() used {
	v := e.views.acquire()
	if v == nil {
		return e.space.lastUsed()
	}
	defer e.views.release(v)
	m := e.db.Metrics()
	return used{
		total:   m.DiskSpaceUsage(),
		passing: uint64(m.Compact.InProgressBytes) + m.Table.Local.ObsoleteSize + m.Table.Local.ZombieSize,
	}
}

// closeGrace is how long Close waits for snapshots that are still open.
const closeGrace = 5 * time.Second

// flushAtClose is the size of the tables in memory from which Close writes
// them, so that the next Open has less of the log to read.
const flushAtClose = 1 << 20

// Close implements store.Engine. A failed engine returns its failure, at once.
// Snapshots that are still open some seconds after everything else is done are
// an error; Pebble and the directory's lock then stay until the process ends.
func (e *Engine) Close() error {
	e.closeOnce.Do(func() { e.closeErr = e.close() })
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.late > 0 {
		e.wake.Wait()
	}
	return e.closeErr
}

func (e *Engine) close() error {
	defer e.disk.spares.close()
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	e.wake.Broadcast()
	<-e.buried // after settleLoop, or after a failure
	if err := e.err(); err != nil {
		return errors.Join(fmt.Errorf("the store has failed: %w", err), e.disk.unlock(e.opts.Clock))
	}
	<-e.committed
	e.stopOnce.Do(func() { close(e.stop) })
	if n := e.closeViews(); n > 0 {
		return fmt.Errorf("close the store: %d snapshots are still open", n)
	}
	err := e.guard(func() error {
		if e.db.Metrics().MemTable.Size > flushAtClose {
			if err := e.db.Flush(); err != nil {
				e.opts.Log.Warn("cannot write tables at the end", "err", err.Error())
			}
		}
		e.disk.arm(nil) // from here on, errors can be returned
		return errors.Join(e.db.Close(), e.account.close())
	})
	if err := errors.Join(err, e.disk.unlock(e.opts.Clock)); err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	return nil
}

// closeViews ends reading and returns the number of readers that did not end.
func (e *Engine) closeViews() int {
	vs := &e.views
	vs.mu.Lock()
	last := vs.current
	vs.current = nil
	users := vs.users
	zero := last.unref()
	vs.mu.Unlock()
	if zero {
		vs.drop(last)
	}
	if users == 0 {
		return 0
	}
	expired := make(chan struct{})
	t := e.opts.Clock.AfterFunc(closeGrace, func() { close(expired) })
	defer t.Stop()
	select {
	case <-vs.idle:
		return 0
	case <-expired:
		vs.mu.Lock()
		defer vs.mu.Unlock()
		return vs.users
	}
}

// guard calls f on a goroutine of its own, since what Pebble does to a
// goroutine that meets a fatal error is not for the caller's, and returns
// early when the engine fails.
func (e *Engine) guard(f func() error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("storage engine: %v", p)
			}
		}()
		done <- f()
	}()
	select {
	case err := <-done:
		return err
	case <-e.failed:
		return e.err()
	}
}

// err returns why the engine has failed, or nil.
func (e *Engine) err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failure
}
