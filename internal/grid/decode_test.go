package grid_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/filter"
	"rollcall/internal/grid"
)

func TestDecodeProperties(t *testing.T) {
	got, err := grid.DecodeProperties([]byte(`{
		"topic":"/read/only","provisioningState":"Succeeded",
		"destination":{"endpointType":"webhook","properties":{"endpointUrl":"https://example.com/?k=v","endpointBaseUrl":"x",
			"maxEventsPerBatch":10,"preferredBatchSizeInKilobytes":128,"azureActiveDirectoryTenantId":"","minimumTlsVersionAllowed":"1.2",
			"deliveryAttributeMappings":[{"name":"a","type":"Static","properties":{"value":"v","isSecret":true}},
				{"name":"b","type":"dynamic","properties":{"sourceField":"data.x"}}]}},
		"filter":{"includedEventTypes":["A"],"subjectBeginsWith":"b","subjectEndsWith":"e","isSubjectCaseSensitive":true,"advancedFilters":[],"enableAdvancedFilteringOnArrays":false},
		"labels":["l"],"expirationTimeUtc":"2030-01-02T03:04:05Z","eventDeliverySchema":"cloudEventSchemaV1_0",
		"retryPolicy":{"maxDeliveryAttempts":5,"eventTimeToLiveInMinutes":60},
		"deadLetterDestination":null,"deliveryWithResourceIdentity":null,
		"rollcall":{"deadLetterDirectory":"dead","paused":true}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := grid.Properties{
		Destination: grid.WebHook{EndpointURL: "https://example.com/?k=v", MaxEventsPerBatch: 10, PreferredBatchKB: 128,
			Attributes: []webhook.Attribute{{Name: "a", Value: "v", Secret: true}, {Name: "b", SourceField: "data.x"}}},
		Filter: filter.Filter{IncludedEventTypes: []string{"A"}, SubjectBeginsWith: "b", SubjectEndsWith: "e", IsSubjectCaseSensitive: true},
		Labels: []string{"l"}, Expiration: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Schema: event.CloudEvents,
		Retry:               delivery.RetryPolicy{MaxAttempts: 5, TTL: time.Hour},
		DeadLetterDirectory: "dead", Paused: true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%#v\nwant\n%#v", got, want)
	}
}

// P8: what we do not have is refused by name.
func TestDecodeRefuses(t *testing.T) {
	const good = `"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://example.com/"}}`
	hook := func(member string) string {
		return `{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://example.com/",` + member + `}}}`
	}
	const in = "properties.destination.properties."
	for body, target := range map[string]string{
		`{}`:                         "properties.destination",
		`[]`:                         "properties",
		`{` + good + `,"unknown":1}`: "properties.unknown",
		`{` + good + `,"deliveryWithResourceIdentity":{}}`:                       "properties.deliveryWithResourceIdentity",
		`{` + good + `,"deadLetterWithResourceIdentity":{}}`:                     "properties.deadLetterWithResourceIdentity",
		`{` + good + `,"deadLetterDestination":{"endpointType":"StorageBlob"}}`:  "properties.deadLetterDestination",
		`{` + good + `,"eventDeliverySchema":"CustomInputSchema"}`:               "properties.eventDeliverySchema",
		`{` + good + `,"expirationTimeUtc":"tomorrow"}`:                          "properties.expirationTimeUtc",
		`{` + good + `,"labels":"x"}`:                                            "properties.labels",
		`{` + good + `,"filter":{"advancedFilters":[{}]}}`:                       "properties.filter.advancedFilters",
		`{` + good + `,"filter":{"enableAdvancedFilteringOnArrays":true}}`:       "properties.filter.enableAdvancedFilteringOnArrays",
		`{` + good + `,"filter":{"subjectIsCaseSensitive":true}}`:                "properties.filter.subjectIsCaseSensitive",
		`{` + good + `,"retryPolicy":{"maxDeliveryAttempts":0}}`:                 "properties.retryPolicy.maxDeliveryAttempts",
		`{` + good + `,"retryPolicy":{"eventTimeToLiveInMinutes":1441}}`:         "properties.retryPolicy.eventTimeToLiveInMinutes",
		`{` + good + `,"rollcall":{"x":1}}`:                                      "properties.rollcall.x",
		`{"destination":{"endpointType":"EventHub","properties":{}}}`:            "properties.destination.endpointType",
		`{"destination":{"properties":{}}}`:                                      "properties.destination.endpointType",
		hook(`"azureActiveDirectoryTenantId":"t"`):                               in + "azureActiveDirectoryTenantId",
		hook(`"azureActiveDirectoryApplicationIdOrUri":"t"`):                     in + "azureActiveDirectoryApplicationIdOrUri",
		hook(`"minimumTlsVersionAllowed":"1.0"`):                                 in + "minimumTlsVersionAllowed",
		hook(`"maxEventsPerBatch":0`):                                            in + "maxEventsPerBatch",
		hook(`"maxEventsPerBatch":1.5`):                                          in + "maxEventsPerBatch",
		hook(`"preferredBatchSizeInKilobytes":2000`):                             in + "preferredBatchSizeInKilobytes",
		hook(`"queueName":"q"`):                                                  in + "queueName",
		hook(`"deliveryAttributeMappings":[{"name":"a","type":"X"}]`):            in + "deliveryAttributeMappings[0].type",
		hook(`"deliveryAttributeMappings":[{"name":"a","type":"Dynamic"}]`):      in + "deliveryAttributeMappings[0].properties.sourceField",
		hook(`"deliveryAttributeMappings":[{"name":"a","type":"Static","x":1}]`): in + "deliveryAttributeMappings[0].x",
	} {
		_, err := grid.DecodeProperties([]byte(body))
		e, ok := fault.As(err)
		if !ok {
			t.Errorf("%s: %v", body, err)
			continue
		}
		targets := []string{e.Target}
		for _, d := range e.Details {
			targets = append(targets, d.Target)
		}
		if !slices.Contains(targets, target) {
			t.Errorf("%s: mistakes at %q, want %q", body, targets, target)
		}
	}
}

func TestDecodePatch(t *testing.T) {
	p, err := grid.DecodePatch([]byte(`{"labels":null,"expirationTimeUtc":null,"filter":null}`))
	if err != nil {
		t.Fatal(err)
	}
	have := grid.Properties{Labels: []string{"x"}, Expiration: time.Now(), Filter: filter.Filter{SubjectEndsWith: "e"}, Paused: true,
		Destination: grid.WebHook{EndpointURL: "https://example.com/"}}
	got := p.Apply(have)
	want := grid.Properties{Paused: true, Destination: have.Destination}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func FuzzDecodeProperties(f *testing.F) {
	f.Add([]byte(`{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://example.com/"}}}`))
	f.Add([]byte(`{"filter":{"includedEventTypes":null},"retryPolicy":{"maxDeliveryAttempts":1e3}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := grid.DecodeProperties(data)
		if err != nil {
			if e, ok := fault.As(err); !ok || !strings.HasPrefix(e.Target, "properties") {
				t.Fatalf("error %v", err)
			}
			return
		}
		body, err := grid.Subscription{Properties: p}.PropertiesJSON(true)
		if err != nil || !json.Valid(body) {
			t.Fatalf("rendered %s: %v", body, err)
		}
	})
}
