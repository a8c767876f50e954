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

// A start whose clock is not where the one before left it holds what stored
// times say, as a jump while it runs does; a machine that was off for a while
// does not.
func TestSteadyResume(t *testing.T) {
	last := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name         string
		shows        time.Time
		held, ending bool // for an hour; to what the clock shows
	}{
		{"at once", last.Add(time.Second), false, true},
		{"a weekend later", last.Add(60 * time.Hour), false, true},
		{"a minute before", last.Add(-time.Minute), true, true},
		{"a year before", last.AddDate(-1, 0, 0), true, true},
		{"ten years later", last.AddDate(10, 0, 0), true, true},
		{"1970", time.Unix(10, 0), true, false},
	} {
		hand := clocktest.NewHand(c.shows)
		s := clock.NewSteady(hand, nil)
		s.Resume(last)
		want := c.shows
		if c.held {
			want = last
		}
		if got := s.Steady(); !got.Equal(want) || (s.Jumped() != 0) != c.held {
			t.Errorf("%s: %v, jumped %v; want %v", c.name, got, s.Jumped(), want)
		}
		hand.Advance(clock.Hold)
		if !c.ending {
			want = last
		} else {
			want = c.shows
		}
		if got := s.Steady(); !got.Equal(want.Add(clock.Hold)) {
			t.Errorf("%s: an hour later %v, want %v", c.name, got, want.Add(clock.Hold))
		}
		if at := s.Steady(); s.Age(at) != 0 {
			t.Errorf("%s: ages %v", c.name, s.Age(at))
		}
	}
	for _, c := range []struct {
		off      time.Duration
		believed bool
	}{{72 * time.Hour, true}, {-time.Minute, false}, {2 * clock.Away, false}} {
		hand := clocktest.NewHand(time.Unix(10, 0)) // a machine without a battery
		s := clock.NewSteady(hand, nil)
		s.Resume(last)
		hand.Advance(time.Minute)
		before := s.Steady()
		hand.SetWall(last.Add(time.Minute + c.off).Sub(hand.Now()))
		want := last.Add(time.Minute)
		if c.believed {
			want = want.Add(c.off)
		}
		if got := s.Steady(); !got.Equal(want) {
			t.Errorf("set %v later: %v, want %v", c.off, got, want)
		}
		if age := s.Age(before); age != 0 {
			t.Errorf("set %v later: ages %v", c.off, age)
		}
		hand.SetWall(time.Hour) // another jump is one
		if got := s.Steady(); !got.Equal(want) {
			t.Errorf("set %v later, and again: %v, want %v", c.off, got, want)
		}
	}
	hand := clocktest.NewHand(last) // nothing was recorded, or by a clock that was not set
	s := clock.NewSteady(hand, nil)
	s.Resume(time.Time{})
	s.Resume(time.Unix(100, 0))
	if got := s.Steady(); !got.Equal(last) {
		t.Errorf("without a record: %v", got)
	}
}

// Ages are what has passed, through jumps that were believed.
func TestSteadyAge(t *testing.T) {
	hand := clocktest.NewHand(time.Unix(1000, 0))
	s := clock.NewSteady(hand, nil)
	earlier, first := time.Unix(10, 0), s.Steady()
	age := func(what string, of time.Time, want time.Duration) {
		t.Helper()
		if got := s.Age(of); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	hand.Advance(time.Minute)
	hand.SetWall(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Sub(hand.Now()))
	age("of an earlier start", earlier, time.Minute)
	age("from before the clock was set", first, time.Minute)
	second := s.Steady()
	hand.Advance(time.Minute)
	hand.SetWall(72 * time.Hour)
	s.Steady()
	hand.Advance(clock.Hold)
	held := s.Steady() // the jump is believed
	age("from before both", first, clock.Hold+2*time.Minute)
	age("from before the second", second, clock.Hold+time.Minute)
	age("from after", held, 0)
	hand.Advance(time.Minute)
	age("from after", held, time.Minute)
	age("of an earlier start, when the clock was right", second.Add(-24*time.Hour), 24*time.Hour+72*time.Hour+clock.Hold+2*time.Minute)
}
