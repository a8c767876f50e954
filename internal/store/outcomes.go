package store

import (
	"errors"
	"sync"
)

// remembered is the number of batches that Outcomes never forgets.
const remembered = 1 << 16

// failureBit marks a remembered outcome that is an error.
const failureBit = 1 << 63

// sentinels are the errors that are told apart in memory. Their place is what
// is stored.
var sentinels = [...]error{ErrConflict, ErrFull, ErrUnknown, ErrClosed, ErrInvalid, ErrDamaged}

// Outcomes remembers what became of recent batches, for engines to answer
// Engine.Outcome with. It keeps the last 65,536 to 131,072 of them, in two
// generations, at 24 bytes each plus the maps' overhead; of an error it keeps
// which of this package's errors it was. The zero value is ready for use, also
// concurrently.
type Outcomes struct {
	mu       sync.Mutex
	young    map[ID]uint64
	old      map[ID]uint64
	lifetime int // entries of a generation, 0 meaning remembered
}

// Remember records the outcome of a batch.
func (o *Outcomes) Remember(id ID, r Result) {
	o.mu.Lock()
	o.remember(id, r)
	o.mu.Unlock()
}

// RememberAll records the outcomes of several batches, taking the lock once.
// At calls its argument's i-th id and result, i from 0 to n-1.
func (o *Outcomes) RememberAll(n int, at func(i int) (ID, Result)) {
	o.mu.Lock()
	for i := range n {
		o.remember(at(i))
	}
	o.mu.Unlock()
}

// Lookup returns the outcome of a batch, or false if it is not remembered.
func (o *Outcomes) Lookup(id ID) (Result, bool) {
	o.mu.Lock()
	v, ok := o.young[id]
	if !ok {
		v, ok = o.old[id]
	}
	o.mu.Unlock()
	if !ok {
		return Result{}, false
	}
	if v&failureBit != 0 {
		return Result{Err: sentinels[v&^failureBit]}, true
	}
	return Result{Index: v}, true
}

func (o *Outcomes) remember(id ID, r Result) {
	if o.lifetime == 0 {
		o.lifetime = remembered
	}
	if o.young == nil {
		o.young = make(map[ID]uint64)
	}
	if len(o.young) >= o.lifetime {
		o.old, o.young = o.young, o.old
		if o.young == nil {
			o.young = make(map[ID]uint64, o.lifetime)
		}
		clear(o.young)
	}
	o.young[id] = outcomeCode(r)
}

func outcomeCode(r Result) uint64 {
	if r.Err == nil {
		return r.Index
	}
	for i, e := range sentinels {
		if errors.Is(r.Err, e) {
			return failureBit | uint64(i)
		}
	}
	return failureBit | 2 // ErrUnknown: an engine's error that is none of ours
}
