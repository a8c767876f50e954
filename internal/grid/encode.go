package grid

import (
	"encoding/json"
	"time"

	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
)

// The JSON of a subscription's properties, in the order of documented samples.
type propertiesJSON struct {
	Topic       string          `json:"topic"`
	State       State           `json:"provisioningState"`
	Labels      []string        `json:"labels"`
	Schema      string          `json:"eventDeliverySchema"`
	Expiration  string          `json:"expirationTimeUtc,omitempty"`
	Filter      filterJSON      `json:"filter"`
	Destination destinationJSON `json:"destination"`
	Retry       retryJSON       `json:"retryPolicy"`
	Own         *ownJSON        `json:"rollcall,omitempty"` // only where something in it is set
}

type filterJSON struct {
	Begins string   `json:"subjectBeginsWith"`
	Ends   string   `json:"subjectEndsWith"`
	Types  []string `json:"includedEventTypes"`
	Exact  bool     `json:"isSubjectCaseSensitive"`
}

type destinationJSON struct {
	Properties webhookJSON `json:"properties"`
	Type       string      `json:"endpointType"`
}

type webhookJSON struct {
	MaxEvents   int             `json:"maxEventsPerBatch"`
	PreferredKB int             `json:"preferredBatchSizeInKilobytes"`
	BaseURL     string          `json:"endpointBaseUrl"`
	Attributes  []attributeJSON `json:"deliveryAttributeMappings,omitempty"`
}

type attributeJSON struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Properties any    `json:"properties"`
}

type staticJSON struct {
	Value  *string `json:"value"`
	Secret bool    `json:"isSecret"`
}

type dynamicJSON struct {
	SourceField string `json:"sourceField"`
}

type retryJSON struct {
	MaxAttempts int `json:"maxDeliveryAttempts"`
	TTL         int `json:"eventTimeToLiveInMinutes"`
}

type ownJSON struct {
	DeadLetterDirectory string `json:"deadLetterDirectory,omitempty"`
	Paused              bool   `json:"paused,omitempty"`
}

// PropertiesJSON is the properties object of the resource. It holds no
// endpoint URL and no secret header value, and of the endpoint's path a hash
// only unless the reader is trusted.
func (s Subscription) PropertiesJSON(trusted bool) (json.RawMessage, error) {
	p := s.Properties.withDefaults()
	out := propertiesJSON{
		Topic: s.Source.ID, State: s.State, Labels: p.Labels, Schema: p.Schema.String(),
		Filter: filterJSON{p.Filter.SubjectBeginsWith, p.Filter.SubjectEndsWith, p.Filter.IncludedEventTypes, p.Filter.IsSubjectCaseSensitive},
		Destination: destinationJSON{Type: "WebHook", Properties: webhookJSON{
			MaxEvents: max(1, p.Destination.MaxEventsPerBatch), PreferredKB: p.Destination.preferredKB(),
			BaseURL: p.Destination.Shown(trusted), Attributes: attributesJSON(p.Destination.Attributes, true)}},
		Retry: retryJSON{p.Retry.MaxAttempts, int(p.Retry.TTL / time.Minute)},
	}
	if !p.Expiration.IsZero() {
		out.Expiration = event.FormatTime(p.Expiration)
	}
	if p.DeadLetterDirectory != "" || p.Paused {
		out.Own = &ownJSON{p.DeadLetterDirectory, p.Paused}
	}
	return event.Marshal(out)
}

// AttributesJSON is the value of the reply that reveals all delivery
// attributes, secret ones too.
func (s Subscription) AttributesJSON() (json.RawMessage, error) {
	list := attributesJSON(s.Properties.Destination.Attributes, false)
	if list == nil {
		list = []attributeJSON{}
	}
	return event.Marshal(list)
}

// FullURL is the endpoint URL with its query string. It is a secret.
func (s Subscription) FullURL() string { return string(s.Properties.Destination.EndpointURL) }

func (w WebHook) preferredKB() int {
	if w.PreferredBatchKB == 0 {
		return 64
	}
	return w.PreferredBatchKB
}

func attributesJSON(attributes []webhook.Attribute, mask bool) []attributeJSON {
	var list []attributeJSON
	for _, a := range attributes {
		j := attributeJSON{Name: a.Name, Type: "Static"}
		if a.Dynamic() {
			j.Type, j.Properties = "Dynamic", dynamicJSON{a.SourceField}
		} else {
			v := &a.Value
			if mask && a.Secret {
				v = nil
			}
			j.Properties = staticJSON{v, a.Secret}
		}
		list = append(list, j)
	}
	return list
}
