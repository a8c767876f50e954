package storetest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"rollcall/internal/store"
)

// cell is a key's value and revision.
type cell struct {
	value []byte
	rev   store.Revision
}

// Model is what an engine does, written down as plainly as possible: one map,
// one batch after the other. It gives the indexes that an engine gives whose
// only writer is the test. It is for one goroutine.
type Model struct {
	index uint64
	cells map[string]cell
}

// NewModel returns the model of an empty engine.
func NewModel() *Model { return &Model{cells: make(map[string]cell)} }

// Clone returns an independent copy.
func (m *Model) Clone() *Model { return &Model{m.index, maps.Clone(m.cells)} }

// Index is the index of the last batch applied.
func (m *Model) Index() uint64 { return m.index }

// Apply returns the outcome that an engine must give, for engines that are not
// full. Of ErrInvalid it knows what the batch itself knows.
func (m *Model) Apply(b *store.Batch) store.Result {
	if b.Err() != nil {
		return store.Result{Err: store.ErrInvalid}
	}
	err := b.Each(func(o store.Op) error {
		if o.Kind == store.OpRequire && m.cells[string(o.Key)].rev != o.Rev {
			return store.ErrConflict
		}
		return nil
	})
	if err != nil {
		return store.Result{Err: err}
	}
	m.index++
	ordinal := uint16(0)
	_ = b.Each(func(o store.Op) error {
		c := cell{bytes.Clone(o.Value), store.Revision(m.index)}
		switch o.Kind {
		case store.OpPut:
			m.cells[string(o.Key)] = c
		case store.OpPutSequenced:
			m.cells[string(store.SequencedKey(o.Key, m.index, ordinal))] = c
			ordinal++
		case store.OpDelete:
			delete(m.cells, string(o.Key))
		case store.OpDeleteRange:
			maps.DeleteFunc(m.cells, func(k string, _ cell) bool {
				return k >= string(o.Key) && k < string(o.Value)
			})
		}
		return nil
	})
	return store.Result{Index: m.index}
}

// Load returns the model of what a snapshot shows.
func Load(s store.Snapshot) (*Model, error) {
	m := &Model{index: s.Index(), cells: make(map[string]cell)}
	it := s.Iter(nil, nil)
	for it.Next() {
		m.cells[string(it.Key())] = cell{bytes.Clone(it.Value()), it.Revision()}
	}
	if err := it.Err(); err != nil {
		return nil, err
	}
	return m, it.Close()
}

// Compare returns how a snapshot differs from the model, nil if it does not:
// by walking it in both directions, and by looking up every key.
func (m *Model) Compare(s store.Snapshot) error {
	if s.Index() != m.index {
		return fmt.Errorf("the snapshot is of index %d, want %d", s.Index(), m.index)
	}
	keys := slices.Sorted(maps.Keys(m.cells))
	it := s.Iter(nil, nil)
	defer it.Close()
	if err := m.walk(keys, it, it.Next); err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	slices.Reverse(keys)
	if err := m.walk(keys, it, it.Prev); err != nil {
		return fmt.Errorf("backward: %w", err)
	}
	for _, k := range keys {
		v, rev, err := s.Get([]byte(k))
		if want := m.cells[k]; err != nil || rev != want.rev || !bytes.Equal(v, want.value) {
			return fmt.Errorf("get %x: got %x, revision %d, error %v; want %x, revision %d", k, v, rev, err, want.value, want.rev)
		}
	}
	return nil
}

func (m *Model) walk(keys []string, it store.Iterator, step func() bool) error {
	for i, k := range keys {
		if !step() {
			return fmt.Errorf("the iterator ended after %d of %d keys, error %v", i, len(keys), it.Err())
		}
		want := m.cells[k]
		if string(it.Key()) != k || it.Revision() != want.rev || !bytes.Equal(it.Value(), want.value) {
			return fmt.Errorf("at %d: got %x = %x, revision %d; want %x = %x, revision %d",
				i, it.Key(), it.Value(), it.Revision(), k, want.value, want.rev)
		}
	}
	if step() {
		return fmt.Errorf("unexpected key %x", it.Key())
	}
	return it.Err()
}
