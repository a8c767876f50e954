// Package mem is a store.Engine in memory, for tests and for tools that keep
// nothing. It keeps every promise of the interface but durability.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/tidwall/btree"

	"rollcall/internal/store"
)

type entry struct {
	key   []byte
	value []byte
	rev   store.Revision
}

func less(a, b entry) bool { return bytes.Compare(a.key, b.key) < 0 }

type submission struct {
	batch *store.Batch
	done  func(store.Result)
}

// Engine is a store.Engine in memory. New returns one.
type Engine struct {
	partitions int
	finished   chan struct{}
	outcomes   store.Outcomes

	mu      sync.Mutex
	wake    sync.Cond
	queue   []submission
	late    int // callers being told that they are too late
	closing bool
	tree    *btree.BTreeG[entry]
	index   uint64
	bytes   uint64
	limit   uint64
	reserve uint64

	full, exhausted bool // as SetFull and SetExhausted say
}

// New returns an empty engine with store.DefaultPartitions partitions and no
// limit. The caller closes it.
func New() *Engine {
	e := &Engine{
		partitions: store.DefaultPartitions,
		finished:   make(chan struct{}),
		tree:       btree.NewBTreeG(less),
	}
	e.wake.L = &e.mu
	go e.run()
	return e
}

// SetFull makes the engine behave as if the disk were full, or not any more:
// work of the Normal class fails with ErrFull. Batches submitted before the
// call may still see what was before.
func (e *Engine) SetFull(full bool) {
	e.mu.Lock()
	e.full = full
	e.mu.Unlock()
}

// SetExhausted is SetFull for the Reserve class.
func (e *Engine) SetExhausted(exhausted bool) {
	e.mu.Lock()
	e.exhausted = exhausted
	e.mu.Unlock()
}

// SetLimit bounds the bytes of keys and values, 0 meaning no bound: work that
// would take more than limit−reserve, or limit for the Reserve class, fails
// with ErrFull. What a batch deletes does not count in its favour.
func (e *Engine) SetLimit(limit, reserve uint64) {
	e.mu.Lock()
	e.limit, e.reserve = limit, min(reserve, limit)
	e.mu.Unlock()
}

// Submit implements store.Engine.
func (e *Engine) Submit(b *store.Batch, done func(store.Result)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		e.late++
		go func() {
			done(store.Result{Err: store.ErrClosed})
			e.mu.Lock()
			e.late--
			e.mu.Unlock()
			e.wake.Broadcast()
		}()
		return
	}
	e.queue = append(e.queue, submission{b, done})
	e.wake.Broadcast()
}

// run applies batches in the order they came and reports their outcomes.
func (e *Engine) run() {
	defer close(e.finished)
	for {
		e.mu.Lock()
		for len(e.queue) == 0 && !e.closing {
			e.wake.Wait()
		}
		group := e.queue
		e.queue = nil
		if len(group) == 0 {
			e.mu.Unlock()
			return
		}
		results := make([]store.Result, len(group))
		for i, s := range group {
			results[i] = e.apply(s.batch)
		}
		e.mu.Unlock()
		for i, s := range group {
			e.outcomes.Remember(s.batch.ID(), results[i])
			s.done(results[i])
		}
	}
}

func (e *Engine) apply(b *store.Batch) store.Result {
	if err := e.judge(b); err != nil {
		return store.Result{Err: err}
	}
	e.index++
	var ordinal uint16
	// Each returns only what its argument does: the batch was judged before.
	_ = b.Each(func(o store.Op) error {
		switch o.Kind {
		case store.OpPut:
			e.set(bytes.Clone(o.Key), o.Value)
		case store.OpPutSequenced:
			e.set(store.SequencedKey(o.Key, e.index, ordinal), o.Value)
			ordinal++
		case store.OpDelete:
			e.remove(o.Key)
		case store.OpDeleteRange:
			e.removeRange(o.Key, o.Value)
		}
		return nil
	})
	return store.Result{Index: e.index}
}

func (e *Engine) judge(b *store.Batch) error {
	if err := b.Err(); err != nil {
		return err
	}
	if p, ok := b.Partition(); ok && int(p) >= e.partitions {
		return fmt.Errorf("%w: partition %d of %d", store.ErrInvalid, p, e.partitions)
	}
	if e.isFull(b) {
		return store.ErrFull
	}
	return b.Each(func(o store.Op) error {
		if o.Kind != store.OpRequire {
			return nil
		}
		if have, _ := e.tree.Get(entry{key: o.Key}); have.rev != o.Rev {
			return store.ErrConflict
		}
		return nil
	})
}

func (e *Engine) isFull(b *store.Batch) bool {
	full, limit := e.full, e.limit-e.reserve
	if b.Class() == store.Reserve {
		full, limit = e.exhausted, e.limit
	}
	return full || e.limit > 0 && e.bytes+uint64(b.Size()) > limit
}

func (e *Engine) set(key, value []byte) {
	old, had := e.tree.Set(entry{key: key, value: bytes.Clone(value), rev: store.Revision(e.index)})
	if had {
		e.bytes -= uint64(len(old.key) + len(old.value))
	}
	e.bytes += uint64(len(key) + len(value))
}

func (e *Engine) remove(key []byte) {
	if old, had := e.tree.Delete(entry{key: key}); had {
		e.bytes -= uint64(len(old.key) + len(old.value))
	}
}

func (e *Engine) removeRange(lower, upper []byte) {
	var doomed [][]byte
	e.tree.Ascend(entry{key: lower}, func(it entry) bool {
		if bytes.Compare(it.key, upper) >= 0 {
			return false
		}
		doomed = append(doomed, it.key)
		return true
	})
	for _, k := range doomed {
		e.remove(k)
	}
}

// Outcome implements store.Engine.
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
func (e *Engine) Partitions() int { return e.partitions }

// Size implements store.Engine. It is exact and walks the range.
func (e *Engine) Size(lower, upper []byte) (uint64, error) {
	s := e.Snapshot()
	defer s.Close()
	it := s.Iter(lower, upper)
	defer it.Close()
	var n uint64
	for it.Next() {
		n += uint64(len(it.Key()) + len(it.Value()))
	}
	return n, it.Err()
}

// Usage implements store.Engine.
func (e *Engine) Usage() store.Usage {
	e.mu.Lock()
	defer e.mu.Unlock()
	full := e.full || e.limit > 0 && e.bytes >= e.limit-e.reserve
	return store.Usage{Bytes: e.bytes, Limit: e.limit, SpareBytes: math.MaxUint64, Full: full}
}

// Close implements store.Engine.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closing = true
	e.wake.Broadcast()
	e.mu.Unlock()
	<-e.finished
	e.mu.Lock()
	for e.late > 0 {
		e.wake.Wait()
	}
	return nil
}

// Snapshot implements store.Engine.
func (e *Engine) Snapshot() store.Snapshot {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		s := &snapshot{}
		s.closed.Store(true)
		return s
	}
	return &snapshot{tree: e.tree.Copy(), index: e.index}
}
