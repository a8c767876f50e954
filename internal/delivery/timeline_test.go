package delivery_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/event"
	"rollcall/internal/store"
)

func times(got []seen) []time.Duration {
	var at []time.Duration
	for _, s := range got {
		at = append(at, s.at)
	}
	return at
}

// P4: the documented schedule, then time to live, judged when the twelfth
// attempt is due.
func TestScheduleUntilTimeToLive(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		f.answer = status(500)
		h.start(h.sub(1, f))
		h.publish(1, 1)
		h.sleep(30 * time.Hour)
		if n := h.queues[1].Tally().Dropped["TimeToLiveExceeded"]; n != 0 {
			t.Errorf("dropped before the next attempt was due: %d", n)
		}
		h.sleep(10 * time.Hour)
		var want []time.Duration
		for _, s := range []int{0, 10, 40, 100, 400, 1000, 2800, 6400, 17200, 38800, 82000} {
			want = append(want, time.Duration(s)*time.Second)
		}
		if got := times(f.attempts()); !slices.Equal(got, want) {
			t.Errorf("attempts at %v, want %v", got, want)
		}
		for i, s := range f.attempts() {
			if s.earlier != i {
				t.Errorf("attempt %d has %d earlier ones", i, s.earlier)
			}
		}
		tally := h.queues[1].Tally()
		if tally.Dropped["TimeToLiveExceeded"] != 1 || tally.Backlog != 0 || tally.FailedAttempts["GenericError"] != 11 {
			t.Errorf("tally %+v", tally)
		}
		if n := h.keys(store.TableRetry); n != 0 {
			t.Errorf("%d retry records are left", n)
		}
	})
}

// http-webhook 1.0.2, 2.2: Retry-After holds the destination back, not one
// event. Then one attempt is made, and if it succeeds the rest.
func TestRetryAfterHoldsTheDestination(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		busy := true
		f.answer = func(ctx context.Context, a delivery.Attempt) delivery.Result {
			time.Sleep(100 * time.Millisecond)
			f.mu.Lock()
			defer f.mu.Unlock()
			if !busy || a.Events[0].ID == "event-0001" { // a success that was under way changes nothing
				return delivery.OfStatus(200)
			}
			return with(delivery.OfStatus(429), 20*time.Second)
		}
		h.start(h.sub(1, f))
		ids := h.publish(4, 1)
		h.sleep(time.Second)
		if got := h.queues[1].Tally(); got.ProbationUntil.Sub(h.began) != 20*time.Second+100*time.Millisecond {
			t.Errorf("nothing is attempted before %v", got.ProbationUntil)
		}
		for range 15 { // new events and old ones wait
			ids = append(ids, h.publish(2, 1)...)
			h.sleep(time.Second)
		}
		if n := len(f.attempts()); n != 4 {
			t.Errorf("%d attempts in spite of Retry-After", n-4)
		}
		h.sleep(5 * time.Second) // one probe, which is told to wait
		if n := len(f.attempts()); n != 5 {
			t.Errorf("%d probes after the time that was asked for, want 1", n-4)
		}
		f.mu.Lock()
		busy = false
		f.mu.Unlock()
		h.sleep(20 * time.Second)
		at := times(f.attempts())
		if probe, next := at[5], at[6]; next-probe != 100*time.Millisecond {
			t.Errorf("attempts at %v: the rest did not wait for the probe", at[4:])
		}
		h.sleep(time.Hour)
		if got := h.queues[1].Tally(); got.Delivered != uint64(len(ids)) || !got.ProbationUntil.IsZero() {
			t.Errorf("in the end: %+v", got)
		}
	})
}

func TestDelaysByAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		r    delivery.Result
		want time.Duration // between first and second attempt; 0: no second
	}{
		{"500", delivery.OfStatus(500), 10 * time.Second},
		{"302", delivery.OfStatus(302), 10 * time.Second},
		{"205", delivery.OfStatus(205), 10 * time.Second},
		{"404", delivery.OfStatus(404), 10 * time.Second},
		{"429", delivery.OfStatus(429), 10 * time.Second},
		{"408", delivery.OfStatus(408), 2 * time.Minute},
		{"503", delivery.OfStatus(503), 30 * time.Second},
		{"429 with Retry-After", with(delivery.OfStatus(429), 45*time.Second), 45 * time.Second},
		{"429 with long Retry-After", with(delivery.OfStatus(429), 5*time.Hour), time.Hour},
		{"503 with short Retry-After", with(delivery.OfStatus(503), time.Second), 30 * time.Second},
		{"timeout", delivery.Result{Verdict: delivery.TryLater, Outcome: delivery.TimedOut}, 10 * time.Second},
		{"400", delivery.OfStatus(400), 0},
		{"401", delivery.OfStatus(401), 0},
		{"403", delivery.OfStatus(403), 0},
		{"410", delivery.OfStatus(410), 0}, // Web Hooks for Event Delivery, 2.2
		{"413", delivery.OfStatus(413), 0},
		{"200", delivery.OfStatus(200), 0},
		{"204", delivery.OfStatus(204), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *harness) {
				f := h.fake()
				f.answer = func(context.Context, delivery.Attempt) delivery.Result { return c.r }
				s := h.sub(1, f)
				s.Retry.MaxAttempts = 2
				h.start(s)
				h.publish(1, 1)
				h.sleep(6 * time.Hour)
				got := times(f.attempts())
				want := []time.Duration{0}
				if c.want > 0 {
					want = append(want, c.want)
				}
				if !slices.Equal(got, want) {
					t.Errorf("attempts at %v, want %v", got, want)
				}
				tally := h.queues[1].Tally()
				reason := "MaxDeliveryAttemptsExceeded"
				switch {
				case c.r.Verdict == delivery.Refused:
					reason = "UndeliverableDueToClientError"
				case c.r.Verdict == delivery.Delivered:
					if tally.Delivered != 1 {
						t.Errorf("delivered %d", tally.Delivered)
					}
					return
				}
				if tally.Dropped[reason] != 1 {
					t.Errorf("dropped %v, want one for %s", tally.Dropped, reason)
				}
			})
		})
	}
}

func with(r delivery.Result, after time.Duration) delivery.Result {
	r.RetryAfter = after
	return r
}

func TestProbation(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		h.set.MaxInFlight = 1
		var down atomic.Bool
		down.Store(true)
		f.answer = func(context.Context, delivery.Attempt) delivery.Result {
			if down.Load() {
				return delivery.Result{Verdict: delivery.TryLater, Outcome: delivery.SocketError}
			}
			return delivery.OfStatus(200)
		}
		h.start(h.sub(1, f))
		ids := h.publish(40, 1)
		synctest.Wait()
		if n := len(f.attempts()); n != 10 { // the threshold
			t.Fatalf("%d attempts before probation, want 10", n)
		}
		if h.queues[1].Tally().ProbationUntil.IsZero() {
			t.Error("not on probation")
		}
		h.sleep(29 * time.Second)
		if n := len(f.attempts()); n != 10 {
			t.Errorf("%d attempts within the first window", n)
		}
		h.sleep(2 * time.Second) // one probe, then a window of 60 s
		if n := len(f.attempts()); n != 11 {
			t.Errorf("%d attempts after the first window, want 11", n)
		}
		h.sleep(58 * time.Second)
		if n := len(f.attempts()); n != 11 {
			t.Errorf("%d attempts within the second window, want 11", n)
		}
		down.Store(false)
		h.sleep(time.Hour)
		tally := h.queues[1].Tally()
		if tally.Delivered != uint64(len(ids)) || !tally.ProbationUntil.IsZero() {
			t.Errorf("after recovery: %+v", tally)
		}
		// What was held back was not attempted: each failed at most once.
		for id, n := range f.counts() {
			if n > 2 {
				t.Errorf("event %s was attempted %d times", id, n)
			}
		}
	})
}

