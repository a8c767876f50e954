package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/event"
	"rollcall/internal/store"
)

// P4: after an orderly stop nothing is delivered twice, attempts go on where
// they were.
func TestStopKeepsProgress(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		good, bad := h.fake(), h.fake()
		bad.answer = status(500)
		h.start(h.sub(1, good), h.sub(2, bad))
		ids := h.publish(20, 1, 2)
		h.sleep(15 * time.Second) // the second attempt of each was made
		onceEach(t, bad, 2, ids...)
		h.stop()
		h.sleep(time.Minute)
		h.start(h.sub(1, good), h.sub(2, bad))
		h.sleep(time.Second)
		onceEach(t, good, 1, ids...)
		onceEach(t, bad, 3, ids...)
		for _, s := range bad.attempts()[40:] {
			if s.earlier != 2 {
				t.Errorf("after the restart an attempt had %d earlier ones, want 2", s.earlier)
			}
		}
		tally := h.queues[1].Tally()
		if tally.Matched != 20 || tally.Delivered != 20 || tally.Backlog != 0 {
			t.Errorf("tally after the restart: %+v", tally)
		}
	})
}

// P4: a crash before any cursor was written delivers again what was not
// settled, and what has a retry record only when that is due.
func TestCrashRepeatsButNeverLoses(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.CursorInterval = time.Minute
		f := h.fake()
		f.answer = func(_ context.Context, a delivery.Attempt) delivery.Result {
			if a.Events[0].ID <= "event-0010" && a.Earlier == 0 {
				return delivery.OfStatus(500)
			}
			return delivery.OfStatus(200)
		}
		h.start(h.sub(1, f))
		ids := h.publish(30, 1)
		h.crash() // ten have retry records beyond the cursor, which was never written
		h.start(h.sub(1, f))
		h.sleep(time.Second)
		got := f.counts()
		for i, id := range ids {
			want := 2 // settled, but no cursor tells
			if i < 10 {
				want = 1 // its record is not due yet
			}
			if got[id] != want {
				t.Errorf("after the crash event %s was attempted %d times, want %d", id, got[id], want)
			}
		}
		h.sleep(20 * time.Second)
		got = f.counts()
		for _, id := range ids[:10] {
			if got[id] != 2 {
				t.Errorf("event %s was attempted %d times in the end, want 2", id, got[id])
			}
		}
		for _, s := range f.attempts() {
			if s.at >= 10*time.Second && s.earlier != 1 {
				t.Errorf("a retry had %d earlier attempts, want 1", s.earlier)
			}
		}
		if n := h.keys(store.TableRetry); n != 0 {
			t.Errorf("%d retry records are left", n)
		}
	})
}

