package delivery_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"rollcall/internal/delivery"
)

// hang is a destination that does not answer until it is let go.
func hang(let <-chan struct{}) func(context.Context, delivery.Attempt) delivery.Result {
	return func(ctx context.Context, _ delivery.Attempt) delivery.Result {
		select {
		case <-let:
			return delivery.OfStatus(500)
		case <-ctx.Done():
			return delivery.Result{}
		}
	}
}

// pendingIs fails unless a subscription has that many events pending, the
// oldest of which was accepted then.
func (h *harness) pendingIs(id uint64, want uint64, oldest time.Time) {
	h.t.Helper()
	got := h.queues[id].Tally()
	settled := got.Delivered + got.DeadLettered
	for _, n := range got.Dropped {
		settled += n
	}
	if got.Backlog != want || got.Matched != settled+want {
		h.t.Errorf("subscription %d: backlog %d, want %d; matched %d, settled %d", id, got.Backlog, want, got.Matched, settled)
	}
	if d := got.OldestPending.Sub(oldest); d > 0 || d < -time.Minute || want == 0 && !got.OldestPending.IsZero() {
		h.t.Errorf("subscription %d: the oldest pending is of %v, want %v", id, got.OldestPending, oldest)
	}
}

// What is pending after a crash is what the disk has: in the log beyond the
// cursor, in retry records, or both, whether or not any count was written.
func TestBacklogAfterACrashIsWhatIsStored(t *testing.T) {
	for name, interval := range map[string]time.Duration{"before progress was written": time.Minute, "afterwards": time.Second} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *harness) {
				h.set.WindowEvents, h.set.MaxInFlight, h.set.CursorInterval = 8, 2, interval
				h.set.ShutdownGrace = 0
				failing, slow, paused := h.fake(), h.fake(), h.sub(3, h.fake())
				let := make(chan struct{})
				failing.answer, slow.answer, paused.Paused = status(500), hang(let), true
				subs := []delivery.Subscription{h.sub(1, failing), h.sub(2, slow), paused}
				h.start(subs...)
				oldest := time.Now()
				for n := uint64(50); n <= 200; n += 50 {
					h.publish(50, 1, 2, 3)
					h.publish(7) // of nobody
					h.sleep(5 * time.Second)
					h.crash()
					h.start(subs...)
					for id := range uint64(3) {
						h.pendingIs(id+1, n, oldest)
					}
				}
				h.sleep(30 * time.Second)
				for id := range uint64(3) {
					h.pendingIs(id+1, 200, oldest)
				}
				close(let)
				for i := range subs {
					subs[i].Destination, subs[i].Paused = h.fake(), false
					h.put(subs[i])
				}
				h.sleep(time.Hour)
				for id := range uint64(3) {
					h.pendingIs(id+1, 0, time.Time{}.Add(time.Nanosecond))
				}
			})
		})
	}
}

// At any moment, and after any crash, no event is settled more often than it
// matched, and none that was not delivered is missing from the backlog.
func TestBacklogNeverLies(t *testing.T) {
	for seed := range uint64(4) {
		inBubble(t, func(t *testing.T, h *harness) {
			r, dice := rand.New(rand.NewPCG(seed, 3)), rand.New(rand.NewPCG(seed, 4)) // dice: under the fake's lock
			h.set.WindowEvents, h.set.RetryFloor = 8, 0
			h.set.Schedule = []time.Duration{time.Second, 3 * time.Second}
			f := h.fake()
			taken := map[string]bool{}
			f.answer = func(ctx context.Context, a delivery.Attempt) delivery.Result {
				f.mu.Lock()
				defer f.mu.Unlock()
				if dice.IntN(3) == 0 {
					return delivery.OfStatus(500)
				}
				taken[a.Events[0].ID] = true
				return delivery.OfStatus(200)
			}
			published := 0
			for range 12 {
				h.start(h.sub(1, f))
				for range 3 {
					published += len(h.publish(r.IntN(40), 1))
					h.sleep(time.Duration(r.IntN(1500)) * time.Millisecond)
					f.mu.Lock()
					missing := published - len(taken)
					f.mu.Unlock()
					got := h.queues[1].Tally()
					if got.Backlog < uint64(missing) || got.Matched < got.Delivered || got.Backlog < uint64(got.Retrying) {
						t.Fatalf("%d of %d events are not delivered; %+v", missing, published, got)
					}
				}
				h.crash()
			}
			h.start(h.sub(1, f))
			h.sleep(time.Hour)
			if got := h.queues[1].Tally(); got.Backlog != 0 || len(taken) != published {
				t.Errorf("in the end: %+v, %d of %d delivered", got, len(taken), published)
			}
		})
	}
}
