package stored

import (
	"slices"
	"sync"
)

// holders are the entries that refer to one message record: those of its own
// batch as bits, by their distance from the record, and those that were moved.
type holders struct {
	left  uint32
	first uint64 // distances 1 to 64
	rest  *moreHolders
}

type moreHolders struct {
	bits  []uint64 // distances from 65
	moved []sequence
}

// add says that entry refers to message, which may be known.
func (h *holders) add(message, entry sequence) {
	if entry.index != message.index {
		if h.rest == nil {
			h.rest = new(moreHolders)
		}
		if !slices.Contains(h.rest.moved, entry) {
			h.rest.moved = append(h.rest.moved, entry)
			h.left++
		}
		return
	}
	w, bit := h.word(int(entry.ordinal)-int(message.ordinal)-1, true)
	if w != nil && *w&bit == 0 {
		*w |= bit
		h.left++
	}
}

// remove says that entry does not refer to message any more, which may be
// known.
func (h *holders) remove(message, entry sequence) {
	if entry.index != message.index {
		if h.rest == nil {
			return
		}
		if i := slices.Index(h.rest.moved, entry); i >= 0 {
			h.rest.moved = slices.Delete(h.rest.moved, i, i+1)
			h.left--
		}
		return
	}
	w, bit := h.word(int(entry.ordinal)-int(message.ordinal)-1, false)
	if w != nil && *w&bit != 0 {
		*w &^= bit
		h.left--
	}
}

// word returns where bit i is, or nil if that is nowhere.
func (h *holders) word(i int, grow bool) (*uint64, uint64) {
	switch {
	case i < 0:
		return nil, 0
	case i < 64:
		return &h.first, 1 << i
	}
	n := i/64 - 1
	if h.rest == nil {
		if !grow {
			return nil, 0
		}
		h.rest = new(moreHolders)
	}
	for n >= len(h.rest.bits) {
		if !grow {
			return nil, 0
		}
		h.rest.bits = append(h.rest.bits, 0)
	}
	return &h.rest.bits[n], 1 << (i % 64)
}

// allHolders are the n entries that follow a message record in its batch.
func allHolders(n int) holders {
	h := holders{left: uint32(n)}
	if n <= 64 {
		h.first = 1<<n - 1
		return h
	}
	h.first = 1<<64 - 1
	h.rest = &moreHolders{bits: make([]uint64, (n-1)/64)}
	for i := range h.rest.bits {
		h.rest.bits[i] = 1<<64 - 1
	}
	if over := n % 64; over != 0 {
		h.rest.bits[len(h.rest.bits)-1] = 1<<over - 1
	}
	return h
}

// change is that an entry does (add) or does not refer to a message any more.
type change struct {
	message, entry sequence
	add            bool
}

// references knows which entries refer to which message records. Messages of
// earlier runs are unknown until their partition has been counted.
type references struct {
	start uint64 // commit index at the start: later messages are of this run

	mu  sync.Mutex
	all map[sequence]holders // those that something refers to
	old []recount            // by partition
}

// recount is how far a partition's entries of earlier runs have been counted.
type recount struct {
	state   recountState
	changes []change // durable since the count began
}

type recountState uint8

const (
	uncounted recountState = iota // what changes will be seen by the count
	counting
	counted
)

// publish says that n entries that refer to a message are durable.
func (r *references) publish(message sequence, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[message] = allHolders(n)
}

// apply says that changes in partition p are durable, and appends to dead the
// messages that nothing refers to any more.
func (r *references) apply(p uint8, changes []change, dead []sequence) []sequence {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range changes {
		if c.message.index <= r.start {
			old := &r.old[p]
			switch old.state {
			case uncounted:
				continue
			case counting:
				old.changes = append(old.changes, c)
				continue
			}
		}
		if r.change(c) {
			dead = append(dead, c.message)
		}
	}
	return dead
}

// change applies c and reports whether nothing refers to the message any more.
// The caller holds mu.
func (r *references) change(c change) bool {
	h, known := r.all[c.message]
	if !known {
		// Published with an unknown outcome, or dead already: the next start
		// counts again.
		return false
	}
	if c.add {
		h.add(c.message, c.entry)
	} else {
		h.remove(c.message, c.entry)
	}
	if h.left == 0 {
		delete(r.all, c.message)
		return true
	}
	r.all[c.message] = h
	return false
}

// begin starts the count of p. What is durable later is kept for finish.
func (r *references) begin(p uint8) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.old[p] = recount{state: counting}
}

// abandon gives the count of p up.
func (r *references) abandon(p uint8) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.old[p] = recount{}
}

// finish takes over what was counted in p, and returns the messages that
// nothing refers to any more.
func (r *references) finish(p uint8, found map[sequence]holders) (dead []sequence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for m, h := range found {
		r.all[m] = h
	}
	for _, c := range r.old[p].changes {
		if r.change(c) {
			dead = append(dead, c.message)
		}
	}
	r.old[p] = recount{state: counted}
	return dead
}

func (r *references) messages() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}
