package storetest

import (
	"encoding/binary"
	"math/rand/v2"

	"rollcall/internal/store"
)

// Workload makes random batches over a small set of keys, so that they meet.
// The same seed and the same states of the model give the same batches, ids
// included: what a process did before it was killed can be worked out again.
type Workload struct {
	random    *rand.Rand
	valueSize int
}

// NewWorkload returns a workload. Values are up to valueSize bytes long.
func NewWorkload(seed uint64, valueSize int) *Workload {
	return &Workload{rand.New(rand.NewPCG(seed, 7)), valueSize}
}

const (
	workPartitions = 3
	workKeys       = 40
)

// Next returns the next batch, for a store that is as m says.
func (w *Workload) Next(m *Model) *store.Batch {
	var id store.ID
	binary.BigEndian.PutUint64(id[:], w.random.Uint64())
	binary.BigEndian.PutUint64(id[8:], w.random.Uint64())
	b := store.NewBatchWithID(id, store.Class(w.random.IntN(2)))
	p := uint8(w.random.IntN(workPartitions))
	for range w.random.IntN(6) {
		key := w.key(p)
		switch n := w.random.IntN(100); {
		case n < 40:
			b.Put(key, w.value())
		case n < 55:
			b.Delete(key)
		case n < 75:
			b.PutSequenced(w.prefix(p), w.value())
		case n < 78:
			w.deleteRange(b, p)
		default:
			b.Require(key, w.revision(m, key))
		}
	}
	return b
}

func (w *Workload) key(p uint8) []byte {
	k := store.AppendKey(nil, p, store.TableSession, "realm")
	return store.AppendUint64(k, uint64(w.random.IntN(workKeys)))
}

func (w *Workload) prefix(p uint8) []byte {
	return store.AppendString(store.AppendKey(nil, p, store.TableEvent, "realm"), string(rune('a'+w.random.IntN(3))))
}

func (w *Workload) value() []byte {
	v := make([]byte, w.random.IntN(w.valueSize+1))
	for i := range v {
		v[i] = byte(w.random.Uint32())
	}
	return v
}

// revision is mostly right.
func (w *Workload) revision(m *Model, key []byte) store.Revision {
	switch w.random.IntN(10) {
	case 0:
		return 0
	case 1:
		return store.Revision(w.random.Uint64N(m.index + 2))
	}
	return m.cells[string(key)].rev
}

func (w *Workload) deleteRange(b *store.Batch, p uint8) {
	if w.random.IntN(2) == 0 {
		prefix := w.prefix(p)
		b.DeleteRange(prefix, store.PrefixEnd(prefix))
		return
	}
	b.DeleteRange(w.key(p), w.key(p)) // often empty, or the wrong way round
}
