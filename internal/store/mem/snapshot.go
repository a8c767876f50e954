package mem

import (
	"bytes"
	"sync/atomic"

	"github.com/tidwall/btree"

	"rollcall/internal/store"
)

// snapshot is a copy of the tree, which shares what does not change.
type snapshot struct {
	tree   *btree.BTreeG[entry]
	index  uint64
	closed atomic.Bool
}

func (s *snapshot) Index() uint64 { return s.index }
func (s *snapshot) Close()        { s.closed.Store(true) }

func (s *snapshot) Get(key []byte) ([]byte, store.Revision, error) {
	if s.closed.Load() {
		return nil, 0, store.ErrClosed
	}
	it, ok := s.tree.Get(entry{key: key})
	if !ok {
		return nil, 0, store.ErrNotFound
	}
	return bytes.Clone(it.value), it.rev, nil
}

func (s *snapshot) Iter(lower, upper []byte) store.Iterator {
	if s.closed.Load() {
		return &iterator{err: store.ErrClosed}
	}
	if upper != nil && bytes.Compare(lower, upper) >= 0 {
		return &iterator{} // empty
	}
	return &iterator{tree: s.tree, lower: lower, upper: upper}
}

// place is where an iterator stands.
type place int

const (
	outside place = iota // before the first key and after the last
	before               // before the first key
	at                   // at item
	after                // after the last key
)

// iterator finds each key anew from the last one, so that it holds nothing of
// the tree. Without a tree it is empty.
type iterator struct {
	tree         *btree.BTreeG[entry]
	lower, upper []byte
	place        place
	item         entry
	err          error
}

func (i *iterator) Next() bool {
	switch i.place {
	case outside, before:
		return i.ascend(i.lower, false)
	case at:
		return i.ascend(i.item.key, true)
	}
	return false
}

func (i *iterator) Prev() bool {
	switch i.place {
	case outside, after:
		return i.descend(i.upper)
	case at:
		return i.descend(i.item.key)
	}
	return false
}

func (i *iterator) SeekGE(key []byte) bool {
	if bytes.Compare(key, i.lower) < 0 {
		key = i.lower
	}
	return i.ascend(key, false)
}

// ascend goes to the first key from key on, or after it.
func (i *iterator) ascend(key []byte, beyond bool) bool {
	i.place, i.item = after, entry{}
	if i.tree == nil {
		return false
	}
	i.tree.Ascend(entry{key: key}, func(it entry) bool {
		if beyond && bytes.Equal(it.key, key) {
			return true
		}
		if i.upper == nil || bytes.Compare(it.key, i.upper) < 0 {
			i.place, i.item = at, it
		}
		return false
	})
	return i.place == at
}

// descend goes to the last key before bound, nil meaning no bound.
func (i *iterator) descend(bound []byte) bool {
	i.place, i.item = before, entry{}
	if i.tree == nil {
		return false
	}
	visit := func(it entry) bool {
		if bound != nil && bytes.Compare(it.key, bound) >= 0 {
			return true
		}
		if bytes.Compare(it.key, i.lower) >= 0 {
			i.place, i.item = at, it
		}
		return false
	}
	if bound == nil {
		i.tree.Reverse(visit)
	} else {
		i.tree.Descend(entry{key: bound}, visit)
	}
	return i.place == at
}

func (i *iterator) Key() []byte              { return i.item.key }
func (i *iterator) Value() []byte            { return i.item.value }
func (i *iterator) Revision() store.Revision { return i.item.rev }
func (i *iterator) Err() error               { return i.err }
func (i *iterator) Close() error             { i.tree = nil; return i.err }
