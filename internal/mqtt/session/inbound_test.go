package session

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestInboundInAnyOrder: packet ids in whatever order, few or many, are known,
// forgotten and listed in order.
func TestInboundInAnyOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	var b inbound
	model := make(map[uint16]bool)
	for step := range 30_000 {
		id := uint16(1 + random.IntN(400))
		if step > 20_000 && len(model) > 0 { // until none is left
			for id = range model {
				break
			}
		}
		if got := b.find(id) != nil; got != model[id] {
			t.Fatalf("%d is known: %v, want %v", id, got, model[id])
		}
		switch {
		case model[id]:
			if r, ok := b.remove(id); !ok || r.id != id {
				t.Fatalf("remove %d: %+v %v", id, r, ok)
			}
			delete(model, id)
		case step <= 20_000:
			b.add(receipt{id: id})
			model[id] = true
		}
		if step%100 == 0 {
			var ids, want []uint16
			for _, r := range b.all() {
				ids = append(ids, r.id)
			}
			for id := range model {
				want = append(want, id)
			}
			slices.Sort(want)
			if !slices.Equal(ids, want) {
				t.Fatalf("%v, want %v", ids, want)
			}
		}
	}
	if b.index != nil || len(b.list) != 0 {
		t.Errorf("%d are left", len(b.list))
	}
}

// BenchmarkInboundDescending is a client that takes its ids from above.
func BenchmarkInboundDescending(b *testing.B) {
	for b.Loop() {
		var in inbound
		for id := 65535; id > 0; id-- {
			in.add(receipt{id: uint16(id)})
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/65535, "ns/id")
}
