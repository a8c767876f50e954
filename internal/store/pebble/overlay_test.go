package pebble

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"rollcall/internal/store"
)

// The overlay is compared with a map over several groups.
func TestOverlay(t *testing.T) {
	o := newOverlay()
	random := rand.New(rand.NewPCG(1, 1))
	for group := range 20 {
		want := map[string]store.Revision{}
		keys := 1 + random.IntN(3000) // beyond the size it starts with
		name := func() []byte { return fmt.Appendf(nil, "%05d", random.IntN(keys)) }
		for step := range 2000 {
			k := name()
			switch n := random.IntN(100); {
			case n < 60:
				o.set(k, store.Revision(step+1))
				want[string(k)] = store.Revision(step + 1)
			case n < 80:
				o.set(k, 0)
				want[string(k)] = 0
			case n < 82:
				lower, upper := k, name()
				o.deleteRange(lower, upper)
				for i := range keys {
					if x := fmt.Sprintf("%05d", i); x >= string(lower) && x < string(upper) {
						want[x] = 0
					}
				}
			default:
				rev, ok := o.revision(k)
				if w, touched := want[string(k)]; rev != w || ok != touched {
					t.Fatalf("group %d, step %d: %s is %d, %v; want %d, %v", group, step, k, rev, ok, w, touched)
				}
			}
		}
		o.reset()
	}
	if _, ok := o.revision([]byte("00001")); ok {
		t.Error("something is left after reset")
	}
}
