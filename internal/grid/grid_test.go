package grid_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/fault"
	"rollcall/internal/filter"
	"rollcall/internal/grid"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

func TestMatchAndDeliver(t *testing.T) {
	f := newFixture(t)
	f.start()
	all, some := newReceiver(t), newReceiver(t)
	f.put("all", properties(all.URL))
	p := properties(some.URL)
	p.Filter = filter.Filter{IncludedEventTypes: []string{"type.a"}, SubjectBeginsWith: "CLIENTS/"}
	f.put("some", p)
	f.awaitState("all", grid.Succeeded)
	f.awaitState("some", grid.Succeeded)
	f.publish(newEvent("1", "Type.A", "clients/x"), newEvent("2", "Type.B", "clients/x"), newEvent("3", "Type.A", "other"))
	all.expect(t, "1", "2", "3")
	some.expect(t, "1")

	// A change of the filter is for events accepted afterwards.
	p.Filter = filter.Filter{}
	f.put("some", p)
	f.awaitState("some", grid.Succeeded)
	f.publish(newEvent("4", "Type.B", "other"))
	all.expect(t, "4")
	some.expect(t, "4")

	existed, err := f.grid.Delete(context.Background(), source, "SOME", grid.Condition{})
	if err != nil || !existed {
		t.Fatal(existed, err)
	}
	if kind := <-some.kinds; kind != "SubscriptionDeletion" {
		t.Errorf("the endpoint was told %q", kind)
	}
	f.publish(newEvent("5", "Type.A", "clients/x"))
	all.expect(t, "5")
	if _, err := f.grid.Get(source, "some"); !hasCode(err, fault.NotFound) {
		t.Errorf("get after delete: %v", err)
	}
	if existed, err := f.grid.Delete(context.Background(), source, "some", grid.Condition{}); existed || err != nil {
		t.Error(existed, err)
	}
}

func hasCode(err error, c fault.Code) bool {
	e, ok := fault.As(err)
	return ok && e.Code == c
}

// Subscriptions, their state and their pending events survive a restart.
func TestRestart(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := newReceiver(t)
	p := properties(r.URL + "/?code=secret")
	p.Labels = []string{"a"}
	before := f.put("one", p)
	f.awaitState("one", grid.Succeeded)
	if _, err := f.grid.Pause(context.Background(), source, "one"); err != nil {
		t.Fatal(err)
	}
	f.publish(newEvent("1", "T", "s"), newEvent("2", "T", "s"))
	f.stop()
	f.start()
	after, err := f.grid.Get(source, "ONE")
	if err != nil {
		t.Fatal(err)
	}
	if after.ID != before.ID || after.State != grid.Succeeded || after.FullURL() != r.URL+"/?code=secret" || !after.Properties.Paused {
		t.Errorf("after the restart: %+v", after)
	}
	f.publish(newEvent("3", "T", "s"))
	if _, err := f.grid.Resume(context.Background(), source, "one"); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "1", "2", "3")
	if tally, err := f.grid.Tally(source, "one"); err != nil || tally.Matched != 3 {
		t.Errorf("tally %+v, %v", tally, err)
	}
	if again := f.put("two", properties(r.URL)); again.ID <= before.ID {
		t.Errorf("id %d after %d", again.ID, before.ID)
	}
}

// An event is staged into the caller's batch: nobody sees it unless that
// commits.
func TestStageIsPartOfTheBatch(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := newReceiver(t)
	f.put("one", properties(r.URL))
	f.awaitState("one", grid.Succeeded)
	tail := f.grid.Tail()
	defer tail.Close()
	stage := func(id string, rev store.Revision) error {
		b := store.NewBatch(store.Normal)
		key := store.AppendKey(nil, 3, store.TableSession, "fact")
		b.Require(key, rev)
		b.Put(key, []byte("fact"))
		s1 := f.grid.Stage(b, 3, source, newEvent(id+"a", "T", "s"))
		s2 := f.grid.Stage(b, 3, source, newEvent(id+"b", "T", "s"))
		done := make(chan error, 1)
		f.engine.Submit(b, func(r store.Result) {
			s1.Done(r)
			s2.Done(r)
			done <- r.Err
		})
		return <-done
	}
	if err := stage("bad", 77); !errors.Is(err, store.ErrConflict) {
		t.Fatal(err)
	}
	if err := stage("good", 0); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "gooda", "goodb")
	for _, want := range []string{"gooda", "goodb"} {
		if e := <-tail.Events(); e.ID != want || e.OutputID == "" || e.Accepted.IsZero() {
			t.Errorf("tail: %+v, want %s", e, want)
		}
	}
}

