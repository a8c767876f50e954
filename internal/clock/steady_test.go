package clock_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/clock/clocktest"
)

func TestSteadyDisregardsJumps(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, jump := range []time.Duration{time.Hour, -time.Hour, 10 * 365 * 24 * time.Hour, -365 * 24 * time.Hour} {
		var log bytes.Buffer
		hand := clocktest.NewHand(start)
		s := clock.NewSteady(hand, slog.New(slog.NewTextHandler(&log, nil)))
		want := func(at time.Time) {
			t.Helper()
			if got := s.Steady(); !got.Equal(at) {
				t.Errorf("jump %v: got %v, want %v", jump, got, at)
			}
		}
		hand.Advance(time.Minute)
		want(start.Add(time.Minute))

		hand.SetWall(jump)
		want(start.Add(time.Minute))
		hand.Advance(59 * time.Minute)
		want(start.Add(time.Hour))
		if s.Jumped() != jump {
			t.Errorf("jumped %v, want %v", s.Jumped(), jump)
		}
		hand.SetWall(-jump) // back
		want(start.Add(time.Hour))
		if s.Jumped() != 0 {
			t.Errorf("jumped %v after it was back", s.Jumped())
		}

		hand.SetWall(jump)
		want(start.Add(time.Hour))
		hand.Advance(clock.Hold)
		want(start.Add(2*time.Hour + jump)) // believed
		if n := strings.Count(log.String(), "\n"); n != 4 {
			t.Errorf("jump %v: %d lines were logged, not jump, back, jump, believed:\n%s", jump, n, &log)
		}
	}
}

// A jump that is followed by another begins its hold anew.
func TestSteadyHoldsEachJump(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hand := clocktest.NewHand(start)
	s := clock.NewSteady(hand, nil)
	hand.SetWall(time.Hour)
	s.Steady()
	hand.Advance(50 * time.Minute)
	hand.SetWall(time.Hour)
	s.Steady()
	hand.Advance(50 * time.Minute)
	if got, want := s.Steady(), start.Add(100*time.Minute); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A clock that is slewed is followed.
func TestSteadyFollowsSlewing(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hand := clocktest.NewHand(start)
	s := clock.NewSteady(hand, nil)
	for range 100 {
		hand.Advance(time.Minute)
		hand.SetWall(100 * time.Millisecond)
		s.Steady()
	}
	if got, want := s.Steady(), start.Add(100*time.Minute+10*time.Second); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A clock that was never set is believed when it is, and one that loses its
// time is not.
func TestSteadyUnsetClock(t *testing.T) {
	hand := clocktest.NewHand(time.Unix(100, 0))
	s := clock.NewSteady(hand, nil)
	real := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hand.SetWall(real.Sub(hand.Now()))
	if got := s.Steady(); !got.Equal(real) {
		t.Errorf("got %v after the clock was set, want %v", got, real)
	}
	hand.SetWall(time.Unix(100, 0).Sub(real))
	s.Steady()
	hand.Advance(2 * clock.Hold)
	if got, want := s.Steady(), real.Add(2*clock.Hold); !got.Equal(want) {
		t.Errorf("got %v after the clock was lost, want %v", got, want)
	}
}

func TestSteadyOf(t *testing.T) {
	s := clock.NewSteady(clock.System{}, nil)
	if clock.SteadyOf(s) != s {
		t.Error("a steady clock was wrapped")
	}
	if d := time.Since(s.Steady()).Abs(); d > time.Second {
		t.Errorf("the steady clock is off by %v", d)
	}
}