func TestDeadLetterFiles(t *testing.T) {
	for _, schema := range []event.Schema{event.EventGrid, event.CloudEvents} {
		for _, delay := range []time.Duration{0, 5 * time.Minute} {
			t.Run(schema.String()+"/"+delay.String(), func(t *testing.T) {
				inBubble(t, func(t *testing.T, h *harness) { deadLetter(t, h, schema, delay) })
			})
		}
	}
}

func deadLetter(t *testing.T, h *harness, schema event.Schema, delay time.Duration) {
	h.set.DeadLetterDelay = delay
	f := h.fake()
	f.answer = func(_ context.Context, a delivery.Attempt) delivery.Result {
		if a.Events[0].ID == "event-0001" {
			return delivery.OfStatus(400)
		}
		return delivery.OfStatus(500)
	}
	s := h.sub(1, f)
	s.Schema, s.DeadLetter, s.Retry.MaxAttempts = schema, "dead", 2
	h.start(s)
	h.publish(2, 1)
	if delay > 0 {
		h.sleep(delay - time.Second)
		if got := deadFiles(t, h.root); len(got) != 0 {
			t.Errorf("files before the delay has passed: %v", got)
		}
	}
	h.sleep(time.Minute)
	files := deadFiles(t, h.root)
	if want := 1; delay > 0 && len(files) != want {
		t.Errorf("files %v, want %d that groups both", files, want)
	}
	var lines []map[string]any
	for _, name := range files {
		parts := strings.Split(name, string(filepath.Separator))
		now := time.Now().UTC()
		if len(parts) != 7 || parts[0] != "dead" || parts[1] != "SUB-1" || parts[2] != now.Format("2006") ||
			parts[3] != now.Format("1") || parts[4] != now.Format("2") || !strings.HasSuffix(parts[6], ".jsonl") {
			t.Errorf("path %q", name)
		}
		body, err := os.ReadFile(filepath.Join(h.root, name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(body)) {
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			lines = append(lines, m)
		}
	}
	if len(lines) != 2 {
		t.Fatalf("%d dead letters, want 2", len(lines))
	}
	slices.SortFunc(lines, func(a, b map[string]any) int { return strings.Compare(a["id"].(string), b["id"].(string)) })
	reason, attempts, outcome, published, last := "deadLetterReason", "deliveryAttempts", "lastDeliveryOutcome", "publishTime", "lastDeliveryAttemptTime"
	if schema == event.CloudEvents {
		reason, attempts, outcome, published, last = strings.ToLower(reason), strings.ToLower(attempts), strings.ToLower(outcome), strings.ToLower(published), strings.ToLower(last)
	}
	at := func(d time.Duration) string { return event.FormatTime(h.began.Add(d)) }
	for i, want := range []map[string]any{
		{reason: "UndeliverableDueToClientError", attempts: 1.0, outcome: "BadRequest", published: at(0), last: at(0)},
		{reason: "MaxDeliveryAttemptsExceeded", attempts: 2.0, outcome: "GenericError", published: at(0), last: at(10 * time.Second)},
	} {
		for k, v := range want {
			if lines[i][k] != v {
				t.Errorf("dead letter %d: %s is %v, want %v", i, k, lines[i][k], v)
			}
		}
	}
	tally := h.queues[1].Tally()
	if tally.DeadLettered != 2 || tally.Backlog != 0 || tally.Dying != 0 {
		t.Errorf("tally %+v", tally)
	}
	if n := h.keys(store.TableRetry); n != 0 {
		t.Errorf("%d retry records are left", n)
	}
}

func deadFiles(t testing.TB, root string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(root, path)
			files = append(files, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestDeadLetterDirectoryFails(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		if err := os.WriteFile(filepath.Join(h.root, "dead"), nil, 0o600); err != nil { // a file in the way
			t.Fatal(err)
		}
		f := h.fake()
		f.answer = status(400)
		s := h.sub(1, f)
		s.DeadLetter = "dead"
		h.start(s)
		h.publish(3, 1)
		h.sleep(4 * time.Hour)
		if got := h.queues[1].Tally(); got.Dying != 3 || len(got.Dropped) != 0 {
			t.Errorf("before giving up: %+v", got)
		}
		h.sleep(time.Hour)
		if got := h.queues[1].Tally(); got.Dying != 0 || got.Dropped["DeadLetterFailed"] != 3 {
			t.Errorf("after giving up: %+v", got)
		}
	})
}

func TestBatching(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.MaxInFlight = 1
		f := h.fake()
		f.group = func(e *event.Event) string { return e.Subject }
		s := h.sub(1, f)
		s.Batch, s.MaxEvents, s.PreferredBytes, s.Paused = true, 3, 1<<20, true
		h.start(s)
		for i, subject := range []string{"a", "a", "b", "b", "b", "b", "a"} {
			h.next = i
			h.publishEvent(&event.Event{ID: string(rune('0' + i)), Subject: subject, Accepted: time.Now()}, 1)
		}
		synctest.Wait()
		if n := len(f.attempts()); n != 0 {
			t.Fatalf("%d attempts while paused", n)
		}
		s.Paused = false
		h.put(s)
		synctest.Wait()
		var got []string
		for _, a := range f.attempts() {
			got = append(got, strings.Join(a.ids, ""))
		}
		if want := []string{"01", "234", "5", "6"}; !slices.Equal(got, want) {
			t.Errorf("batches %q, want %q", got, want)
		}
		big := &event.Event{ID: "big", Data: []byte(`"` + strings.Repeat("x", 2000) + `"`), Accepted: time.Now()}
		s.PreferredBytes, s.Paused = 1000, true
		h.put(s)
		for _, e := range []*event.Event{big, {ID: "s", Accepted: time.Now()}, {ID: "t", Accepted: time.Now()}} {
			h.next = 0
			h.publishEvent(e, 1)
		}
		synctest.Wait()
		s.Paused = false
		h.put(s)
		synctest.Wait()
		got = nil
		for _, a := range f.attempts()[4:] {
			got = append(got, strings.Join(a.ids, ""))
		}
		if want := []string{"big", "st"}; !slices.Equal(got, want) {
			t.Errorf("batches by size %q, want %q", got, want)
		}
	})
}