func TestTailSeesUnmatchedAndCountsMissed(t *testing.T) {
	f := newFixture(t)
	f.set.TailBuffer = 2
	f.start()
	tail := f.grid.Tail()
	f.publish(newEvent("1", "T", "s"), newEvent("2", "T", "s"), newEvent("3", "T", "s"))
	if n := tail.Missed(); n != 1 {
		t.Errorf("missed %d, want 1", n)
	}
	if a, b := <-tail.Events(), <-tail.Events(); a.ID != "1" || b.ID != "2" {
		t.Errorf("tail %s %s", a.ID, b.ID)
	}
	tail.Close()
	tail.Close()
	if _, open := <-tail.Events(); open {
		t.Error("the channel is open after Close")
	}
	f.publish(newEvent("4", "T", "s"))
}

func TestRulesAreReportedTogether(t *testing.T) {
	f := newFixture(t)
	f.types = []string{"Known"}
	f.start()
	p := grid.Properties{
		Destination: grid.WebHook{EndpointURL: "ftp://x/", MaxEventsPerBatch: 5001, PreferredBatchKB: 1025,
			Attributes: []webhook.Attribute{{Name: "aeg-x", Value: "v"}}},
		Filter:              filter.Filter{IncludedEventTypes: []string{"Unknown"}},
		Expiration:          time.Now().Add(-time.Minute),
		Retry:               delivery.RetryPolicy{MaxAttempts: 31, TTL: 25 * time.Hour},
		DeadLetterDirectory: "../up",
	}
	_, _, err := f.grid.Put(context.Background(), source, "x_", p, grid.Condition{})
	e, ok := fault.As(err)
	if !ok || e.Code != fault.InvalidRequest {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, d := range e.Details {
		got[d.Target] = true
	}
	for _, want := range []string{"name", "properties.destination.properties.endpointUrl", "properties.destination.properties.maxEventsPerBatch",
		"properties.destination.properties.preferredBatchSizeInKilobytes", "properties.destination.properties.deliveryAttributeMappings[0].name",
		"properties.filter.includedEventTypes", "properties.expirationTimeUtc", "properties.retryPolicy.maxDeliveryAttempts",
		"properties.retryPolicy.eventTimeToLiveInMinutes", "properties.rollcall.deadLetterDirectory"} {
		if !got[want] {
			t.Errorf("no mistake reported at %s", want)
		}
	}
	if len(e.Details) != 10 {
		t.Errorf("%d mistakes: %v", len(e.Details), e.Details)
	}
}

func TestConditionsAndLimits(t *testing.T) {
	f := newFixture(t)
	f.set.MaxSubscriptions = 2
	f.start()
	ctx := context.Background()
	r := newReceiver(t)
	f.put("one", properties(r.URL))
	s := f.awaitState("one", grid.Succeeded)
	put := func(name string, c grid.Condition) error {
		_, _, err := f.grid.Put(ctx, source, name, properties(r.URL), c)
		return err
	}
	if err := put("one", grid.Condition{Absent: true}); !hasCode(err, fault.PreconditionFailed) {
		t.Errorf("create over an existing one: %v", err)
	}
	if err := put("one", grid.Condition{Revision: s.Revision + 1000}); !hasCode(err, fault.PreconditionFailed) {
		t.Errorf("wrong revision: %v", err)
	}
	if err := put("one", grid.Condition{Revision: s.Revision}); err != nil {
		t.Errorf("right revision: %v", err)
	}
	if err := put("two", grid.Condition{}); err != nil {
		t.Error(err)
	}
	if err := put("three", grid.Condition{}); !hasCode(err, fault.Conflict) {
		t.Errorf("beyond the limit: %v", err)
	}
	if _, err := f.grid.Delete(ctx, source, "one", grid.Condition{Revision: s.Revision}); !hasCode(err, fault.PreconditionFailed) {
		t.Errorf("delete of an old revision: %v", err)
	}
	if got := f.grid.List(source); len(got) != 2 || got[0].Name != "one" || got[1].Name != "two" {
		t.Errorf("list %+v", got)
	}
	labels := []string{"x"}
	patched, err := f.grid.Patch(ctx, source, "one", grid.Patch{Labels: &labels}, grid.Condition{})
	if err != nil || len(patched.Properties.Labels) != 1 || patched.FullURL() != r.URL {
		t.Errorf("patch: %+v, %v", patched, err)
	}
	if _, err := f.grid.Patch(ctx, source, "none", grid.Patch{}, grid.Condition{}); !hasCode(err, fault.NotFound) {
		t.Errorf("patch of none: %v", err)
	}
}

// Many at once: of several creates of a name one wins, ids are unique.
func TestRacingCreates(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := newReceiver(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	created := map[string]int{}
	for i := range 24 {
		wg.Go(func() {
			name := fmt.Sprint("name-", i%6)
			_, fresh, err := f.grid.Put(context.Background(), source, name, properties(r.URL), grid.Condition{Absent: true})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && fresh:
				created[name]++
			case !hasCode(err, fault.Conflict) && !hasCode(err, fault.PreconditionFailed):
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	ids := map[uint64]bool{}
	for _, s := range f.grid.List(source) {
		ids[s.ID] = true
		if created[s.Name] != 1 {
			t.Errorf("%s was created %d times", s.Name, created[s.Name])
		}
	}
	if len(ids) != 6 {
		t.Errorf("%d ids for 6 subscriptions", len(ids))
	}
}

func TestExpiration(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := newReceiver(t)
	p := properties(r.URL)
	p.Expiration = time.Now().Add(300 * time.Millisecond)
	f.put("brief", p)
	late := time.After(20 * time.Second)
	for {
		changed, err := f.grid.Watch(source, "brief")
		if hasCode(err, fault.NotFound) {
			break
		}
		select {
		case <-changed:
		case <-late:
			t.Fatal("the subscription did not expire")
		}
	}
	if time.Now().Before(p.Expiration) {
		t.Error("the subscription expired early")
	}
}

func TestStoreFull(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := newReceiver(t)
	f.put("one", properties(r.URL))
	f.awaitState("one", grid.Succeeded)
	full := f.engine.(*mem.Engine)
	full.SetFull(true)
	if err := f.grid.Publish(context.Background(), 0, source, newEvent("1", "T", "s")); !hasCode(err, fault.InsufficientSpace) {
		t.Errorf("publish: %v", err)
	}
	if _, _, err := f.grid.Put(context.Background(), source, "two", properties(r.URL), grid.Condition{}); !hasCode(err, fault.InsufficientSpace) {
		t.Errorf("put: %v", err)
	}
	if _, err := f.grid.Delete(context.Background(), source, "one", grid.Condition{}); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// What is logged and told of an endpoint has nothing of its path: neither when
// it refuses, nor when it consents, fails deliveries and is left.
func TestEndpointPathIsNotLogged(t *testing.T) {
	f := newFixture(t)
	var lines bytes.Buffer
	f.log = slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f.start()
	r := newReceiver(t)
	r.set(false, 404)
	p := properties(r.URL + "/hidden/path")
	f.put("one", p)
	failed := f.awaitState("one", grid.Failed)
	r.set(true, 0)
	f.put("one", p)
	s := f.awaitState("one", grid.Succeeded)
	r.set(true, 403)
	f.publish(newEvent("1", "T", "s"))
	if _, err := f.grid.Delete(context.Background(), source, "one", grid.Condition{}); err != nil {
		t.Fatal(err)
	}
	f.stop()
	told := fmt.Sprint(failed.Failure, failed.Narration, s.Narration)
	if !strings.Contains(told, r.URL+"/#") {
		t.Errorf("the endpoint is not told: %s", told)
	}
	if strings.Contains(told+lines.String(), "hidden") {
		t.Errorf("the path is told or logged:\n%s\n%s", told, lines.String())
	}
}

// No secret is shown by formatting or in the resource.
func TestSecretsAreNotShown(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := newReceiver(t)
	p := properties(r.URL + "/path?code=hidden")
	p.Destination.Attributes = []webhook.Attribute{{Name: "Authorization", Value: "hidden", Secret: true}, {Name: "x", SourceField: "data.y"}}
	f.put("one", p)
	s := f.awaitState("one", grid.Succeeded)
	body, err := s.PropertiesJSON(true)
	if err != nil {
		t.Fatal(err)
	}
	shown := string(body) + fmt.Sprintf("%v %+v", s.Narration, s.Properties.Destination.EndpointURL)
	if strings.Contains(shown, "hidden") {
		t.Errorf("a secret is shown: %s", shown)
	}
	var doc struct {
		Topic       string
		Destination struct {
			EndpointType string
			Properties   map[string]any
		}
		RetryPolicy map[string]int
		Filter      map[string]any
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Topic != source.ID || doc.Destination.EndpointType != "WebHook" || doc.Destination.Properties["endpointBaseUrl"] != r.URL+"/path" ||
		doc.RetryPolicy["maxDeliveryAttempts"] != 30 || doc.RetryPolicy["eventTimeToLiveInMinutes"] != 1440 {
		t.Errorf("%s", body)
	}
	all, err := s.AttributesJSON()
	if err != nil || !strings.Contains(string(all), "hidden") {
		t.Errorf("attributes %s, %v", all, err)
	}
}
