package grid

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/filter"
	"rollcall/internal/store"
)

// State is the provisioning state of an event subscription.
type State string

// The states. A subscription matches events from the moment it first becomes
// Succeeded; afterwards it keeps what was in effect until a change succeeds.
const (
	Creating             State = "Creating" // the first handshake is under way
	Updating             State = "Updating" // a handshake with a new endpoint is under way
	AwaitingManualAction State = "AwaitingManualAction"
	Succeeded            State = "Succeeded"
	Failed               State = "Failed"
)

// settling reports whether the state will change by itself or by Confirm.
func (s State) settling() bool {
	return s == Creating || s == Updating || s == AwaitingManualAction
}

// Secret is text that is not shown: not in logs, not by formatting.
type Secret string

// String implements fmt.Stringer.
func (Secret) String() string { return "[secret]" }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return "[secret]" }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// WebHook is a webhook destination.
type WebHook struct {
	// EndpointURL takes the events. Its path and query string may carry a key: it
	// is returned whole by FullURL only, and without its query by BaseURL.
	EndpointURL Secret `json:"endpointUrl"`
	// MaxEventsPerBatch is 1 to 5000; 0: not set, which means 1.
	MaxEventsPerBatch int `json:"maxEventsPerBatch,omitempty"`
	// PreferredBatchKB is 1 to 1024; 0: not set, which means 64.
	PreferredBatchKB int `json:"preferredBatchSizeInKilobytes,omitempty"`
	// Attributes are headers added to each delivery, at most 10.
	Attributes []webhook.Attribute `json:"attributes,omitempty"`

	// shown is what a reader was shown of an endpoint, who writes it back: it
	// stands for the endpoint that has it. It is not stored.
	shown string
	// unnamed: no endpoint was written at all. Clients whose model calls
	// endpointBaseUrl read-only leave it out of what they write back, so that too
	// stands for the endpoint there is. It is not stored.
	unnamed bool
}

// BaseURL is the endpoint without its query string.
func (w WebHook) BaseURL() string {
	u, err := url.Parse(string(w.EndpointURL))
	if err != nil {
		return ""
	}
	u.RawQuery, u.ForceQuery, u.User, u.Fragment = "", false, nil, ""
	return u.String()
}

// Disguised is the endpoint for logs, texts and readers who may not see secrets:
// its host and, as many services have the key in the path, of the rest a hash
// only, by which two endpoints can be told apart.
func (w WebHook) Disguised() string {
	u, err := url.Parse(string(w.EndpointURL))
	if err != nil {
		return ""
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}
	if u.EscapedPath() == "" || u.EscapedPath() == "/" {
		return w.BaseURL()
	}
	sum := sha256.Sum256([]byte(w.EndpointURL))
	shown.Fragment = hex.EncodeToString(sum[:6])
	return shown.String()
}

// Shown is what a reader is shown of the endpoint.
func (w WebHook) Shown(trusted bool) string {
	if trusted {
		return w.BaseURL()
	}
	return w.Disguised()
}

// shows reports whether readers of w may have been shown text.
func (w WebHook) shows(text string) bool { return text == w.BaseURL() || text == w.Disguised() }

// batching reports whether a request may carry several events: if more than one
// is asked for. The size that a batch should have says nothing about that: what a
// reader is shown has one.
func (w WebHook) batching() bool { return w.MaxEventsPerBatch > 1 }

// keeping returns w with what readers are not shown, and so cannot write back,
// as old has it: an endpoint's query string and the values of secret headers.
func (w WebHook) keeping(old WebHook) WebHook {
	if w.EndpointURL == "" && (w.unnamed || w.shown != "" && old.shows(w.shown)) {
		w.EndpointURL = old.EndpointURL
	}
	w.Attributes = slices.Clone(w.Attributes)
	for i, a := range w.Attributes {
		if !a.Secret || a.Value != "" || a.Dynamic() {
			continue
		}
		for _, have := range old.Attributes {
			if have.Secret && strings.EqualFold(have.Name, a.Name) {
				w.Attributes[i].Value = have.Value
			}
		}
	}
	return w
}

