package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/store"
)

// A group is what shares one sync. It is bounded so that those who come next
// do not wait long.
const (
	maxGroupBatches = 2048
	maxGroupBytes   = 2 << 20
)

// submission is one batch with its caller.
type submission struct {
	batch   *store.Batch
	refused error // what was decided when it was submitted
	done    func(store.Result)
}

// group is a run of submissions on its way through the engine.
type group struct {
	subs    []submission
	results []store.Result
	applied atomic.Bool // results are complete, and the batches may be in the log
	batch   *pebbledb.Batch
	view    *view
}

// fsyncWrites asks for a sync; whoever wrote waits for it with SyncWait.
var fsyncWrites = &pebbledb.WriteOptions{Sync: true}

// commitLoop writes groups until the engine is closed or fails. It is the only
// writer, so what it reads from Pebble, plus what the group at hand has
// written, is the state that a batch is judged by.
func (e *Engine) commitLoop() {
	defer close(e.committed)
	defer func() {
		// Pebble panics where it does not know how to go on.
		if p := recover(); p != nil {
			e.fail(fmt.Errorf("storage engine: %v", p))
		}
	}()
	for {
		e.treatDamage()
		g, ok := e.take()
		if !ok {
			return
		}
		if g == nil {
			close(e.groups)
			return
		}
		if len(g.subs) == 0 {
			continue // there is damage to treat
		}
		if err := e.write(g); err != nil {
			e.fail(err)
			return
		}
		select {
		case e.groups <- g:
		case <-e.failed:
			return
		}
		e.housekeep()
	}
}

// take waits for submissions and returns the next group, nil when the engine
// is closed and has none left, and false when it has failed.
func (e *Engine) take() (*group, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.head == len(e.queue) && !e.closing && e.failure == nil && !e.hasSuspect() {
		e.wake.Wait()
	}
	if e.failure != nil {
		return nil, false
	}
	if e.head == len(e.queue) {
		if !e.closing {
			return &group{}, true
		}
		return nil, true
	}
	g := e.newGroup()
	for size := 0; e.head < len(e.queue) && len(g.subs) < maxGroupBatches && size < maxGroupBytes; e.head++ {
		s := e.queue[e.head]
		e.queue[e.head] = submission{}
		g.subs = append(g.subs, s)
		size += s.batch.Size()
		e.queued -= uint64(s.batch.Size())
	}
	e.compact()
	e.outstanding = append(e.outstanding, g)
	return g, true
}

// compact keeps the queue's memory in proportion to what is queued. The caller
// holds mu.
func (e *Engine) compact() {
	rest := len(e.queue) - e.head
	switch {
	case rest == 0 && cap(e.queue) > 4*maxGroupBatches:
		e.queue, e.head = nil, 0
	case e.head > rest: // moves each submission once at most, on average
		n := copy(e.queue, e.queue[e.head:])
		clear(e.queue[n:])
		e.queue, e.head = e.queue[:n], 0
	}
}

// write judges each batch of a group and hands those that pass to Pebble's
// log, in one record.
func (e *Engine) write(g *group) error {
	e.overlay.reset()
	e.room = e.space.room()
	first := e.index
	e.entered = 0
	for i := range g.subs {
		b := g.subs[i].batch
		err := g.subs[i].refused
		if err == nil {
			err = e.judge(g, b)
		}
		if isFatal(err) {
			return err
		}
		if err != nil {
			g.results = append(g.results, store.Result{Err: err})
			continue
		}
		e.index++
		g.results = append(g.results, store.Result{Index: e.index})
		if g.batch == nil {
			g.batch = e.db.NewBatch()
		}
		if err := stage(g.batch, b, e.index); err != nil {
			return fmt.Errorf("stage a batch: %w", err)
		}
	}
	if err := e.endLookups(); err != nil {
		return fmt.Errorf("read required keys: %w", err)
	}
	e.counts.groups.Add(1)
	g.applied.Store(true)
	if e.index == first {
		return nil
	}
	var value [revisionLen]byte
	binary.BigEndian.PutUint64(value[:], e.index)
	if err := g.batch.Set(indexKey, value[:], nil); err != nil {
		return fmt.Errorf("stage the commit index: %w", err)
	}
	if err := e.account.issue(e.index); err != nil {
		return fmt.Errorf("write the store's account: %w", err)
	}
	e.account.noteNext(first+1, e.index+1) // should the group begin a log file
	if err := e.db.ApplyNoSyncWait(g.batch, fsyncWrites); err != nil {
		return fmt.Errorf("commit %d batches: %w", len(g.subs), err)
	}
	e.account.noteNext(e.index+1, e.index+1)
	g.view = &view{snap: e.db.NewSnapshot(), index: e.index, cuts: e.views.cutCount.Load()}
	return nil
}

// fatalError is an error of the engine in the place of an outcome.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

func isFatal(err error) bool {
	var f fatalError
	return errors.As(err, &f)
}

// judge decides whether a batch can be applied after those of g judged so far.
func (e *Engine) judge(g *group, b *store.Batch) error {
	if err := b.Err(); err != nil {
		return err
	}
	if p, ok := b.Partition(); ok && int(p) >= e.opts.Partitions {
		return fmt.Errorf("%w: partition %d of %d", store.ErrInvalid, p, e.opts.Partitions)
	}
	// Every byte is written to the log now and to a table later.
	if !e.room.take(b.Class(), 2*uint64(b.Size())) {
		e.counts.refused.Add(1)
		return store.ErrFull
	}
	err := b.Each(func(o store.Op) error {
		if o.Kind != store.OpRequire {
			return nil
		}
		e.enter(g)
		rev, err := e.revision(o.Key)
		if err == nil && rev != o.Rev {
			err = store.ErrConflict
		}
		return err
	})
	if errors.Is(err, store.ErrConflict) {
		e.counts.conflicts.Add(1)
	}
	return err
}

