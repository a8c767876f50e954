package pebble

import (
	"bytes"
	"hash/maphash"

	"rollcall/internal/store"
)

// overlay knows what the batches of one group have written so far, none of
// which Pebble has seen yet. It answers which revision a key has after them. It
// is for one goroutine. The keys given to it must not change until reset.
type overlay struct {
	seed    maphash.Seed
	index   []uint32 // hash table, open addressing: place in entries, plus 1
	entries []overlayEntry
	ranges  []overlayRange
	writes  uint32 // writes seen; tells whether a range or a key came later
}

type overlayEntry struct {
	hash uint64
	key  []byte
	rev  store.Revision // 0: deleted
	at   uint32
}

type overlayRange struct {
	lower, upper []byte
	at           uint32
}

func newOverlay() *overlay {
	return &overlay{seed: maphash.MakeSeed(), index: make([]uint32, 1<<10)}
}

// reset forgets everything.
func (o *overlay) reset() {
	if len(o.entries) > 0 {
		clear(o.index)
	}
	clear(o.entries)
	clear(o.ranges)
	o.entries, o.ranges, o.writes = o.entries[:0], o.ranges[:0], 0
}

// set records that key has revision rev now, 0 meaning that it was deleted.
func (o *overlay) set(key []byte, rev store.Revision) {
	o.writes++
	h := maphash.Bytes(o.seed, key)
	slot := o.find(h, key)
	if n := o.index[slot]; n > 0 {
		e := &o.entries[n-1]
		e.rev, e.at = rev, o.writes
		return
	}
	o.entries = append(o.entries, overlayEntry{h, key, rev, o.writes})
	o.index[slot] = uint32(len(o.entries))
	if len(o.entries) > len(o.index)/2 {
		o.grow()
	}
}

// deleteRange records that no key in [lower, upper) exists now.
func (o *overlay) deleteRange(lower, upper []byte) {
	o.writes++
	o.ranges = append(o.ranges, overlayRange{lower, upper, o.writes})
}

// revision returns the revision of key, or false if the group has not touched
// it.
func (o *overlay) revision(key []byte) (store.Revision, bool) {
	if o.writes == 0 {
		return 0, false
	}
	var rev store.Revision
	var at uint32
	if n := o.index[o.find(maphash.Bytes(o.seed, key), key)]; n > 0 {
		rev, at = o.entries[n-1].rev, o.entries[n-1].at
	}
	for i := len(o.ranges) - 1; i >= 0 && o.ranges[i].at > at; i-- {
		if r := &o.ranges[i]; bytes.Compare(key, r.lower) >= 0 && bytes.Compare(key, r.upper) < 0 {
			return 0, true
		}
	}
	return rev, at > 0
}

// find returns the slot that holds key, or the empty one where it belongs.
func (o *overlay) find(h uint64, key []byte) uint64 {
	mask := uint64(len(o.index) - 1)
	for slot := h & mask; ; slot = (slot + 1) & mask {
		n := o.index[slot]
		if n == 0 {
			return slot
		}
		if e := &o.entries[n-1]; e.hash == h && bytes.Equal(e.key, key) {
			return slot
		}
	}
}

func (o *overlay) grow() {
	o.index = make([]uint32, 2*len(o.index))
	mask := uint64(len(o.index) - 1)
	for i := range o.entries {
		slot := o.entries[i].hash & mask
		for o.index[slot] != 0 {
			slot = (slot + 1) & mask
		}
		o.index[slot] = uint32(i + 1)
	}
}

// add enters what a batch that was given an index has written.
func (o *overlay) add(b *store.Batch, index uint64) {
	var ordinal uint16
	// Each returns only what its argument does: the batch was judged before.
	_ = b.Each(func(op store.Op) error {
		switch op.Kind {
		case store.OpPut:
			o.set(op.Key, store.Revision(index))
		case store.OpPutSequenced:
			o.set(store.SequencedKey(op.Key, index, ordinal), store.Revision(index))
			ordinal++
		case store.OpDelete:
			o.set(op.Key, 0)
		case store.OpDeleteRange:
			o.deleteRange(op.Key, op.Value)
		}
		return nil
	})
}
