// Package mem is a store.Engine in memory, for tests and for tools that keep
// nothing. It keeps every promise of the interface but durability.
package mem

import (
	"bytes"
	"context"
	"fmt"
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

// Engine is a store.Engine in memory.
type Engine struct {
	partitions int
	finished   chan struct{}

	mu      sync.Mutex
	wake    sync.Cond
	queue   []submission
	closing bool
	tree    *btree.BTreeG[entry]
	index   uint64
	bytes   uint64
	results map[store.ID]store.Result
	order   []store.ID
}

const remembered = 1 << 16

// New returns an empty engine with store.DefaultPartitions partitions.
func New() *Engine {
	e := &Engine{
		partitions: store.DefaultPartitions,
		finished:   make(chan struct{}),
		tree:       btree.NewBTreeG(less),
		results:    make(map[store.ID]store.Result),
	}
	e.wake.L = &e.mu
	go e.run()
	return e
}

// Submit implements store.Engine.
func (e *Engine) Submit(b *store.Batch, done func(store.Result)) {
	e.mu.Lock()
	if e.closing {
		e.mu.Unlock()
		done(store.Result{Err: store.ErrClosed})
		return
	}
	e.queue = append(e.queue, submission{b, done})
	e.mu.Unlock()
	e.wake.Signal()
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
			s.done(results[i])
		}
	}
}

func (e *Engine) apply(b *store.Batch) store.Result {
	r := store.Result{Err: b.Err()}
	if p, ok := b.Partition(); ok && int(p) >= e.partitions {
		r.Err = fmt.Errorf("%w: partition %d of %d", store.ErrInvalid, p, e.partitions)
	}
	if r.Err == nil {
		r.Err = b.Each(func(o store.Op) error {
			if o.Kind != store.OpRequire {
				return nil
			}
			if have, _ := e.tree.Get(entry{key: o.Key}); have.rev != o.Rev {
				return store.ErrConflict
			}
			return nil
		})
	}
	if r.Err != nil {
		return e.remember(b.ID(), r)
	}
	e.index++
	var ordinal uint16
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
			var doomed [][]byte
			e.tree.Ascend(entry{key: o.Key}, func(it entry) bool {
				if bytes.Compare(it.key, o.Value) >= 0 {
					return false
				}
				doomed = append(doomed, it.key)
				return true
			})
			for _, k := range doomed {
				e.remove(k)
			}
		}
		return nil
	})
	return e.remember(b.ID(), store.Result{Index: e.index})
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

func (e *Engine) remember(id store.ID, r store.Result) store.Result {
	if len(e.order) == remembered {
		delete(e.results, e.order[0])
		e.order = e.order[1:]
	}
	e.order = append(e.order, id)
	e.results[id] = r
	return r
}

// Outcome implements store.Engine.
func (e *Engine) Outcome(_ context.Context, id store.ID) (store.Result, bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r, ok := e.results[id]
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
	return n, nil
}

// Usage implements store.Engine.
func (e *Engine) Usage() store.Usage {
	e.mu.Lock()
	defer e.mu.Unlock()
	return store.Usage{Bytes: e.bytes}
}

// Close implements store.Engine.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	e.wake.Broadcast()
	<-e.finished
	return nil
}

// Snapshot implements store.Engine.
func (e *Engine) Snapshot() store.Snapshot {
	e.mu.Lock()
	defer e.mu.Unlock()
	return &snapshot{tree: e.tree.Copy(), index: e.index}
}

type snapshot struct {
	tree  *btree.BTreeG[entry]
	index uint64
}

func (s *snapshot) Index() uint64 { return s.index }
func (s *snapshot) Close()        {}

func (s *snapshot) Get(key []byte) ([]byte, store.Revision, error) {
	it, ok := s.tree.Get(entry{key: key})
	if !ok {
		return nil, 0, store.ErrNotFound
	}
	return bytes.Clone(it.value), it.rev, nil
}

func (s *snapshot) Iter(lower, upper []byte) store.Iterator {
	return &iterator{it: s.tree.Iter(), lower: lower, upper: upper}
}

type iterator struct {
	it           btree.IterG[entry]
	lower, upper []byte
	placed       bool
}

func (i *iterator) inside(ok bool) bool {
	return ok && bytes.Compare(i.it.Item().key, i.lower) >= 0 &&
		(i.upper == nil || bytes.Compare(i.it.Item().key, i.upper) < 0)
}

func (i *iterator) Next() bool {
	if i.placed {
		return i.inside(i.it.Next())
	}
	return i.SeekGE(i.lower)
}

func (i *iterator) Prev() bool {
	if i.placed {
		return i.inside(i.it.Prev())
	}
	i.placed = true
	if i.upper == nil {
		return i.inside(i.it.Last())
	}
	if i.it.Seek(entry{key: i.upper}) {
		return i.inside(i.it.Prev())
	}
	return i.inside(i.it.Last())
}

func (i *iterator) SeekGE(key []byte) bool {
	if bytes.Compare(key, i.lower) < 0 {
		key = i.lower
	}
	i.placed = true
	return i.inside(i.it.Seek(entry{key: key}))
}

func (i *iterator) Key() []byte              { return i.it.Item().key }
func (i *iterator) Value() []byte            { return i.it.Item().value }
func (i *iterator) Revision() store.Revision { return i.it.Item().rev }
func (i *iterator) Err() error               { return nil }
func (i *iterator) Close() error             { i.it.Release(); return nil }
