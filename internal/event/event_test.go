package event

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func sample() *Event {
	return &Event{
		ID: "6f1b", Source: "/subscriptions/0/namespaces/default", Type: "Microsoft.EventGrid.MQTTClientSessionDisconnected",
		Subject: "clients/é\"/sessions/s", Time: time.Date(2026, 1, 2, 3, 4, 5, 678900, time.UTC), DataVersion: "1",
		Data:     json.RawMessage(`{"a":1.50,"text":"x","flag":false,"none":null,"in":{"Deep":{"x":"y"}},"list":[1]}`),
		OutputID: "out", Accepted: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC),
	}
}

func TestBodies(t *testing.T) {
	bare := &Event{ID: "bare", Source: "s", Type: "t", Time: time.Unix(0, 0)}
	for _, c := range []struct {
		name   string
		schema Schema
		batch  bool
		events []*Event
	}{
		{"eventgrid-one", EventGrid, false, []*Event{sample()}},
		{"eventgrid-two", EventGrid, true, []*Event{sample(), bare}},
		{"cloudevents-one", CloudEvents, false, []*Event{sample()}},
		{"cloudevents-batch", CloudEvents, true, []*Event{sample(), bare}},
		{"cloudevents-batch-of-one", CloudEvents, true, []*Event{bare}},
	} {
		got := c.schema.AppendBody(nil, c.events, c.batch)
		if !json.Valid(got) {
			t.Errorf("%s is no JSON: %s", c.name, got)
		}
		name := filepath.Join("testdata", c.name+".json")
		if *update {
			if err := os.WriteFile(name, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if string(got)+"\n" != string(want) {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, want)
		}
	}
}

func TestContentTypes(t *testing.T) {
	for _, c := range []struct {
		s     Schema
		batch bool
		want  string
	}{
		{EventGrid, false, "application/json; charset=utf-8"},
		{EventGrid, true, "application/json; charset=utf-8"},
		{CloudEvents, false, "application/cloudevents+json; charset=utf-8"},
		{CloudEvents, true, "application/cloudevents-batch+json; charset=utf-8"},
	} {
		if got := c.s.ContentType(c.batch); got != c.want {
			t.Errorf("%v batch %v: %q, want %q", c.s, c.batch, got, c.want)
		}
	}
	for _, s := range []Schema{EventGrid, CloudEvents} {
		if got, ok := ParseSchema(s.String()); !ok || got != s {
			t.Errorf("ParseSchema(%q) = %v, %v", s, got, ok)
		}
	}
	if _, ok := ParseSchema("CustomInputSchema"); ok {
		t.Error("CustomInputSchema is known")
	}
}

func TestLookup(t *testing.T) {
	for _, c := range []struct {
		s    Schema
		path string
		want string
		ok   bool
	}{
		{EventGrid, "id", "6f1b", true},
		{EventGrid, "Topic", "/subscriptions/0/namespaces/default", true},
		{EventGrid, "eventtype", "Microsoft.EventGrid.MQTTClientSessionDisconnected", true},
		{EventGrid, "eventTime", "2026-01-02T03:04:05.0006789Z", true},
		{EventGrid, "dataVersion", "1", true},
		{EventGrid, "metadataVersion", "1", true},
		{EventGrid, "source", "", false},
		{CloudEvents, "source", "/subscriptions/0/namespaces/default", true},
		{CloudEvents, "type", "Microsoft.EventGrid.MQTTClientSessionDisconnected", true},
		{CloudEvents, "specversion", "1.0", true},
		{CloudEvents, "topic", "", false},
		{CloudEvents, "data.a", "1.50", true},
		{CloudEvents, "DATA.text", "x", true},
		{CloudEvents, "data.flag", "false", true},
		{CloudEvents, "data.none", "", false},
		{CloudEvents, "data.in", "", false},
		{CloudEvents, "data.list", "", false},
		{CloudEvents, "data.in.deep.x", "y", true},
		{CloudEvents, "data.in.deep.x.z", "", false},
		{CloudEvents, "data", "", false},
		{CloudEvents, "id.x", "", false},
		{CloudEvents, "", "", false},
	} {
		if got, ok := c.s.Lookup(sample(), c.path); got != c.want || ok != c.ok {
			t.Errorf("%v %q: %q, %v; want %q, %v", c.s, c.path, got, ok, c.want, c.ok)
		}
	}
}

func TestStoredForm(t *testing.T) {
	for _, e := range []*Event{sample(), {Time: time.Unix(-5, 0).UTC(), Accepted: time.Unix(0, 1).UTC(), Data: json.RawMessage{}}} {
		stored := e.AppendBinary(nil)
		got, err := Decode(stored)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("got %+v, %v; want %+v", got, err, e)
		}
		for n := range stored {
			if _, err := Decode(stored[:n]); err == nil {
				t.Errorf("%d of %d bytes were accepted", n, len(stored))
			}
		}
		if _, err := Decode(append(stored, 0)); err == nil {
			t.Error("trailing bytes were accepted")
		}
		stored[0]++
		if _, err := Decode(stored); err == nil {
			t.Error("an unknown version was accepted")
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(sample().AppendBinary(nil))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Decode(e.AppendBinary(nil))
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("%+v became %+v, %v", e, again, err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	stored := sample().AppendBinary(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(stored); err != nil {
			b.Fatal(err)
		}
	}
}

// Times have the same digits however round they are: their texts sort as they do.
func TestTimesInJSONSort(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	last := ""
	for _, d := range []time.Duration{0, 100, time.Microsecond, time.Millisecond, 100 * time.Millisecond, time.Second} {
		text, err := json.Marshal(struct{ At Time }{Time{began.Add(d)}})
		if err != nil || string(text) <= last || len(text) != len(`{"At":"2026-01-02T02:04:05.0000000Z"}`) {
			t.Errorf("%s after %s, %v", text, last, err)
		}
		last = string(text)
		var back struct{ At Time }
		if err := json.Unmarshal(text, &back); err != nil || !back.At.Equal(began.Add(d)) {
			t.Errorf("%s is read as %v, %v", text, back.At, err)
		}
	}
	if text, err := json.Marshal(struct {
		At Time `json:"at,omitzero"`
	}{}); err != nil || string(text) != "{}" {
		t.Errorf("none is written as %s, %v", text, err)
	}
}
