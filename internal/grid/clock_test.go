package grid_test

import (
	"fmt"
	"testing"
	"time"

	"rollcall/internal/clock/clocktest"
	"rollcall/internal/fault"
	"rollcall/internal/grid"
)

// A subscription expires when so much time has passed, whatever the wall clock
// was set to meanwhile, and it is looked at again until then.
func TestExpirationWhenTheClockIsSet(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour, 10 * 365 * 24 * time.Hour} {
		t.Run(fmt.Sprint(jump), func(t *testing.T) {
			hand := clocktest.NewHand(time.Now())
			began := hand.Monotonic()
			f := newFixture(t)
			f.clock = hand
			f.start()
			r := newReceiver(t)
			p := properties(r.URL)
			p.Expiration = hand.Now().Add(30 * time.Minute)
			f.put("one", p)
			f.awaitState("one", grid.Succeeded)
			hand.Advance(time.Minute)
			hand.SetWall(jump)
			for end := time.Now().Add(10 * time.Second); ; {
				changed, err := f.grid.Watch(source, "one")
				passed := hand.Monotonic() - began
				if hasCode(err, fault.NotFound) {
					if passed < 30*time.Minute {
						t.Errorf("it expired after %v, want 30 minutes", passed)
					}
					return
				}
				if passed > 50*time.Minute || time.Now().After(end) {
					t.Fatalf("it has not expired after %v", passed)
				}
				if passed < 29*time.Minute || passed >= 30*time.Minute {
					hand.Advance(30 * time.Second)
				} else {
					hand.Advance(time.Minute)
				}
				select { // what was called does its work
				case <-changed:
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
}