// revision returns the revision of a key as of the batches judged so far.
func (e *Engine) revision(key []byte) (store.Revision, error) {
	if rev, ok := e.overlay.revision(key); ok {
		return rev, nil
	}
	rev, err := e.stored(key)
	for n := 0; err != nil && n < 3; n++ {
		if rev, err = e.storedAgain(key, err); err == nil {
			return rev, nil
		}
	}
	if errors.Is(err, store.ErrDamaged) {
		// What the batch depends on cannot be read: it alone is refused.
		_ = e.endLookups()
		return 0, store.ErrDamaged
	}
	if err != nil {
		return 0, fatalError{fmt.Errorf("read a required key: %w", err)}
	}
	return rev, nil
}

// lookups are reads of single keys. Most keys that are required are required
// to be absent; the filters of the lowest level, which holds nearly all data
// and whose filters Pebble passes over by default, answer that without reading
// a block.
var lookups = &pebbledb.IterOptions{UseL6Filters: true}

// stored returns the revision that a key has in Pebble, 0 if it has none. It
// keeps one iterator for the whole group.
func (e *Engine) stored(key []byte) (store.Revision, error) {
	if e.lookup == nil {
		it, err := e.db.NewIter(lookups)
		if err != nil {
			return 0, err
		}
		e.lookup = it
	}
	if !e.lookup.SeekPrefixGE(key) {
		return 0, e.lookup.Error()
	}
	if !bytes.Equal(e.lookup.Key(), key) {
		return 0, nil
	}
	value, err := e.lookup.ValueAndErr()
	if err != nil {
		return 0, err
	}
	rev, _, err := splitValue(value)
	return rev, err
}

// storedAgain reads a key again after a read of it failed with cause, having
// dealt with that.
func (e *Engine) storedAgain(key []byte, cause error) (store.Revision, error) {
	_ = e.endLookups() // its error is cause
	if !pebbledb.IsCorruptionError(cause) && !errors.Is(cause, store.ErrDamaged) {
		return 0, cause
	}
	e.treatDamage()
	rev, err := e.stored(key)
	if err != nil && pebbledb.IsCorruptionError(err) {
		err = fmt.Errorf("%w: %w", store.ErrDamaged, err)
	}
	return rev, err
}

// endLookups is for the end of a group: the next one must see this one.
func (e *Engine) endLookups() error {
	it := e.lookup
	if it == nil {
		return nil
	}
	e.lookup = nil
	return it.Close()
}

// enter brings the overlay up to the batches of g judged so far. It is put off
// until somebody asks: a group of one, and one that requires nothing, never
// does.
func (e *Engine) enter(g *group) {
	for ; e.entered < len(g.results); e.entered++ {
		if r := g.results[e.entered]; r.Err == nil {
			e.overlay.add(g.subs[e.entered].batch, r.Index)
		}
	}
}

// stage translates a batch into operations of Pebble's.
func stage(dst *pebbledb.Batch, b *store.Batch, index uint64) error {
	var ordinal uint16
	return b.Each(func(o store.Op) error {
		switch o.Kind {
		case store.OpPut:
			op := dst.SetDeferred(len(o.Key), revisionLen+len(o.Value))
			copy(op.Key, o.Key)
			putValue(op.Value, index, o.Value)
			return op.Finish()
		case store.OpPutSequenced:
			op := dst.SetDeferred(len(o.Key)+store.SequencedSuffix, revisionLen+len(o.Value))
			store.PutSequence(op.Key[copy(op.Key, o.Key):], index, ordinal)
			ordinal++
			putValue(op.Value, index, o.Value)
			return op.Finish()
		case store.OpDelete:
			return dst.Delete(o.Key, nil)
		case store.OpDeleteRange:
			if bytes.Compare(o.Key, o.Value) < 0 {
				return dst.DeleteRange(o.Key, o.Value, nil)
			}
		}
		return nil
	})
}

func putValue(dst []byte, index uint64, value []byte) {
	binary.BigEndian.PutUint64(dst, index)
	copy(dst[revisionLen:], value)
}

// probeEvery is how often it is tried whether a quota has room again.
const probeEvery = 5 * time.Second

func (e *Engine) probeDue() bool {
	now := e.opts.Clock.Monotonic()
	if now-e.probedAt < probeEvery {
		return false
	}
	e.probedAt = now
	return true
}

// flushWhenFull is how often tables are written while there is no room for new
// work, so that what was deleted can be reclaimed.
const flushWhenFull = 5 * time.Second

// housekeep looks after space and descriptors between groups.
func (e *Engine) housekeep() {
	if e.disk.starved.Load() && e.opts.FS == vfs.Default {
		e.disk.spares.fill()
	}
	if e.space.isCapped() && e.probeDue() && e.ballast.probe(e.opts.LowWater+e.ballast.size) {
		e.space.uncap()
		e.opts.Log.Info("there is room again")
	}
	if !e.ballast.present.Load() && e.space.roomForBallast(e.ballast.size) {
		if err := e.ballast.set(); err != nil {
			e.opts.Log.Warn("cannot set space aside for a full disk", "err", err.Error())
		}
	}
	if e.room.normal > 0 {
		return
	}
	now := e.opts.Clock.Monotonic()
	if e.index == e.flushedIndex || e.flushedAt != 0 && now-e.flushedAt < flushWhenFull {
		return
	}
	e.flushedAt, e.flushedIndex = now, e.index
	if _, err := e.db.AsyncFlush(); err != nil {
		e.opts.Log.Warn("cannot write tables to reclaim space", "err", err.Error())
	}
}