func TestRateOfEndpoint(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		s := h.sub(1, f)
		s.RatePerMinute = 120
		h.start(s)
		h.publish(10, 1)
		h.sleep(time.Minute)
		for i, a := range f.attempts() {
			if want := time.Duration(i) * 500 * time.Millisecond; a.at != want {
				t.Errorf("attempt %d at %v, want %v", i, a.at, want)
			}
		}
		if n := len(f.attempts()); n != 10 {
			t.Errorf("%d attempts, want 10", n)
		}
	})
}

// An event that comes while the destination is held back, with nothing else
// pending, is attempted when that ends.
func TestEventDuringProbation(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.Probation.Threshold = 1
		h.set.WindowEvents = 2
		var down atomic.Bool
		down.Store(true)
		f := h.fake()
		f.answer = func(context.Context, delivery.Attempt) delivery.Result {
			if down.Load() {
				return delivery.OfStatus(503)
			}
			return delivery.OfStatus(200)
		}
		s := h.sub(1, f)
		s.Retry.MaxAttempts = 1
		h.start(s)
		h.publish(1, 1) // dropped after one attempt: nothing is left to wake the queue
		down.Store(false)
		ids := h.publish(1, 1)
		h.sleep(10 * time.Second)
		if n := f.counts()[ids[0]]; n != 1 {
			t.Errorf("attempted %d times, want 1", n)
		}
	})
}
