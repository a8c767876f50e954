package broker

import (
	"fmt"
	"slices"
	"testing"
)

// Replays wait in the order in which they were asked for, once for each filter;
// what is left of those that were taken out does not pile up.
func TestReplaysWaitInOrder(t *testing.T) {
	var q replays
	put := func(filter string, notes uint64) {
		p := replay{notes: notes}
		p.Filter = filter
		q.put(p)
	}
	if _, ok := q.take(); ok {
		t.Error("something waits")
	}
	for i, f := range []string{"a", "b", "c", "a", "d"} {
		put(f, uint64(i))
	}
	q.remove([]string{"b", "x"})
	put("b", 9)
	var got []string
	for p, ok := q.take(); ok; p, ok = q.take() {
		got = append(got, fmt.Sprint(p.Filter, p.notes))
	}
	if want := []string{"a3", "c2", "d4", "b9"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for i := range 1000 {
		for f := range 10 {
			put(fmt.Sprint(f), uint64(i))
		}
		q.remove([]string{"1", "3", "5", "7", "9"})
	}
	if len(q.by) != 5 || len(q.order) > 10 {
		t.Errorf("%d wait, %d are remembered", len(q.by), len(q.order))
	}
}

// One UNSUBSCRIBE with very many filters, of a client whose subscriptions all
// wait for their retained messages.
func BenchmarkUnsubscribeBehindReplays(b *testing.B) {
	filters := make([]string, 100_000)
	for i := range filters {
		filters[i] = fmt.Sprint("f", i)
	}
	b.ReportAllocs()
	for b.Loop() {
		var q replays
		for i := range 10_000 {
			var p replay
			p.Filter = fmt.Sprint("r", i)
			q.put(p)
		}
		q.remove(filters)
	}
}
