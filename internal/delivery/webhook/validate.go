package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/event"
)

// Consent is what an endpoint says about being sent events.
type Consent uint8

// The kinds of consent.
const (
	Denied     Consent = iota + 1 // it answered, and not with consent
	Granted                       // it wants them
	Awaiting                      // it answered without saying; someone may confirm by URL
	Unanswered                    // no answer: ask again
)

// Answer is the result of one handshake request.
type Answer struct {
	Consent Consent
	// Rate is how many requests per minute the endpoint allows; 0: any number.
	Rate int
	// RetryAfter is how long an endpoint that is Unanswered asked to be left
	// alone; 0: it did not say.
	RetryAfter time.Duration
	// Detail says what happened, for people. It has no URL, code or body.
	Detail string
}

// Question is one handshake request.
type Question struct {
	Subscription string    // resource name
	Topic        string    // id of the source
	ID           string    // of the validation event
	Code         string    // what the endpoint sends back; a secret
	Callback     string    // URL at which consent can be given; a secret
	Now          time.Time // time of the validation event
}

// Ask asks the endpoint once whether it wants events: with a validation event
// in the Event Grid schema, with OPTIONS for CloudEvents.
func (d *Destination) Ask(ctx context.Context, q Question) Answer {
	if d.schema == event.CloudEvents {
		return d.askOptions(ctx, q)
	}
	return d.askEvent(ctx, q)
}

// askEvent is the handshake of the Event Grid schema: an event with a code,
// which the answer repeats.
func (d *Destination) askEvent(ctx context.Context, q Question) Answer {
	data, err := event.Marshal(struct {
		Code string `json:"validationCode"`
		URL  string `json:"validationUrl"`
	}{q.Code, q.Callback})
	if err != nil {
		return Answer{Consent: Denied, Detail: "the validation event cannot be made"}
	}
	e := &event.Event{
		ID: q.ID, Source: q.Topic, Type: "Microsoft.EventGrid.SubscriptionValidationEvent",
		Time: q.Now, DataVersion: "2", Data: data,
	}
	r := d.request(http.MethodPost, event.EventGrid.AppendBody(nil, []*event.Event{e}, true))
	d.announce(r.Header, "SubscriptionValidation", q.Subscription, e)
	got, err := d.client.do(ctx, r, true)
	if err != nil {
		return unanswered(ctx, err)
	}
	// Only 200 will do: 202 is fine for deliveries, not for consent.
	if got.status != http.StatusOK {
		return d.client.declined(got)
	}
	var reply map[string]any
	if json.Unmarshal(got.body, &reply) == nil {
		for name, v := range reply {
			if strings.EqualFold(name, "validationResponse") {
				if code, ok := v.(string); ok && strings.EqualFold(code, q.Code) {
					return Answer{Consent: Granted, Detail: "the endpoint sent the validation code back"}
				}
			}
		}
	}
	return Answer{Consent: Awaiting, Detail: "the endpoint answered 200 OK without the validation code"}
}

// askOptions is the abuse protection of CloudEvents webhooks.
func (d *Destination) askOptions(ctx context.Context, q Question) Answer {
	r := d.request(http.MethodOptions, nil)
	r.Header["WebHook-Request-Origin"] = []string{d.client.origin}
	if q.Callback != "" {
		r.Header["WebHook-Request-Callback"] = []string{q.Callback}
	}
	r.Header["WebHook-Request-Rate"] = []string{strconv.Itoa(d.client.rate)}
	d.decorate(r.Header, nil)
	got, err := d.client.do(ctx, r, false)
	if err != nil && got.status == 0 {
		return unanswered(ctx, err)
	}
	switch allowed := got.header.Values("WebHook-Allowed-Origin"); {
	case got.status < 200 || got.status > 299:
		return d.client.declined(got)
	case len(allowed) == 0:
		return Answer{Consent: Awaiting, Detail: "the endpoint answered " + statusText(got.status) + " without WebHook-Allowed-Origin"}
	case !allows(allowed, d.client.origin):
		return Answer{Consent: Denied, Detail: "WebHook-Allowed-Origin names another origin"}
	}
	return Answer{Consent: Granted, Rate: AllowedRate(got.header), Detail: "the endpoint allows this origin"}
}