// hides reports whether w lacks what keeping may put in.
func (w WebHook) hides() bool {
	return w.EndpointURL == "" && (w.unnamed || w.shown != "") ||
		slices.ContainsFunc(w.Attributes, func(a webhook.Attribute) bool { return a.Secret && a.Value == "" && !a.Dynamic() })
}

// Properties are what a caller says about an event subscription.
type Properties struct {
	Destination WebHook              `json:"destination"`
	Filter      filter.Filter        `json:"filter"`
	Labels      []string             `json:"labels"`     // nil: never set
	Expiration  time.Time            `json:"expiration"` // zero: never
	Schema      event.Schema         `json:"schema"`     // of deliveries; zero means EventGrid
	Retry       delivery.RetryPolicy `json:"retry"`      // zero members mean 30 and 24 h

	// DeadLetterDirectory, below the configured root, takes events that are
	// given up. Empty: they are dropped.
	DeadLetterDirectory string `json:"deadLetterDirectory,omitempty"`
	// Paused holds deliveries back; events accumulate.
	Paused bool `json:"paused,omitempty"`
}

// Step is one thing that happened while an endpoint was asked for its consent.
type Step struct {
	Time event.Time `json:"time"`
	Text string     `json:"text"` // no secret, code or query string
}

// Subscription is an event subscription as it stands.
type Subscription struct {
	ID         uint64 // within the store, never reused
	Name       string
	Source     Source
	State      State
	Properties Properties // as asked for; in effect once Succeeded
	Created    time.Time
	Updated    time.Time
	Revision   store.Revision // changes with every write; an entity tag
	Narration  []Step         // what came of asking the endpoint, oldest first
	// Failure says why the State is Failed.
	Failure *fault.Error
	// Matching reports whether events are matched: it was Succeeded once.
	Matching bool
}

// ResourceID is the id of the subscription as an extension of its source.
func (s Subscription) ResourceID() string {
	return s.Source.ID + "/providers/Microsoft.EventGrid/eventSubscriptions/" + s.Name
}

// Source is who emits events: a namespace, a hub, a topic.
type Source struct {
	Realm string // unique short name, for instance "namespace/default"; part of keys
	ID    string // resource id; the topic of events and the scope of subscriptions
}

// Patch is a partial change of a subscription. Nil members stay as they are.
// Destination, Filter and Retry return theirs with what is changed.
type Patch struct {
	Destination         func(WebHook) WebHook
	Filter              func(filter.Filter) filter.Filter
	Labels              *[]string
	Expiration          *time.Time
	Schema              *event.Schema
	Retry               func(delivery.RetryPolicy) delivery.RetryPolicy
	DeadLetterDirectory *string
	Paused              *bool
}

// Apply returns p with the changes of c.
func (c Patch) Apply(p Properties) Properties {
	change(&p.Destination, c.Destination)
	change(&p.Filter, c.Filter)
	set(&p.Labels, c.Labels)
	set(&p.Expiration, c.Expiration)
	set(&p.Schema, c.Schema)
	change(&p.Retry, c.Retry)
	set(&p.DeadLetterDirectory, c.DeadLetterDirectory)
	set(&p.Paused, c.Paused)
	return p
}

func change[T any](dst *T, f func(T) T) {
	if f != nil {
		*dst = f(*dst)
	}
}

func set[T any](dst, src *T) {
	if src != nil {
		*dst = *src
	}
}

// withDefaults fills in what was not said.
func (p Properties) withDefaults() Properties {
	if p.Schema == 0 {
		p.Schema = event.EventGrid
	}
	if p.Retry.MaxAttempts == 0 {
		p.Retry.MaxAttempts = maxAttempts
	}
	if p.Retry.TTL == 0 {
		p.Retry.TTL = maxTTL
	}
	return p
}
