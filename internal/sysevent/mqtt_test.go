package sysevent_test

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"rollcall/internal/event"
	"rollcall/internal/sysevent"
)

var ns = sysevent.Namespace{
	Name: "myns",
	ID:   "/subscriptions/aaaa0a0a-bb1b-cc2c-dd3d-eeeeee4e4e4e/resourceGroups/myrg/providers/Microsoft.EventGrid/namespaces/myns",
}

func stamp(t *testing.T, id, at string) sysevent.Stamp {
	t.Helper()
	return sysevent.Stamp{ID: id, Time: parse(t, at)}
}

func parse(t *testing.T, at string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339Nano, at)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// TestDocumentedSamples renders each documented event and compares it with the
// documented sample, member by member in order, white space aside.
func TestDocumentedSamples(t *testing.T) {
	session := sysevent.Session{AuthenticationName: "client1", Name: "session1", Number: 1}
	upserted, err := sysevent.ClientCreatedOrUpdated(ns,
		stamp(t, "383d1562-c95f-4095-936c-688e72c6b2bb", "2023-07-29T01:14:35.8928724Z"),
		sysevent.Client{
			Name: "client1", AuthenticationName: "client1", State: "Enabled",
			CreatedOn:  parse(t, "2023-07-29T01:14:34.2048108Z"),
			UpdatedOn:  parse(t, "2023-07-29T01:14:34.2048108Z"),
			Attributes: map[string]any{"attribute1": "value1"},
		})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		file string
		got  *event.Event
	}{
		{"connected.json", sysevent.SessionConnected(ns,
			stamp(t, "5249c38a-a048-46dd-8f60-df34fcdab06c", "2023-07-29T01:23:49.6454046Z"), session)},
		{"disconnected.json", sysevent.SessionDisconnected(ns,
			stamp(t, "e30e5174-787d-4e19-8812-580148bfcf7b", "2023-07-29T01:27:40.2446871Z"), session, "ClientInitiatedDisconnect")},
		{"upserted.json", upserted},
		{"deleted.json", sysevent.ClientDeleted(ns,
			stamp(t, "2a93aaf9-66c2-4f8e-9ba3-8d899c10bf17", "2023-07-29T01:30:52.5620566Z"), "client1", "client1")},
	} {
		t.Run(tc.file, func(t *testing.T) {
			sample, err := os.ReadFile("testdata/" + tc.file)
			if err != nil {
				t.Fatal(err)
			}
			var array []json.RawMessage // the samples are arrays of one element
			if err := json.Unmarshal(sample, &array); err != nil || len(array) != 1 {
				t.Fatalf("%s: %d elements, %v", tc.file, len(array), err)
			}
			want := compact(t, array[0])
			got := tc.got.AppendCloudEvent(nil)
			if !bytes.Equal(got, want) {
				t.Errorf("CloudEvents\n got %s\nwant %s", got, want)
			}
			checkEventGrid(t, tc.got, want)
		})
	}
}

// checkEventGrid compares the Event Grid form with the sample: other names,
// the same values and data.
func checkEventGrid(t *testing.T, e *event.Event, sample []byte) {
	t.Helper()
	var cloud, grid map[string]any
	if err := json.Unmarshal(sample, &cloud); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(e.AppendEventGrid(nil), &grid); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"id": cloud["id"], "topic": cloud["source"], "subject": cloud["subject"], "eventType": cloud["type"],
		"eventTime": cloud["time"], "data": cloud["data"], "dataVersion": "1", "metadataVersion": "1",
	}
	if !reflect.DeepEqual(grid, want) {
		t.Errorf("Event Grid schema\n got %v\nwant %v", grid, want)
	}
}

func TestAttributesKeepTheirTypes(t *testing.T) {
	e, err := sysevent.ClientCreatedOrUpdated(ns, sysevent.Stamp{}, sysevent.Client{
		Attributes: map[string]any{"floor": int64(3), "room": `"<345>"`, "types": []string{"Fan", "Light"}, "on": true},
	})
	if err != nil {
		t.Fatal(err)
	}
	var data struct {
		Attributes map[string]any `json:"attributes"`
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"floor": 3.0, "room": `"<345>"`, "types": []any{"Fan", "Light"}, "on": true}
	if !reflect.DeepEqual(data.Attributes, want) {
		t.Errorf("got %v, want %v", data.Attributes, want)
	}
}

func TestNamesAreEscaped(t *testing.T) {
	s := sysevent.Session{AuthenticationName: "a\"\\\n", Name: "gerät/1", Number: 1<<63 + 1}
	e := sysevent.SessionConnected(ns, sysevent.Stamp{}, s)
	var data struct {
		Auth    string `json:"clientAuthenticationName"`
		Session string `json:"clientSessionName"`
		Number  uint64 `json:"sequenceNumber"`
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	if data.Auth != s.AuthenticationName || data.Session != s.Name || data.Number != s.Number {
		t.Errorf("got %+v, want %+v", data, s)
	}
	if !json.Valid(e.AppendCloudEvent(nil)) || !json.Valid(e.AppendEventGrid(nil)) {
		t.Error("not valid JSON")
	}
}

func compact(t *testing.T, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, p); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Arrays in attributes keep their characters, as strings do.
func TestAttributesAreNotEscapedForHTML(t *testing.T) {
	e, err := sysevent.ClientCreatedOrUpdated(sysevent.Namespace{}, sysevent.Stamp{}, sysevent.Client{Attributes: map[string]any{"list": []string{"a&b", "<c>"}, "text": "<&>"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := `"attributes":{"list":["a&b","<c>"],"text":"<&>"}`; !strings.Contains(string(e.Data), want) {
		t.Errorf("%s, want %s", e.Data, want)
	}
}
