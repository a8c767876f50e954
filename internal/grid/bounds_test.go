package grid_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/filter"
	"rollcall/internal/grid"
	"rollcall/internal/store"
	"rollcall/internal/store/setaside"
)

// Every setting is checked at both of its bounds and by its own name.
func TestSettingsAreCheckedAtTheirBounds(t *testing.T) {
	for _, c := range []struct {
		name   string
		lo, hi int64
		set    func(*grid.Settings, int64)
	}{
		{"maxSubscriptions", 0, math.MaxInt64 - 1, func(s *grid.Settings, n int64) { s.MaxSubscriptions = int(n) }},
		{"validationWindow", int64(time.Second), int64(24 * time.Hour), func(s *grid.Settings, n int64) { s.ValidationWindow = time.Duration(n) }},
		{"validationAttempts", 1, 100, func(s *grid.Settings, n int64) { s.ValidationAttempts = int(n) }},
		{"validationPause", 0, int64(time.Hour), func(s *grid.Settings, n int64) { s.ValidationPause = time.Duration(n) }},
		{"tailBuffer", 1, 65536, func(s *grid.Settings, n int64) { s.TailBuffer = int(n) }},
	} {
		for n, good := range map[int64]bool{c.lo: true, c.hi: true, c.lo - 1: false, c.hi + 1: c.hi == math.MaxInt64-1} {
			s := grid.DefaultSettings()
			c.set(&s, n)
			bad := s.Validate("grid")
			if good && len(bad) != 0 || !good && (len(bad) != 1 || bad[0].Target != "grid."+c.name) {
				t.Errorf("%s = %d: %v", c.name, n, bad.Err())
			}
		}
	}
}

// mistakes are the targets that a failed request names.
func mistakes(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	e, ok := fault.As(err)
	if !ok {
		t.Fatal(err)
	}
	if len(e.Details) == 0 {
		return []string{e.Target}
	}
	targets := map[string]bool{}
	for _, d := range e.Details {
		targets[d.Target] = true
	}
	return slices.Sorted(maps.Keys(targets))
}

// Each rule is kept at its bound and broken one beyond it, alone.
func TestRulesAtTheirBounds(t *testing.T) {
	f := newFixture(t)
	f.set.MaxSubscriptions = 0 // no bound
	f.start()
	r := newReceiver(t)
	const hook = "properties.destination.properties."
	labels := func(n, size int) []string { return slices.Repeat([]string{strings.Repeat("l", size)}, n) }
	for i, c := range []struct {
		name   string // "": one of its own
		change func(*grid.Properties)
		target string // "": it is good
	}{
		{"abc", nil, ""},
		{"ab", nil, "name"},
		{strings.Repeat("n", 64), nil, ""},
		{strings.Repeat("n", 65), nil, "name"},
		{"azAZ09-", nil, ""},
		{"a/bc", nil, "name"}, {"a:bc", nil, "name"}, {"a`bc", nil, "name"}, {"a{bc", nil, "name"}, {"a@bc", nil, "name"}, {"a[bc", nil, "name"}, {"a_bc", nil, "name"},
		{"", func(p *grid.Properties) { p.Destination.MaxEventsPerBatch = 5000 }, ""},
		{"", func(p *grid.Properties) { p.Destination.MaxEventsPerBatch = 5001 }, hook + "maxEventsPerBatch"},
		{"", func(p *grid.Properties) { p.Destination.MaxEventsPerBatch = -1 }, hook + "maxEventsPerBatch"},
		{"", func(p *grid.Properties) { p.Destination.PreferredBatchKB = 1024 }, ""},
		{"", func(p *grid.Properties) { p.Destination.PreferredBatchKB = 1025 }, hook + "preferredBatchSizeInKilobytes"},
		{"", func(p *grid.Properties) { p.Destination.PreferredBatchKB = -1 }, hook + "preferredBatchSizeInKilobytes"},
		{"", func(p *grid.Properties) { p.Schema = 99 }, "properties.eventDeliverySchema"},
		{"", func(p *grid.Properties) { p.Schema = event.EventGrid }, ""},
		{"", func(p *grid.Properties) { p.Retry.MaxAttempts = 1 }, ""},
		{"", func(p *grid.Properties) { p.Retry.MaxAttempts = 30 }, ""},
		{"", func(p *grid.Properties) { p.Retry.MaxAttempts = 31 }, "properties.retryPolicy.maxDeliveryAttempts"},
		{"", func(p *grid.Properties) { p.Retry.MaxAttempts = -1 }, "properties.retryPolicy.maxDeliveryAttempts"},
		{"", func(p *grid.Properties) { p.Retry.TTL = time.Minute }, ""},
		{"", func(p *grid.Properties) { p.Retry.TTL = time.Minute - 1 }, "properties.retryPolicy.eventTimeToLiveInMinutes"},
		{"", func(p *grid.Properties) { p.Retry.TTL = 24 * time.Hour }, ""},
		{"", func(p *grid.Properties) { p.Retry.TTL = 24*time.Hour + 1 }, "properties.retryPolicy.eventTimeToLiveInMinutes"},
		{"", func(p *grid.Properties) { p.Expiration = time.Now().Add(time.Hour) }, ""},
		{"", func(p *grid.Properties) { p.Labels = labels(100, 256) }, ""},
		{"", func(p *grid.Properties) { p.Labels = labels(101, 1) }, "properties.labels"},
		{"", func(p *grid.Properties) { p.Labels = labels(1, 257) }, "properties.labels"},
		{"", func(p *grid.Properties) { p.DeadLetterDirectory = "a-B_0.x" }, ""},
		{"", func(p *grid.Properties) { p.DeadLetterDirectory = strings.Repeat("d", 64) }, ""},
		{"", func(p *grid.Properties) { p.DeadLetterDirectory = strings.Repeat("d", 65) }, "properties.rollcall.deadLetterDirectory"},
		{"", func(p *grid.Properties) { p.DeadLetterDirectory = ".d" }, "properties.rollcall.deadLetterDirectory"},
		{"", func(p *grid.Properties) { p.DeadLetterDirectory = "a/b" }, "properties.rollcall.deadLetterDirectory"},
		{"", func(p *grid.Properties) { p.DeadLetterDirectory = "a b" }, "properties.rollcall.deadLetterDirectory"},
	} {
		p := properties(r.URL)
		if c.change != nil {
			c.change(&p)
		}
		name := c.name
		if name == "" {
			name = fmt.Sprintf("sub-%d", i)
		}
		_, _, err := f.grid.Put(context.Background(), source, name, p, grid.Condition{})
		got := mistakes(t, err)
		if c.target == "" && err != nil || c.target != "" && !slices.Equal(got, []string{c.target}) {
			t.Errorf("%s, %+v: mistakes at %q, want %q", name, p, got, c.target)
		}
	}
}

