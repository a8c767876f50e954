package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestTracker(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []uint32
		want tally
		next uint32
	}{
		{"in order", []uint32{0, 1, 2, 3}, tally{}, 4},
		{"a gap", []uint32{0, 1, 4}, tally{missing: 2}, 5},
		{"the first is missing", []uint32{1}, tally{missing: 1}, 2},
		{"twice", []uint32{0, 1, 1, 0}, tally{duplicates: 2}, 2},
		{"overtaken", []uint32{0, 2, 1}, tally{reordered: 1}, 3},
		{"overtaken and twice", []uint32{0, 2, 1, 1}, tally{reordered: 1, duplicates: 1}, 3},
		{"a gap wider than the window", []uint32{0, 200, 199, 10}, tally{missing: 198, reordered: 1, duplicates: 1}, 201},
	} {
		tr := &newTrackers(1, 1)[0]
		for _, seq := range c.in {
			tr.take(seq)
		}
		if tr.tally != c.want || tr.next != c.next {
			t.Errorf("%s: %+v, next %d; want %+v, next %d", c.name, tr.tally, tr.next, c.want, c.next)
		}
	}
}

// TestTrackerModel compares with a set of all numbers.
func TestTrackerModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		tr := &newTrackers(1, 2)[0]
		seen := map[uint32]bool{}
		var want tally
		greatest := int64(-1)
		for range 500 {
			seq := uint32(max(0, greatest+1+int64(rnd.IntN(60))-50))
			if rnd.IntN(3) > 0 {
				seq = uint32(greatest + 1)
			}
			fresh := !seen[seq]
			switch {
			case !fresh:
				want.duplicates++
			case int64(seq) < greatest:
				want.reordered++
			}
			seen[seq] = true
			greatest = max(greatest, int64(seq))
			if got := tr.take(seq); got != fresh {
				t.Fatalf("round %d: take(%d) = %v, want %v", round, seq, got, fresh)
			}
		}
		want.missing = greatest + 1 - int64(len(seen))
		if tr.tally != want {
			t.Fatalf("round %d: %+v, want %+v", round, tr.tally, want)
		}
	}
}

func TestHistogramQuantiles(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var a, b histogram
	var all []time.Duration
	for i := range 10_000 {
		d := time.Duration(rnd.ExpFloat64() * float64(time.Millisecond))
		all = append(all, d)
		if i%2 == 0 {
			a.add(d)
		} else {
			b.add(d)
		}
	}
	a.merge(&b)
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.99, 0.999, 1} {
		want := all[min(len(all)-1, int(q*float64(len(all))))]
		got := a.quantile(q)
		if float64(got) < float64(want)*0.97 || float64(got) > float64(want)*1.03+1 {
			t.Errorf("quantile %v: %v, want about %v", q, got, want)
		}
	}
	if a.quantile(1) != all[len(all)-1] {
		t.Errorf("the greatest is %v, want %v", a.quantile(1), all[len(all)-1])
	}
}

func TestHistogramSlots(t *testing.T) {
	for _, v := range []uint64{0, 1, 127, 128, 129, 255, 256, 1 << 20, 1<<40 + 12345, 1<<62 + 1, 1<<63 - 1} {
		i := slot(v)
		if upper(i) < v || i > 0 && upper(i-1) >= v {
			t.Errorf("%d is in slot %d, which ends at %d", v, i, upper(i))
		}
	}
}
