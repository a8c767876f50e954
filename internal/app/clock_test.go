package app

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/clock/clocktest"
	"rollcall/internal/store/pebble"
)

// The steady time is on disk when a start ends, and the next one, whose clock
// shows 1970, goes on from there.
func TestClockAcrossStarts(t *testing.T) {
	dir := t.TempDir() + "/store"
	last := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for i, shows := range []time.Time{last, time.Unix(10, 0), last.AddDate(10, 0, 0)} {
		e, err := pebble.Open(pebble.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		hand := clocktest.NewHand(shows)
		c := clock.NewSteady(hand, nil)
		resumeClock(e, c, slog.New(slog.DiscardHandler))
		if got := c.Steady(); !got.Equal(last) {
			t.Errorf("start %d begins at %v, want %v", i, got, last)
		}
		hand.Advance(time.Minute)
		last = last.Add(time.Minute)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := recordClock(ctx, e, c); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