// Dead letters need a root.
func TestDeadLettersNeedARoot(t *testing.T) {
	f := newFixture(t)
	f.open()
	d, err := delivery.Open(delivery.Options{Engine: f.engine, Settings: f.dset})
	if err != nil {
		t.Fatal(err)
	}
	hooks, err := webhook.New(webhook.Options{Rules: webhook.Rules{AllowHTTP: true, AllowPrivate: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer hooks.Close()
	g, err := grid.Open(grid.Options{Engine: f.engine, Dispatcher: d, Webhooks: hooks, Settings: f.set,
		BaseURL: func(string) (string, string) { return f.base, "" }, EventTypes: func(grid.Source) []string { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	p := properties("http://127.0.0.1:1/")
	p.DeadLetterDirectory = "d"
	_, _, err = g.Put(context.Background(), source, "one", p, grid.Condition{})
	if got := mistakes(t, err); !slices.Equal(got, []string{"properties.rollcall.deadLetterDirectory"}) || !strings.Contains(fmt.Sprint(err), "root") {
		t.Errorf("%v", err)
	}
}

// More that is refused by name, at its bounds, and all at once.
func TestDecodeAtItsBounds(t *testing.T) {
	hook := func(member string) string {
		return `{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://example.com/",` + member + `}}}`
	}
	const in = "properties.destination.properties."
	for body, want := range map[string][]string{
		hook(`"maxEventsPerBatch":5000,"preferredBatchSizeInKilobytes":1024`): nil,
		hook(`"maxEventsPerBatch":1,"preferredBatchSizeInKilobytes":1`):       nil,
		hook(`"maxEventsPerBatch":5001`):                                      {in + "maxEventsPerBatch"},
		hook(`"preferredBatchSizeInKilobytes":0`):                             {in + "preferredBatchSizeInKilobytes"},
		hook(`"maxEventsPerBatch":null`):                                      nil,
		// What is wrong with one mapping hides nothing of those behind it.
		hook(`"deliveryAttributeMappings":[{"name":"a","type":"X"},{"name":"b","type":"Dynamic"},{"name":"c","type":"Static","properties":{"value":"v","x":1}}]`): {
			in + "deliveryAttributeMappings[0].type", in + "deliveryAttributeMappings[1].properties.sourceField", in + "deliveryAttributeMappings[2].properties.x"},
		hook(`"deliveryAttributeMappings":{}`): {in + "deliveryAttributeMappings"},
		`{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://example.com/"},"x":1},"retryPolicy":{"x":1}}`: {
			"properties.destination.x", "properties.retryPolicy.x"},
		`{"destination":{"endpointType":""}}`:        {"properties.destination.endpointType"},
		`{"destination":{"endpointType":"Storage"}}`: {"properties.destination.endpointType"},
	} {
		_, err := grid.DecodeProperties([]byte(body))
		if got := mistakes(t, err); !slices.Equal(got, want) {
			t.Errorf("%s: mistakes at %q, want %q", body, got, want)
		}
	}
	_, err := grid.DecodeProperties([]byte(`{"destination":{"properties":{}}}`))
	if !strings.Contains(fmt.Sprint(err), "required") {
		t.Errorf("no endpoint type: %v", err)
	}
	_, err = grid.DecodeProperties([]byte(`{"destination":{"endpointType":"EventHub"}}`))
	if !strings.Contains(fmt.Sprint(err), `"EventHub" is not supported`) {
		t.Errorf("another endpoint type: %v", err)
	}
}

// What a reader is shown of an endpoint and of secret headers may be written
// back and stands for what there is; anything else is new.
func TestWritingBackWhatWasShown(t *testing.T) {
	f := newFixture(t)
	f.start()
	r, other := newReceiver(t), newReceiver(t)
	first := properties(r.URL + "/path?code=hidden")
	first.Destination.Attributes = []webhook.Attribute{
		{Name: "Authorization", Value: "hidden", Secret: true}, {Name: "x-plain", Value: "seen"}, {Name: "x-dynamic", SourceField: "data.y"}}
	f.put("one", first)
	s := f.awaitState("one", grid.Succeeded)
	mappings := `"deliveryAttributeMappings":[{"name":"AUTHORIZATION","type":"Static","properties":{"isSecret":true}},` +
		`{"name":"x-plain","type":"Static","properties":{"value":"seen"}},{"name":"x-dynamic","type":"Dynamic","properties":{"sourceField":"data.y"}}]`
	for _, c := range []struct {
		name, destination string
		url               string // in effect afterwards; "": it is refused
	}{
		{"as it was shown", `"endpointBaseUrl":"` + s.Properties.Destination.BaseURL() + `",` + mappings, r.URL + "/path?code=hidden"},
		{"as it was disguised", `"endpointBaseUrl":"` + s.Properties.Destination.Disguised() + `",` + mappings, r.URL + "/path?code=hidden"},
		{"without an endpoint", mappings, r.URL + "/path?code=hidden"},
		{"as it never was", `"endpointBaseUrl":"` + other.URL + `/elsewhere",` + mappings, ""},
		{"with an empty URL and no other", `"endpointUrl":"",` + mappings, ""},
		{"with a URL beside what was shown", `"endpointUrl":"` + other.URL + `/new?k=v","endpointBaseUrl":"` + s.Properties.Destination.BaseURL() + `",` + mappings, other.URL + "/new?k=v"},
	} {
		p, err := grid.DecodeProperties([]byte(`{"destination":{"endpointType":"WebHook","properties":{` + c.destination + `}}}`))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		_, _, err = f.grid.Put(t.Context(), source, "one", p, grid.Condition{})
		if (err != nil) != (c.url == "") {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil {
			continue
		}
		now := f.awaitState("one", grid.Succeeded).Properties.Destination
		if string(now.EndpointURL) != c.url {
			t.Errorf("%s: the endpoint is %s", c.name, string(now.EndpointURL))
		}
		if a := now.Attributes; len(a) != 3 || a[0].Value != "hidden" || a[1].Value != "seen" || a[2].Value != "" || a[2].SourceField != "data.y" {
			t.Errorf("%s: the attributes are %+v", c.name, a)
		}
	}
	// Nothing stands for what is not there yet.
	p, err := grid.DecodeProperties([]byte(`{"destination":{"endpointType":"WebHook","properties":{` + mappings + `}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.grid.Put(t.Context(), source, "two", p, grid.Condition{}); err == nil {
		t.Error("a new subscription without an endpoint is taken")
	}
}

// A PATCH changes what it names.
func TestPatchOfADestination(t *testing.T) {
	have := grid.Properties{Destination: grid.WebHook{EndpointURL: "https://example.com/?k=v", MaxEventsPerBatch: 7, PreferredBatchKB: 8,
		Attributes: []webhook.Attribute{{Name: "a", Value: "v"}}},
		Filter: filter.Filter{IncludedEventTypes: []string{"A"}, SubjectBeginsWith: "b", SubjectEndsWith: "e", IsSubjectCaseSensitive: true},
		Retry:  delivery.RetryPolicy{MaxAttempts: 5, TTL: time.Hour}}
	for patch, change := range map[string]func(*grid.Properties){
		`"maxEventsPerBatch":9`:              func(p *grid.Properties) { p.Destination.MaxEventsPerBatch = 9 },
		`"preferredBatchSizeInKilobytes":9`:  func(p *grid.Properties) { p.Destination.PreferredBatchKB = 9 },
		`"deliveryAttributeMappings":null`:   func(p *grid.Properties) { p.Destination.Attributes = nil },
		`"endpointUrl":"https://b.example/"`: func(p *grid.Properties) { p.Destination.EndpointURL = "https://b.example/" },
		`"minimumTlsVersionAllowed":"1.2"`:   func(*grid.Properties) {},
	} {
		c, err := grid.DecodePatch([]byte(`{"destination":{"endpointType":"WebHook","properties":{` + patch + `}}}`))
		if err != nil {
			t.Fatal(err)
		}
		want := have
		change(&want)
		got := c.Apply(have)
		g, w := got.Destination, want.Destination
		if g.EndpointURL != w.EndpointURL || g.MaxEventsPerBatch != w.MaxEventsPerBatch || g.PreferredBatchKB != w.PreferredBatchKB || len(g.Attributes) != len(w.Attributes) {
			t.Errorf("%s: %+v", patch, g)
		}
	}
	for patch, want := range map[string]filter.Filter{
		`"includedEventTypes":["B"]`:     {IncludedEventTypes: []string{"B"}, SubjectBeginsWith: "b", SubjectEndsWith: "e", IsSubjectCaseSensitive: true},
		`"subjectBeginsWith":""`:         {IncludedEventTypes: []string{"A"}, SubjectEndsWith: "e", IsSubjectCaseSensitive: true},
		`"subjectEndsWith":"x"`:          {IncludedEventTypes: []string{"A"}, SubjectBeginsWith: "b", SubjectEndsWith: "x", IsSubjectCaseSensitive: true},
		`"isSubjectCaseSensitive":false`: {IncludedEventTypes: []string{"A"}, SubjectBeginsWith: "b", SubjectEndsWith: "e"},
	} {
		c, err := grid.DecodePatch([]byte(`{"filter":{` + patch + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		got := c.Apply(have).Filter
		if !slices.Equal(got.IncludedEventTypes, want.IncludedEventTypes) || got.SubjectBeginsWith != want.SubjectBeginsWith ||
			got.SubjectEndsWith != want.SubjectEndsWith || got.IsSubjectCaseSensitive != want.IsSubjectCaseSensitive {
			t.Errorf("%s: %+v", patch, got)
		}
	}
	for patch, want := range map[string]delivery.RetryPolicy{
		`"maxDeliveryAttempts":3`:       {MaxAttempts: 3, TTL: time.Hour},
		`"eventTimeToLiveInMinutes":90`: {MaxAttempts: 5, TTL: 90 * time.Minute},
	} {
		c, err := grid.DecodePatch([]byte(`{"retryPolicy":{` + patch + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Apply(have).Retry; got != want {
			t.Errorf("%s: %+v", patch, got)
		}
	}
}

// A subscription that wants some types and one that wants all get an event
// each, of whatever realm and in the order of their ids; one that is gone gets
// nothing, and its deliveries end.
func TestManySubscriptionsMatch(t *testing.T) {
	f := newFixture(t)
	f.start()
	all, some, none := newReceiver(t), newReceiver(t), newReceiver(t)
	p := properties(some.URL)
	p.Filter.IncludedEventTypes = []string{"Wanted", "Other"}
	f.put("some", p)
	f.put("all", properties(all.URL))
	p.Filter.IncludedEventTypes, p.Destination = []string{"Never"}, grid.WebHook{EndpointURL: grid.Secret(none.URL)}
	f.put("none", p)
	for _, name := range []string{"some", "all", "none"} {
		f.awaitState(name, grid.Succeeded)
	}
	// Those that have not consented are no obstacle.
	silent := newReceiver(t)
	silent.set(false, 200)
	for i := range 8 {
		name := fmt.Sprintf("silent-%d", i)
		f.put(name, properties(silent.URL))
		f.awaitState(name, grid.AwaitingManualAction)
	}
	f.publish(newEvent("1", "WANTED", "s"), newEvent("2", "unwanted", "s"), newEvent("3", "other", "s"))
	all.expect(t, "1", "2", "3")
	some.expect(t, "1", "3")
	if _, err := f.grid.Delete(t.Context(), source, "some", grid.Condition{}); err != nil {
		t.Fatal(err)
	}
	f.publish(newEvent("4", "Wanted", "s"))
	all.expect(t, "4")
	select {
	case id := <-some.ids:
		t.Errorf("what was deleted gets %s", id)
	case id := <-none.ids:
		t.Errorf("what wants another type gets %s", id)
	default:
	}
	if _, err := f.grid.Delete(t.Context(), source, "all", grid.Condition{}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.grid.Delete(t.Context(), source, "none", grid.Condition{}); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(f.grid)
	matched := func() (n float64) {
		all, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if strings.HasSuffix(m.GetName(), "matched_events_total") {
				n += m.GetMetric()[0].GetCounter().GetValue()
			}
		}
		return n
	}
	before := matched()
	f.publish(newEvent("5", "Wanted", "s"))
	if now := matched(); before == 0 || now != before {
		t.Errorf("%v events were matched, and %v when nobody is there any more", before, now-before)
	}
}

// A subscription that cannot be read matches nothing and keeps its progress;
// those beside it go on.
func TestUnreadableSubscription(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := newReceiver(t)
	for _, name := range []string{"aaa", "bbb", "ccc"} {
		f.put(name, properties(r.URL))
		f.awaitState(name, grid.Succeeded)
	}
	f.stop()
	snap := f.engine.Snapshot()
	prefix := []byte{store.Config, byte(store.TableSub)}
	it := snap.Iter(prefix, store.PrefixEnd(prefix))
	it.Next()
	key := slices.Clone(it.Key())
	it.Close()
	snap.Close()
	b := store.NewBatch(store.Normal)
	b.Put(key, []byte{99})
	if _, err := store.Commit(t.Context(), f.engine, b); err != nil {
		t.Fatal(err)
	}
	f.setAside = setaside.New(nil)
	f.start()
	if n := len(f.grid.List(source)); n != 2 {
		t.Errorf("%d subscriptions are left", n)
	}
	total := uint64(0)
	for _, n := range f.setAside.Counts() {
		total += n
	}
	if total != 1 {
		t.Errorf("set aside: %v", f.setAside.Counts())
	}
	f.publish(newEvent("1", "T", "s"))
	for range 2 {
		r.expect(t, "1")
	}
}

// Whatever a grid needs is asked for.
func TestOptionsAreChecked(t *testing.T) {
	f := newFixture(t)
	f.open()
	hooks, err := webhook.New(webhook.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer hooks.Close()
	good := grid.Options{Engine: f.engine, Dispatcher: f.d, Webhooks: hooks, Settings: f.set}
	for what, change := range map[string]func(*grid.Options){
		"engine": func(o *grid.Options) { o.Engine = nil }, "dispatcher": func(o *grid.Options) { o.Dispatcher = nil },
		"webhooks": func(o *grid.Options) { o.Webhooks = nil }, "settings": func(o *grid.Options) { o.Settings.TailBuffer = 0 },
	} {
		o := good
		change(&o)
		if _, err := grid.Open(o); err == nil {
			t.Errorf("it opens without %s", what)
		}
	}
	if _, err := grid.Open(good); err != nil {
		t.Error(err)
	}
}

// The resource shows what was set, and nothing of what was not.
func TestResourceShowsWhatIsSet(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := newReceiver(t)
	p := properties(r.URL)
	f.put("plain", p)
	p.Destination.PreferredBatchKB = 128
	p.DeadLetterDirectory, p.Expiration = "dead", time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)
	f.put("rich", p)
	p.DeadLetterDirectory, p.Paused = "", true
	f.put("paused", p)
	for name, want := range map[string][3]bool{"plain": {}, "rich": {true, true, false}, "paused": {true, false, true}} {
		body, err := f.awaitState(name, grid.Succeeded).PropertiesJSON(true)
		if err != nil {
			t.Fatal(err)
		}
		text := string(body)
		if size := `"preferredBatchSizeInKilobytes":128`; strings.Contains(text, size) != (name != "plain") || name == "plain" && !strings.Contains(text, `"preferredBatchSizeInKilobytes":64`) {
			t.Errorf("%s: %s", name, text)
		}
		got := [3]bool{strings.Contains(text, `"2100-01-02T03:04:05`), strings.Contains(text, `"deadLetterDirectory":"dead"`), strings.Contains(text, `"paused":true`)}
		if got != want || strings.Contains(text, `"rollcall"`) != (want[1] || want[2]) {
			t.Errorf("%s: %v: %s", name, got, text)
		}
	}
}

// What is deleted leaves no progress behind, and its events are counted as
// dropped no more.
func TestDeletedLeavesNothing(t *testing.T) {
	f := newFixture(t)
	f.dset.CursorInterval = time.Millisecond
	f.start()
	r := newReceiver(t)
	f.put("one", properties(r.URL))
	s := f.awaitState("one", grid.Succeeded)
	f.publish(newEvent("1", "T", "s"))
	r.expect(t, "1")
	if f.d.Queue(s.ID) == nil {
		t.Fatal("the dispatcher does not know it")
	}
	if existed, err := f.grid.Delete(t.Context(), source, "one", grid.Condition{}); !existed || err != nil {
		t.Fatal(existed, err)
	}
	if f.d.Queue(s.ID) != nil {
		t.Error("the dispatcher knows it still")
	}
	if existed, err := f.grid.Delete(t.Context(), source, "one", grid.Condition{}); existed || err != nil {
		t.Error(existed, err)
	}
}

// A pause is set once, and setting it again changes nothing.
func TestPauseTwice(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := newReceiver(t)
	f.put("one", properties(r.URL))
	f.awaitState("one", grid.Succeeded)
	first, err := f.grid.Pause(t.Context(), source, "one")
	if err != nil || !first.Properties.Paused {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := f.grid.Pause(t.Context(), source, "one")
	if err != nil || again.Revision != first.Revision || !again.Properties.Paused {
		t.Errorf("%+v, %v", again, err)
	}
	resumed, err := f.grid.Resume(t.Context(), source, "one")
	if err != nil || resumed.Properties.Paused || resumed.Revision == first.Revision {
		t.Errorf("%+v, %v", resumed, err)
	}
	if _, err := f.grid.Pause(t.Context(), source, "none"); !hasCode(err, fault.NotFound) {
		t.Errorf("one that is not there: %v", err)
	}
}

// An endpoint that answers without the code fails where nothing could confirm it
// by hand, and the narration ends with that.
func TestNoAddressToConfirmBy(t *testing.T) {
	for _, schema := range []event.Schema{event.EventGrid, event.CloudEvents} {
		f := newFixture(t)
		f.base = ""
		f.start()
		r := newReceiver(t)
		r.set(false, 200)
		p := properties(r.URL)
		p.Schema = schema
		f.put("one", p)
		s := f.awaitState("one", grid.Failed)
		if s.Failure == nil || len(s.Narration) == 0 || s.Narration[len(s.Narration)-1].Text != "Failed." {
			t.Fatalf("%+v", s)
		}
		if confirm := strings.Contains(s.Failure.Message, "no address at which it could be confirmed"); confirm != (schema == event.EventGrid) {
			t.Errorf("%v: %s", schema, s.Failure.Message)
		}
	}
}

// A member that is there twice, in any case, is refused by name, and so is what
// would need an identity.
func TestMembersTwice(t *testing.T) {
	const good = `"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"https://example.com/"}}`
	for body, want := range map[string]string{
		`{` + good + `,"labels":["a"],"Labels":["b"]}`:       "properties.Labels",
		`{` + good + `,"deadLetterWithResourceIdentity":{}}`: "properties.deadLetterWithResourceIdentity",
	} {
		_, err := grid.DecodeProperties([]byte(body))
		if got := mistakes(t, err); len(got) != 1 || !strings.EqualFold(got[0], want) {
			t.Errorf("%s: mistakes at %q, %v", body, got, err)
		}
	}
	_, err := grid.DecodeProperties([]byte(`{` + good + `,"labels":["a"],"Labels":["b"]}`))
	if !strings.Contains(fmt.Sprint(err), "twice") {
		t.Errorf("%v", err)
	}
	_, err = grid.DecodeProperties([]byte(`{` + good + `,"what":1}`))
	if !strings.Contains(fmt.Sprint(err), "unknown") {
		t.Errorf("%v", err)
	}
}
