package delivery_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/store"
)

// P6: thirty subscriptions that hang take nothing away from one that does not.
func TestIsolation(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.Workers, h.set.MaxInFlight = 64, 32
		var subs []delivery.Subscription
		var all []uint64
		for id := range uint64(31) {
			f := h.fake()
			if id > 0 {
				f.answer = func(ctx context.Context, _ delivery.Attempt) delivery.Result {
					select {
					case <-time.After(30 * time.Second):
					case <-ctx.Done():
					}
					return delivery.Result{Verdict: delivery.TryLater, Outcome: delivery.TimedOut}
				}
			}
			subs = append(subs, h.sub(id+1, f))
			all = append(all, id+1)
		}
		h.start(subs...)
		good := subs[0].Destination.(*fake)
		for range 60 { // far beyond all windows
			ids := h.publish(50, all...)
			last := good.attempts()
			if len(last) == 0 || time.Since(h.began)-last[len(last)-1].at > 0 {
				t.Fatal("the healthy subscription was not served at once")
			}
			if got := good.counts(); got[ids[len(ids)-1]] != 1 {
				t.Fatalf("the newest event was attempted %d times by the healthy subscription", got[ids[len(ids)-1]])
			}
			h.sleep(time.Second)
		}
	})
}

// Under many hanging subscriptions each gets a share of the workers.
func TestFairShare(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.Workers, h.set.MaxInFlight = 60, 1000
		hang := func(ctx context.Context, _ delivery.Attempt) delivery.Result {
			<-ctx.Done()
			return delivery.Result{}
		}
		var subs []delivery.Subscription
		for id := range uint64(3) {
			f := h.fake()
			f.answer = hang
			subs = append(subs, h.sub(id+1, f))
		}
		h.set.ShutdownGrace = 0
		h.start(subs...)
		h.publish(500, 1)
		h.publish(500, 2)
		h.publish(500, 3)
		for i, want := range []int{30, 15, 8} { // half of what is left
			if n := len(subs[i].Destination.(*fake).attempts()); n < want-1 || n > want+1 {
				t.Errorf("subscription %d has %d attempts under way, want about %d", i+1, n, want)
			}
		}
	})
}

func TestPauseKeepsTimeToLiveRunning(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		s := h.sub(1, f)
		s.Retry.TTL, s.Paused = time.Minute, true
		h.start(s)
		h.publish(5, 1)
		h.sleep(2 * time.Minute)
		fresh := h.publish(5, 1)
		if got := h.queues[1].Tally(); got.Backlog != 10 || len(got.Dropped) != 0 {
			t.Errorf("while paused: %+v", got)
		}
		s.Paused = false
		h.put(s)
		synctest.Wait()
		onceEach(t, f, 1, fresh...)
		if got := h.queues[1].Tally(); got.Dropped["TimeToLiveExceeded"] != 5 || got.Backlog != 0 {
			t.Errorf("after the pause: %+v", got)
		}
	})
}

func TestChangedDestinationTakesPendingEvents(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		old, other := h.fake(), h.fake()
		old.answer = func(context.Context, delivery.Attempt) delivery.Result {
			return delivery.Result{Verdict: delivery.TryLater, Outcome: delivery.NotFound}
		}
		h.start(h.sub(1, old))
		ids := h.publish(30, 1) // ten failures: on probation for minutes
		h.put(h.sub(1, other))
		h.sleep(10 * time.Minute)
		got := other.counts()
		for _, id := range ids {
			if got[id] != 1 {
				t.Errorf("event %s reached the new destination %d times", id, got[id])
			}
		}
	})
}

// Answers that a replaced destination still gives say nothing about the new
// one: it is not put on probation for them, and no event is given up.
func TestAnswersOfAReplacedDestination(t *testing.T) {
	for name, answer := range map[string]delivery.Result{
		"failures": {Verdict: delivery.TryLater, Outcome: delivery.NotFound}, "refusals": delivery.OfStatus(401),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *harness) {
				old, other := h.fake(), h.fake()
				old.answer = func(context.Context, delivery.Attempt) delivery.Result {
					time.Sleep(time.Second)
					return answer
				}
				h.start(h.sub(1, old))
				ids := h.publish(20, 1) // more than what begins a probation
				h.put(h.sub(1, other))
				h.sleep(2 * time.Second)
				onceEach(t, other, 1, ids...)
				for _, s := range other.attempts() {
					if s.earlier != 0 {
						t.Errorf("an event reached the new destination with %d earlier attempts", s.earlier)
					}
				}
				got := h.queues[1].Tally()
				if got.Delivered != 20 || len(got.Dropped) != 0 || !got.ProbationUntil.IsZero() || got.LastError != nil {
					t.Errorf("tally %+v", got)
				}
			})
		})
	}
}

func TestRemove(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		release := make(chan struct{})
		f.answer = func(_ context.Context, a delivery.Attempt) delivery.Result {
			if a.Events[0].ID == "event-0021" {
				<-release // answers only after the removal
			}
			return delivery.OfStatus(500)
		}
		other := h.fake()
		h.start(h.sub(1, f), h.sub(2, other))
		h.publish(20, 1, 2)
		h.sleep(2 * time.Second)
		if h.keys(store.TableRetry) != 20 || h.keys(store.TableCursor) == 0 || h.keys(store.TableTally) != 2 {
			t.Fatalf("before: %d retries, %d cursors, %d tallies", h.keys(store.TableRetry), h.keys(store.TableCursor), h.keys(store.TableTally))
		}
		h.publish(1, 1)
		q := h.queues[1]
		h.d.Remove(1)
		close(release)
		h.sleep(time.Minute)
		if n := len(f.attempts()); n != 21 {
			t.Errorf("%d attempts, want none after the removal", n-21)
		}
		if n := q.Tally().Dropped["SubscriptionDeleted"]; n != 21 {
			t.Errorf("%d events dropped, want 21", n)
		}
		if h.keys(store.TableRetry) != 0 || h.keys(store.TableTally) != 1 {
			t.Errorf("after: %d retries, %d tallies", h.keys(store.TableRetry), h.keys(store.TableTally))
		}
	})
}

// goroutines is how many there are. runtime.NumGoroutine counts those that have
// ended until they are on a list to be used again, and 33 of them at once are on
// their way from one list to another; the profile counts while the world stands
// still. Too short a slice gets the number and nothing else.
func goroutines() int {
	n, _ := runtime.GoroutineProfile(make([]runtime.StackRecord, 1))
	return n
}

// A subscription with nothing to do costs no goroutine.
func TestIdleSubscriptionsCostNoGoroutine(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.start()
		before := goroutines()
		var all []uint64
		var f *fake
		for id := range uint64(200) {
			f = h.fake()
			h.put(h.sub(id+1, f))
			all = append(all, id+1)
		}
		ids := h.publish(5, all...)
		h.sleep(10 * time.Second)
		onceEach(t, f, 1, ids...)
		if after := goroutines(); after > before {
			t.Errorf("%d goroutines, %d before", after, before)
		}
	})
}