// P4: crashes at random moments, with a destination that fails at random, a
// small window and an engine that delays and refuses: every event is settled
// in the end.
func TestRandomCrashes(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *harness) { randomCrashes(t, h, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func randomCrashes(t *testing.T, h *harness, r *rand.Rand) {
	h.set.WindowEvents = 8
	h.set.Schedule = []time.Duration{time.Second, 3 * time.Second}
	h.set.RetryFloor = 0
	taken := map[string]bool{}
	dice := rand.New(rand.NewPCG(r.Uint64(), 2)) // under the fake's lock
	f := h.fake()
	f.answer = func(ctx context.Context, a delivery.Attempt) delivery.Result {
		f.mu.Lock()
		wait, fails := time.Duration(dice.IntN(300))*time.Millisecond, dice.IntN(3) == 0
		f.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return delivery.Result{}
		}
		if fails {
			return delivery.OfStatus(500)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, e := range a.Events {
			taken[e.ID] = true
		}
		return delivery.OfStatus(200)
	}
	s := h.sub(1, f)
	s.Retry.MaxAttempts = 1 << 20
	var ids []string
	for range 6 {
		h.start(s)
		for range 5 {
			ids = append(ids, h.publish(r.IntN(30), 1)...)
			h.engine.set(func(b *store.Batch) error {
				f.mu.Lock()
				defer f.mu.Unlock()
				if b.Class() == store.Reserve && dice.IntN(4) == 0 {
					return store.ErrFull
				}
				return nil
			})
			h.sleep(time.Duration(r.IntN(2000)) * time.Millisecond)
		}
		h.engine.set(nil)
		if r.IntN(2) == 0 {
			h.crash()
		} else {
			h.stop()
		}
	}
	h.start(s)
	h.sleep(time.Hour)
	for _, id := range ids {
		if !taken[id] {
			t.Errorf("event %s was never taken", id)
		}
	}
	tally := h.queues[1].Tally()
	if tally.Backlog != 0 || tally.Retrying != 0 || tally.InFlight != 0 || len(tally.Dropped) != 0 {
		t.Errorf("in the end: %+v", tally)
	}
	if n := h.keys(store.TableRetry); n != 0 {
		t.Errorf("%d retry records are left", n)
	}
}

// P7: what exceeds the window is read from the log, once and completely.
func TestBacklogBeyondTheWindow(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.WindowEvents, h.set.MaxInFlight = 16, 2
		f := h.fake()
		f.answer = func(context.Context, delivery.Attempt) delivery.Result {
			time.Sleep(time.Millisecond)
			return delivery.OfStatus(200)
		}
		h.start(h.sub(1, f))
		var ids []string
		for range 10 { // notifications and reads interleave
			ids = append(ids, h.publish(100, 1)...)
			h.publish(5) // of nobody
			h.sleep(20 * time.Millisecond)
		}
		h.sleep(5 * time.Second)
		onceEach(t, f, 1, ids...)
		ids = append(ids, h.publish(3, 1)...) // and it has caught up
		h.sleep(time.Second)
		onceEach(t, f, 1, ids...)
		if got := h.queues[1].Tally(); got.Backlog != 0 || got.Delivered != uint64(len(ids)) {
			t.Errorf("tally %+v", got)
		}
	})
}

// An event larger than the rest of the window's bytes waits without spinning.
func TestLargeEvents(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.WindowBytes, h.set.MaxInFlight = 64<<10, 1
		f := h.fake()
		f.answer = func(context.Context, delivery.Attempt) delivery.Result {
			time.Sleep(time.Second)
			return delivery.OfStatus(200)
		}
		h.start(h.sub(1, f))
		data := []byte(`"` + string(slices.Repeat([]byte{'x'}, 60<<10)) + `"`)
		var ids []string
		for i := range 20 {
			h.next++
			id := fmt.Sprint("large-", i)
			h.publishEvent(&event.Event{ID: id, Data: data, Accepted: time.Now()}, 1)
			ids = append(ids, id)
		}
		h.sleep(time.Minute)
		onceEach(t, f, 1, ids...)
	})
}

// What a crash between the deletion of a subscription and that of its progress
// left behind is deleted at the next start.
func TestOrphansAreErased(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		f.answer = status(500)
		h.start(h.sub(1, f))
		h.publish(5, 1)
		h.stop()
		h.start(h.sub(2, h.fake()))
		h.sleep(time.Second)
		// What is left is the other subscription's.
		if h.keys(store.TableRetry) != 0 || h.keys(store.TableTally) != 1 || h.keys(store.TableCursor) != 4 {
			t.Errorf("left: %d retries, %d cursors, %d tallies", h.keys(store.TableRetry), h.keys(store.TableCursor), h.keys(store.TableTally))
		}
	})
}

// P7: while the store refuses progress nothing is lost or repeated, and it is
// not asked without pause.
func TestStoreFullOfProgress(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		f.answer = func(_ context.Context, a delivery.Attempt) delivery.Result {
			if a.Earlier == 0 {
				return delivery.OfStatus(500)
			}
			return delivery.OfStatus(200)
		}
		h.start(h.sub(1, f))
		var refused atomic.Int64
		h.engine.set(func(b *store.Batch) error {
			if b.Class() == store.Reserve {
				refused.Add(1)
				return store.ErrFull
			}
			return nil
		})
		ids := h.publish(10, 1)
		h.sleep(time.Minute)
		onceEach(t, f, 1, ids...)
		if n := refused.Load(); n > 1000 {
			t.Errorf("the store was asked %d times in a minute", n)
		}
		h.engine.set(nil)
		h.sleep(time.Minute)
		onceEach(t, f, 2, ids...)
		if got := h.queues[1].Tally(); got.Delivered != 10 || got.Backlog != 0 {
			t.Errorf("tally %+v", got)
		}
	})
}

