package webhook_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
)

func question() webhook.Question {
	return webhook.Question{
		Subscription: "My-sub", Topic: "/topic", ID: "event-id", Code: "the-code",
		Callback: "http://127.0.0.1:1/validate?token=secret", Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func TestEventGridHandshake(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var events []struct {
			Data struct{ ValidationCode string }
		}
		if json.Unmarshal(body, &events) != nil || len(events) != 1 {
			w.WriteHeader(400)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": events[0].Data.ValidationCode})
	}
	say := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   webhook.Consent
	}{
		{"echo", echo, webhook.Granted},
		{"other case", say(200, `{"ValidationResponse":"THE-CODE"}`), webhook.Granted},
		{"wrong code", say(200, `{"validationResponse":"x"}`), webhook.Awaiting},
		{"empty body", say(200, ""), webhook.Awaiting},
		{"not JSON", say(200, "ok"), webhook.Awaiting},
		{"201", say(201, `{"validationResponse":"the-code"}`), webhook.Denied},
		{"202", say(202, ""), webhook.Denied},
		{"204", say(204, ""), webhook.Denied},
		{"302", say(302, ""), webhook.Denied},
		{"404", say(404, ""), webhook.Denied},
		{"500", say(500, ""), webhook.Denied},
		{"huge", say(200, strings.Repeat("x", 1<<20)), webhook.Awaiting},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, webhook.Unanswered},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReceiver(t, c.answer)
			d := destination(t, newClient(t, webhook.Options{Rules: local}), r.URL+"/?code=k", event.EventGrid)
			got := d.Ask(context.Background(), question())
			if got.Consent != c.want || got.Detail == "" || strings.Contains(got.Detail, "the-code") {
				t.Errorf("%+v", got)
			}
		})
	}
	r := newReceiver(t, echo)
	d := destination(t, newClient(t, webhook.Options{Rules: local}), r.URL, event.EventGrid)
	d.Ask(context.Background(), question())
	got := r.requests()[0]
	want := `[{"id":"event-id","topic":"/topic","subject":"","eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","eventTime":"2026-01-02T03:04:05.0000000Z",` +
		`"data":{"validationCode":"the-code","validationUrl":"http://127.0.0.1:1/validate?token=secret"},"dataVersion":"2","metadataVersion":"1"}]`
	if got.body != want {
		t.Errorf("body\n%s\nwant\n%s", got.body, want)
	}
	for name, want := range map[string]string{
		"Aeg-Event-Type": "SubscriptionValidation", "Aeg-Subscription-Name": "MY-SUB", "Aeg-Delivery-Count": "0",
		"Aeg-Metadata-Version": "1", "Aeg-Data-Version": "2", "Content-Type": "application/json; charset=utf-8",
	} {
		if got.header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.header.Get(name), want)
		}
	}
}

func TestCloudEventsHandshake(t *testing.T) {
	say := func(status int, origin, rate string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if origin != "" {
				w.Header().Set("WebHook-Allowed-Origin", origin)
			}
			if rate != "" {
				w.Header().Set("WebHook-Allowed-Rate", rate)
			}
			w.WriteHeader(status)
		}
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   webhook.Consent
		rate   int
	}{
		{"origin", say(200, "eventgrid.azure.net", ""), webhook.Granted, 0},
		{"origin, other case", say(200, "EventGrid.Azure.NET", "100"), webhook.Granted, 100},
		{"any origin, any rate", say(204, "*", "*"), webhook.Granted, 0},
		{"list", say(200, "a.example, eventgrid.azure.net", ""), webhook.Granted, 0},
		{"other origin", say(200, "a.example", ""), webhook.Denied, 0},
		{"silent", say(200, "", ""), webhook.Awaiting, 0},
		{"405", say(405, "", ""), webhook.Denied, 0},
		{"403 with origin", say(403, "*", ""), webhook.Denied, 0},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, webhook.Unanswered, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReceiver(t, c.answer)
			d := destination(t, newClient(t, webhook.Options{Rules: local}), r.URL, event.CloudEvents)
			got := d.Ask(context.Background(), question())
			if got.Consent != c.want || got.Rate != c.rate {
				t.Errorf("%+v", got)
			}
			q := r.requests()[0]
			if q.method != http.MethodOptions || q.header.Get("WebHook-Request-Origin") != "eventgrid.azure.net" ||
				q.header.Get("WebHook-Request-Callback") != question().Callback || q.header.Get("WebHook-Request-Rate") != "120" {
				t.Errorf("%s %v", q.method, q.header)
			}
		})
	}
}

func TestFarewell(t *testing.T) {
	for _, s := range []event.Schema{event.EventGrid, event.CloudEvents} {
		r := newReceiver(t, nil)
		d := destination(t, newClient(t, webhook.Options{Rules: local}), r.URL, s)
		d.Farewell(context.Background(), "My-sub", "/topic", "/topic/providers/x/My-sub", "id", time.Now())
		got := r.requests()[0]
		if got.header.Get("Aeg-Event-Type") != "SubscriptionDeletion" || got.header.Get("Content-Type") != s.ContentType(false) {
			t.Errorf("%v", got.header)
		}
		if !strings.Contains(got.body, `"Microsoft.EventGrid.SubscriptionDeletedEvent"`) ||
			!strings.Contains(got.body, `"data":{"eventSubscriptionId":"/topic/providers/x/My-sub"}`) {
			t.Errorf("%s", got.body)
		}
	}
}
