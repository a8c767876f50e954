package webhook_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/clock/clocktest"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
)

// Retry-After can be a date, in any of the forms that HTTP has.
func TestRetryAfterAsADate(t *testing.T) {
	hand := clocktest.NewHand(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	for value, want := range map[string]time.Duration{
		"Fri, 02 Jan 2026 03:05:05 GMT":  time.Minute,
		"Friday, 02-Jan-26 03:04:06 GMT": time.Second,
		"Fri Jan  2 04:04:05 2026":       time.Hour,
		"Fri, 02 Jan 2026 03:04:05 GMT":  0,
		"Thu, 01 Jan 2026 03:04:05 GMT":  0, // past
		" 90 ":                           90 * time.Second,
		"-1":                             0,
		"soon":                           0,
	} {
		r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", value)
			w.WriteHeader(503)
		})
		d := destination(t, newClient(t, webhook.Options{Rules: local, Clock: hand}), r.URL, event.EventGrid)
		if got := deliver(t, d, attempt(10)); got.RetryAfter != want {
			t.Errorf("Retry-After: %s: got %v, want %v", value, got.RetryAfter, want)
		}
		if got := d.Ask(context.Background(), question()); got.Consent != webhook.Unanswered || got.RetryAfter != want {
			t.Errorf("Retry-After: %s to a handshake: got %+v, want %v", value, got, want)
		}
		r.Close()
	}
}

// Only a status of success is consent to OPTIONS, whatever the header says.
func TestStatusOfConsentToOptions(t *testing.T) {
	for status, want := range map[int]webhook.Consent{
		200: webhook.Granted, 204: webhook.Granted, 299: webhook.Granted,
		300: webhook.Denied, 301: webhook.Denied, 302: webhook.Denied, 307: webhook.Denied, 399: webhook.Denied,
		400: webhook.Denied, 401: webhook.Denied, 405: webhook.Denied, 500: webhook.Denied,
		429: webhook.Unanswered, 503: webhook.Unanswered,
	} {
		r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WebHook-Allowed-Origin", "*")
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
		})
		d := destination(t, newClient(t, webhook.Options{Rules: local}), r.URL, event.CloudEvents)
		if got := d.Ask(context.Background(), question()); got.Consent != want {
			t.Errorf("%d: %+v, want %d", status, got, want)
		}
		if n := len(r.requests()); n != 1 {
			t.Errorf("%d: %d requests", status, n)
		}
		r.Close()
	}
}

// P7: 64 KiB of an answer are read: what comes later is no consent, and a
// receiver that does not stop is not listened to.
func TestAnswersAreReadToALimit(t *testing.T) {
	for _, c := range []struct {
		padding int
		want    webhook.Consent
	}{{60 << 10, webhook.Granted}, {64 << 10, webhook.Awaiting}} {
		r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(map[string]string{"a": strings.Repeat("x", c.padding), "validationResponse": "the-code"})
		})
		d := destination(t, newClient(t, webhook.Options{Rules: local}), r.URL, event.EventGrid)
		if got := d.Ask(context.Background(), question()); got.Consent != c.want {
			t.Errorf("%d bytes: %+v, want %d", c.padding, got, c.want)
		}
		r.Close()
	}
	var sent atomic.Int64
	over := make(chan struct{})
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		defer close(over)
		chunk := strings.Repeat("x", 4<<10)
		for sent.Load() < 64<<20 {
			n, err := io.WriteString(w, chunk)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	client := newClient(t, webhook.Options{Rules: local})
	deliver(t, destination(t, client, r.URL, event.EventGrid), attempt(10))
	select {
	case <-over:
	case <-time.After(10 * time.Second):
		t.Fatal("the receiver is still listened to")
	}
	if n := sent.Load(); n > 16<<20 { // what the kernel's buffers take
		t.Errorf("%d bytes of an answer were taken", n)
	}
}
