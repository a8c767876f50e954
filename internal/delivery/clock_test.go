package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/clock/clocktest"
	"rollcall/internal/delivery"
	"rollcall/internal/store"
)

// inThePresent gives the harness a clock that can be set, and that has been: a
// bubble begins in 2000, when no machine's clock is right.
func (h *harness) inThePresent() *clocktest.Moved {
	moved := new(clocktest.Moved)
	h.clock, h.ahead = moved, 26*365*24*time.Hour
	moved.SetWall(h.ahead)
	return moved
}

// A wall clock that is set makes nothing due, expires nothing, trims nothing and
// gives nothing up, nor does it hold anything back.
func TestWallClockIsSet(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour, 10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour} {
		t.Run(fmt.Sprint(jump), func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *harness) {
				moved := h.inThePresent()
				h.set.Retention = delivery.RetentionSettings{Age: 2 * time.Hour, Interval: time.Minute}
				failing, limited, probed := h.fake(), h.fake(), h.fake()
				failing.answer = status(500)
				limited.answer = func(_ context.Context, a delivery.Attempt) delivery.Result {
					if a.Earlier == 0 && a.Events[0].ID < "event-0010" {
						return with(delivery.OfStatus(429), 10*time.Minute)
					}
					return delivery.OfStatus(200)
				}
				probed.answer = func(context.Context, delivery.Attempt) delivery.Result {
					return delivery.Result{Verdict: delivery.TryLater, Outcome: delivery.NotFound}
				}
				paused := h.sub(4, h.fake())
				paused.Paused, paused.Retry.TTL = true, time.Hour
				h.start(h.sub(1, failing), h.sub(2, limited), h.sub(3, probed), paused)
				h.publish(1, 1, 2, 4)
				h.publish(10, 3) // ten failures: 5 minutes of probation
				h.sleep(5 * time.Second)
				moved.SetWall(jump)
				h.publish(1, 4) // accepted while the clock is wrong
				h.sleep(45 * time.Minute)
				moved.SetWall(-jump)
				h.publish(1, 2)
				h.sleep(5 * time.Minute)

				var want []time.Duration
				for _, s := range []int{0, 10, 40, 100, 400, 1000, 2800} {
					want = append(want, time.Duration(s)*time.Second)
				}
				if got := times(failing.attempts()); !slices.Equal(got, want) {
					t.Errorf("attempts at %v, want %v", got, want)
				}
				if got := times(limited.attempts()); len(got) != 3 || got[1] != 10*time.Minute {
					t.Errorf("attempts after Retry-After at %v", got)
				}
				if got := times(probed.attempts()); len(got) < 11 || got[10] != 5*time.Minute {
					t.Errorf("attempts during probation at %v", got)
				}
				for id, q := range h.queues {
					if got := q.Tally(); len(got.Dropped) != 0 {
						t.Errorf("subscription %d: %+v", id, got)
					}
				}
				if n := h.keys(store.TableEvent); n != 13 {
					t.Errorf("%d events are in the log, want 13", n)
				}
				h.sleep(15 * time.Minute) // by now the first event of the paused one is too old, the second is not quite
				paused.Paused = false
				h.put(paused)
				h.sleep(time.Second)
				if got := h.queues[4].Tally(); got.Delivered != 0 || got.Dropped["TimeToLiveExceeded"] != 2 {
					t.Errorf("events with a time to live of an hour, after 65 minutes: %+v", got)
				}
			})
		})
	}
}

// A wall clock that stays where it was set is believed after an hour, and what an
// earlier start left is judged by it.
func TestWallClockIsBelieved(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		moved := h.inThePresent()
		h.set.Retention = delivery.RetentionSettings{Age: 24 * time.Hour, Interval: time.Minute}
		paused := h.sub(1, h.fake())
		paused.Paused = true
		h.start(paused)
		h.publish(5, 1)
		h.sleep(time.Minute)
		h.stop()
		h.start(paused)
		moved.SetWall(48 * time.Hour)
		h.sleep(59 * time.Minute)
		if n := h.keys(store.TableEvent); n != 5 {
			t.Errorf("%d events are in the log before the clock is believed, want 5", n)
		}
		h.sleep(5 * time.Minute)
		if n := h.keys(store.TableEvent); n != 0 {
			t.Errorf("%d events are in the log afterwards, want none", n)
		}
	})
}

// What was accepted before a jump that was believed ages by the time that has
// passed since, not by the jump: neither when a clock is set that never was, as
// on boards without a battery, nor when it was wrong for hours.
func TestEventsDoNotAgeByJumps(t *testing.T) {
	for _, unset := range []bool{true, false} {
		t.Run(fmt.Sprint("unset ", unset), func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *harness) {
				moved := new(clocktest.Moved) // in 2000
				h.clock = moved
				if !unset {
					moved = h.inThePresent()
				}
				h.set.Retention = delivery.RetentionSettings{Age: 24 * time.Hour, Interval: time.Minute}
				paused := h.sub(1, h.fake())
				paused.Paused, paused.Retry.TTL = true, 3*time.Hour
				h.start(paused)
				h.publish(5, 1)
				h.sleep(time.Minute)
				if unset { // they outlive a start with a clock that is still not set
					h.stop()
					h.start(paused)
					h.publish(5, 1)
				} else {
					h.publish(5, 1)
				}
				moved.SetWall(26 * 365 * 24 * time.Hour)
				h.sleep(clock.Hold + 2*time.Minute)
				if n := h.keys(store.TableEvent); n != 10 {
					t.Errorf("%d events are in the log, want 10", n)
				}
				h.ahead += 26 * 365 * 24 * time.Hour // what is accepted by the steady time
				h.publish(1, 1)
				paused.Paused = false
				h.put(paused)
				h.sleep(time.Second)
				if got := h.queues[1].Tally(); got.Delivered != 11 || len(got.Dropped) != 0 {
					t.Errorf("%+v", got)
				}
				paused.Paused = true
				h.put(paused)
				h.publish(1, 1)
				h.sleep(4 * time.Hour)
				paused.Paused = false
				h.put(paused)
				h.sleep(time.Second)
				if got := h.queues[1].Tally(); got.Dropped["TimeToLiveExceeded"] != 1 {
					t.Errorf("an event of 4 hours ago with a time to live of 3: %+v", got)
				}
			})
		})
	}
}

// A clock that was set back between two starts, by years, delays nothing for
// longer than the schedule does.
func TestClockSetBackBetweenStarts(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		moved := h.inThePresent()
		f := h.fake()
		f.answer = func(_ context.Context, a delivery.Attempt) delivery.Result {
			if a.Earlier == 0 {
				return delivery.OfStatus(500)
			}
			return delivery.OfStatus(200)
		}
		h.start(h.sub(1, f))
		ids := h.publish(5, 1)
		h.sleep(time.Second)
		h.stop()
		moved.SetWall(-10 * 365 * 24 * time.Hour)
		h.start(h.sub(1, f))
		h.sleep(14 * time.Hour)
		onceEach(t, f, 2, ids...)
	})
}