func TestRetention(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.Retention = delivery.RetentionSettings{Age: time.Hour, Interval: time.Minute}
		h.set.WindowEvents, h.set.MaxInFlight = 4, 1
		f, g := h.fake(), h.fake()
		paused := h.sub(1, f)
		paused.Paused = true
		g.answer = status(500)
		failing := h.sub(2, g)
		failing.Retry.TTL = 24 * time.Hour
		h.start(paused, failing)
		h.publish(20, 1)
		h.publish(1, 2)
		h.sleep(30 * time.Minute)
		fresh := h.publish(20, 1)
		h.sleep(45 * time.Minute)
		if n := h.keys(store.TableEvent); n != 20 {
			t.Errorf("%d events in the log, want 20", n)
		}
		// Memory still has what its window took; the rest is gone.
		got := h.queues[1].Tally()
		if got.Dropped["RetentionExceeded"] != 16 {
			t.Errorf("dropped %v", got.Dropped)
		}
		paused.Paused = false
		h.put(paused)
		h.sleep(time.Second)
		for _, id := range fresh {
			if f.counts()[id] != 1 {
				t.Errorf("event %s was attempted %d times", id, f.counts()[id])
			}
		}
		h.sleep(2 * time.Hour) // the retry record outlives its event
		if got := h.queues[2].Tally(); got.Dropped["RetentionExceeded"] != 1 || got.Backlog != 0 {
			t.Errorf("failing subscription: %+v", got)
		}
	})
}

func TestRetentionBySize(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.Retention.Bytes = 20 << 10
		h.start(h.sub(1, h.fake()))
		h.publish(400, 1)
		h.sleep(2 * time.Minute)
		var size uint64
		for p := range h.engine.Partitions() {
			prefix := delivery.EventPrefix(uint8(p), realm)
			n, err := h.engine.Size(prefix, store.PrefixEnd(prefix))
			if err != nil {
				t.Fatal(err)
			}
			size += n
		}
		if size > 20<<10 || size < 18<<10 {
			t.Errorf("the log has %d bytes, want just below %d", size, 20<<10)
		}
	})
}

// unsure reports unknown for a commit that was made.
type unsure struct {
	*shaky
	next bool
}

func (u *unsure) Submit(b *store.Batch, done func(store.Result)) {
	if !u.next || b.Class() != store.Normal {
		u.shaky.Submit(b, done)
		return
	}
	u.next = false
	u.shaky.Submit(b, func(r store.Result) { done(store.Result{Err: errors.Join(store.ErrUnknown, r.Err)}) })
}

// P4: an event whose commit had an unknown outcome is delivered if it was
// stored.
func TestUnknownOutcome(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		u := &unsure{shaky: &shaky{Engine: h.engine.Engine}}
		h.engine.Engine = u
		f := h.fake()
		h.start(h.sub(1, f))
		ids := h.publish(4, 1)
		u.next = true
		ids = append(ids, h.publish(1, 1)...)
		ids = append(ids, h.publish(4, 1)...)
		h.sleep(time.Minute)
		onceEach(t, f, 1, ids...)
	})
}

// An attempt that ends after the dispatcher was told to stop counts if it ends
// within the grace, and is abandoned afterwards.
func TestShutdownGrace(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		f.answer = func(ctx context.Context, a delivery.Attempt) delivery.Result {
			wait := time.Second
			if a.Events[0].ID == "event-0002" {
				wait = time.Hour
			}
			select {
			case <-time.After(wait):
				return delivery.OfStatus(200)
			case <-ctx.Done():
				return delivery.Result{}
			}
		}
		h.start(h.sub(1, f))
		h.publish(2, 1)
		began := time.Now()
		h.stop()
		if took := time.Since(began); took != h.set.ShutdownGrace {
			t.Errorf("stopping took %v", took)
		}
		h.start(h.sub(1, f))
		h.sleep(time.Second)
		if got := f.counts(); got["event-0001"] != 1 || got["event-0002"] != 2 {
			t.Errorf("attempts %v", got)
		}
	})
}