// declined judges a status that is not consent: final, unless it says that the
// endpoint cannot answer just now.
func (c *Client) declined(got answer) Answer {
	a := Answer{Consent: Denied, Detail: "the endpoint answered " + statusText(got.status)}
	switch got.status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		a.Consent, a.RetryAfter = Unanswered, retryAfter(got.header.Get("Retry-After"), c.clock.Steady())
	}
	return a
}

// Permits judges the WebHook-Allowed-Origin of a request by which an endpoint
// gives its consent later (HTTP 1.1 Web Hooks for Event Delivery, 4.1.3): it
// must not name somebody else only.
func (c *Client) Permits(h http.Header) bool {
	allowed := h.Values("WebHook-Allowed-Origin")
	return len(allowed) == 0 || allows(allowed, c.origin)
}

// allows reports whether an origin is among those in the header values.
func allows(values []string, origin string) bool {
	for _, v := range values {
		for one := range strings.SplitSeq(v, ",") {
			one = strings.TrimSpace(one)
			if one == "*" || strings.EqualFold(one, origin) {
				return true
			}
		}
	}
	return false
}

// AllowedRate reads WebHook-Allowed-Rate: requests per minute, or * for any
// number, which is what anything else means too and is returned as 0.
func AllowedRate(h http.Header) int {
	n, err := strconv.Atoi(strings.TrimSpace(h.Get("WebHook-Allowed-Rate")))
	if err != nil || n < 0 {
		return 0
	}
	return min(n, 1_000_000)
}

// unanswered judges a handshake request that brought no answer.
func unanswered(ctx context.Context, err error) Answer {
	if errors.Is(err, errTarget) {
		return Answer{Consent: Denied, Detail: err.Error()[strings.Index(err.Error(), errTarget.Error()):]}
	}
	r := outcome(ctx, err)
	if r.Verdict == 0 {
		r.Detail = "the server is shutting down"
	}
	return Answer{Consent: Unanswered, Detail: r.Detail}
}

// announce adds the headers of an event that is not a notification.
func (d *Destination) announce(h http.Header, kind, subscription string, e *event.Event) {
	h["Content-Type"] = contentTypes(event.EventGrid, true)
	h["aeg-event-type"] = []string{kind}
	h["aeg-subscription-name"] = []string{strings.ToUpper(subscription)}
	h["aeg-delivery-count"] = []string{"0"}
	h["aeg-metadata-version"] = metadataVersion
	h["aeg-data-version"] = []string{e.DataVersion}
	d.decorate(h, e)
}

// Farewell tells the endpoint that its subscription is deleted: one attempt,
// whose outcome only says whether it was taken.
func (d *Destination) Farewell(ctx context.Context, name, topic, subscriptionID, eventID string, now time.Time) delivery.Result {
	data, err := event.Marshal(struct {
		ID string `json:"eventSubscriptionId"`
	}{subscriptionID})
	if err != nil {
		return delivery.Result{Verdict: delivery.Refused, Outcome: delivery.GenericError}
	}
	e := &event.Event{
		ID: eventID, Source: topic, Type: "Microsoft.EventGrid.SubscriptionDeletedEvent",
		Time: now, DataVersion: "1", Data: data,
	}
	r := d.request(http.MethodPost, d.schema.AppendBody(nil, []*event.Event{e}, false))
	d.announce(r.Header, "SubscriptionDeletion", name, e)
	if d.schema == event.CloudEvents {
		r.Header["Content-Type"] = contentTypes(d.schema, false)
		r.Header["aeg-data-version"] = []string{""}
		r.Header["Origin"] = []string{d.client.origin}
		r.Header["WebHook-Request-Origin"] = []string{d.client.origin}
	}
	got, err := d.client.do(ctx, r, false)
	if err != nil && got.status == 0 {
		return outcome(ctx, err)
	}
	return delivery.OfStatus(got.status)
}
