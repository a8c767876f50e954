package bench

import (
	"math"
	"math/bits"
	"time"
)

// histogram counts durations with a resolution of 1/64 of their size.
type histogram struct {
	counts [60 * 64]uint64
	n      uint64
	most   time.Duration
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.counts[slot(uint64(d))]++
	h.n++
	h.most = max(h.most, d)
}

// slot numbers the intervals: those below 128 ns are of 1 ns, and each further
// doubling has 64.
func slot(v uint64) int {
	if v < 128 {
		return int(v)
	}
	shift := bits.Len64(v) - 7
	return shift*64 + int(v>>shift)
}

// upper is the greatest value in a slot.
func upper(i int) uint64 {
	if i < 128 {
		return uint64(i)
	}
	shift := i/64 - 1
	return uint64(i-shift*64+1)<<shift - 1
}

// quantile is the least duration that a share q of all do not exceed, rounded
// up to the resolution; 0 if there are none.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(1, uint64(math.Ceil(q*float64(h.n))))
	var sum uint64
	for i, c := range h.counts {
		if sum += c; sum >= rank {
			return min(time.Duration(upper(i)), h.most)
		}
	}
	return h.most
}

func (h *histogram) merge(o *histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.most = max(h.most, o.most)
}
