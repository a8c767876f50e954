package bench

// tracker watches the messages of one publisher arrive at one place: what is
// missing, what came twice, and what came behind a later one. It remembers
// which of the last messages came; of older ones it assumes that they are
// duplicates.
type tracker struct {
	next uint32   // one more than the greatest number that came
	seen []uint64 // a ring of bits for the numbers below next
	tally
}

// tally is what trackers count.
type tally struct {
	missing    int64 // numbers below the greatest that did not come
	duplicates int64
	reordered  int64 // came first behind a later one
}

func (t *tally) add(o tally) {
	t.missing += o.missing
	t.duplicates += o.duplicates
	t.reordered += o.reordered
}

// newTrackers makes n trackers that remember 64 × words messages each; words
// is a power of two.
func newTrackers(n, words int) []tracker {
	all, ts := make([]uint64, n*words), make([]tracker, n)
	for i := range ts {
		ts[i].seen = all[i*words : (i+1)*words : (i+1)*words]
	}
	return ts
}

// take notes that the message seq came and reports whether it did so for the
// first time.
func (t *tracker) take(seq uint32) bool {
	if seq == t.next {
		t.next++
		t.set(seq)
		return true
	}
	window := uint32(len(t.seen)) * 64
	if ahead := seq - t.next; ahead < 1<<31 {
		for n := min(ahead, window); n > 0; n-- {
			t.clear(seq - n)
		}
		t.missing += int64(ahead)
		t.next = seq + 1
		t.set(seq)
		return true
	}
	if t.next-seq > window || t.seen[seq/64%uint32(len(t.seen))]&(1<<(seq%64)) != 0 {
		t.duplicates++
		return false
	}
	t.set(seq)
	t.missing--
	t.reordered++
	return true
}

func (t *tracker) set(seq uint32)   { t.seen[seq/64%uint32(len(t.seen))] |= 1 << (seq % 64) }
func (t *tracker) clear(seq uint32) { t.seen[seq/64%uint32(len(t.seen))] &^= 1 << (seq % 64) }
