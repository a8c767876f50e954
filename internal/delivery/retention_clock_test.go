package delivery_test

import (
	"testing"
	"time"
)

// A clock that was set back, or had not been set yet, between two starts makes
// the newer events of a log look older than those before them. A log goes from
// its front, however its events are dated: what is deleted is the surplus, and
// nothing that has just come.
func TestRetentionAfterTheClockWasSetBack(t *testing.T) {
	for _, test := range []struct {
		name  string
		ahead time.Duration
	}{
		{"an hour", -time.Hour},
		{"to 1970", -29 * 365 * 24 * time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *harness) {
				h.set.Retention.Bytes, h.set.WindowEvents = 100<<10, 8
				paused := h.sub(1, h.fake())
				paused.Paused = true
				h.start(paused)
				published := len(h.publish(400, 1))
				h.stop()
				h.ahead = test.ahead
				h.start(paused)
				published += len(h.publish(200, 1))
				h.stop()
				h.ahead = 0
				before := h.logBytes()
				h.start(paused)
				h.sleep(3 * time.Minute) // rounds of retention by age
				if lost := h.queues[1].Tally().Dropped["RetentionExceeded"]; lost > 0 {
					t.Errorf("%d of %d events of the last minutes are gone", lost, published)
				}
				h.set.Retention.Bytes = int64(before) * 97 / 100
				h.stop()
				h.start(paused)
				h.sleep(time.Minute)
				got := h.queues[1].Tally()
				if lost := got.Dropped["RetentionExceeded"]; lost == 0 || lost > uint64(published)/10 {
					t.Errorf("of %d events %d are gone for a surplus of 3 %%", published, lost)
				}
				if got.Backlog+got.Dropped["RetentionExceeded"] != uint64(published) {
					t.Errorf("of %d events: %+v", published, got)
				}
			})
		})
	}
}
