package presence_test

import (
	"path/filepath"
	"testing"
	"time"

	"rollcall/internal/clock/clocktest"
	"rollcall/internal/disconnect"
	"rollcall/internal/presence"
	"rollcall/internal/store/pebble"
)

// A wall clock that is set, either way and however far, trims nothing by
// itself, and what it has stamped meanwhile goes in its turn.
func TestTrimDisregardsWallClockJumps(t *testing.T) {
	const tenYears = 10 * 365 * 24 * time.Hour
	for _, jump := range []time.Duration{time.Hour, -time.Hour, tenYears, -tenYears} {
		t.Run(jump.String(), func(t *testing.T) {
			hand := clocktest.NewHand(time.Date(2037, 1, 1, 0, 0, 0, 0, time.UTC))
			e, err := pebble.Open(pebble.Options{Dir: filepath.Join(t.TempDir(), "store")})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			l, err := presence.Open(t.Context(), presence.Options{Engine: e, Node: "n", Clock: hand, Retention: presence.Retention{Age: 30 * time.Minute}})
			if err != nil {
				t.Fatal(err)
			}
			come := func() {
				release(t, mustClaim(t, l, "s", new(link)), disconnect.ConnectionLost, disconnect.Evidence{Kind: disconnect.Transport})
			}
			left := func() int {
				t.Helper()
				if err := l.TrimAll(t.Context()); err != nil {
					t.Fatal(err)
				}
				ts, _, err := l.History(realm, "s", presence.Page{Limit: 100})
				if err != nil {
					t.Fatal(err)
				}
				return len(ts)
			}
			come()
			hand.SetWall(jump)
			if n := left(); n != 2 {
				t.Errorf("%d transitions are left after the jump, want 2", n)
			}
			come()
			hand.SetWall(-jump)
			come()
			hand.Advance(29 * time.Minute)
			if n := left(); n != 6 {
				t.Errorf("%d transitions are left before their time, want 6", n)
			}
			come()
			hand.Advance(2 * time.Minute)
			if n := left(); n != 2 {
				t.Errorf("%d transitions are left after the others' time, want 2", n)
			}
		})
	}
}
