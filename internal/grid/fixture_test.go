package grid_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
	"rollcall/internal/grid"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/setaside"
)

var source = grid.Source{Realm: "namespace/default", ID: "/subscriptions/0/resourceGroups/rollcall/providers/Microsoft.EventGrid/namespaces/default"}

// fixture is a grid with its dispatcher, on an engine that outlives both.
type fixture struct {
	t      testing.TB
	engine store.Engine
	set    grid.Settings
	dset   delivery.Settings
	base   string
	trust  string // what to trust for base
	root   string
	types  []string
	clock  clock.Clock // nil: the machine's
	log    *slog.Logger

	setAside *setaside.List // nil: the grid's own

	grid   *grid.Grid
	d      *delivery.Dispatcher
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	m := mem.New()
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fixture{t: t, engine: m, set: grid.DefaultSettings(), dset: delivery.DefaultSettings(), base: "http://127.0.0.1:1", root: t.TempDir()}
	f.set.ValidationPause = time.Millisecond
	t.Cleanup(f.stop)
	return f
}

func (f *fixture) start() {
	f.t.Helper()
	f.open()
	f.run()
}

func (f *fixture) open() {
	f.t.Helper()
	hooks, err := webhook.New(webhook.Options{Rules: webhook.Rules{AllowHTTP: true, AllowPrivate: true}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.d, err = delivery.Open(delivery.Options{Engine: f.engine, Settings: f.dset, DeadLetterRoot: f.root, Log: f.log})
	if err != nil {
		f.t.Fatal(err)
	}
	f.grid, err = grid.Open(grid.Options{
		Engine: f.engine, Dispatcher: f.d, Webhooks: hooks, Settings: f.set, DeadLetters: true, Clock: f.clock, Log: f.log, SetAside: f.setAside,
		BaseURL:    func(string) (string, string) { return f.base, f.trust },
		EventTypes: func(grid.Source) []string { return f.types },
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(hooks.Close)
}

func (f *fixture) run() {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	run := func(what string, r func(context.Context) error) {
		f.ended.Go(func() {
			if err := r(ctx); err != nil {
				f.t.Errorf("%s: %v", what, err)
			}
		})
	}
	run("grid", f.grid.Run)
	run("dispatcher", f.d.Run)
}

func (f *fixture) stop() {
	if f.cancel != nil {
		f.cancel()
		f.ended.Wait()
		f.cancel = nil
	}
}

func (f *fixture) publish(events ...*event.Event) {
	f.t.Helper()
	for _, e := range events {
		p := store.Partition(f.engine.Partitions(), source.Realm, e.Subject)
		if err := f.grid.Publish(context.Background(), p, source, e); err != nil {
			f.t.Fatal(err)
		}
	}
}

// await waits until the subscription satisfies a condition.
func (f *fixture) await(name string, what string, ok func(grid.Subscription) bool) grid.Subscription {
	f.t.Helper()
	late := time.After(20 * time.Second)
	for {
		changed, err := f.grid.Watch(source, name)
		if err != nil {
			f.t.Fatal(err)
		}
		s, err := f.grid.Get(source, name)
		if err != nil {
			f.t.Fatal(err)
		}
		if ok(s) {
			return s
		}
		select {
		case <-changed:
		case <-late:
			f.t.Fatalf("subscription %s is %s, want %s; %+v", name, s.State, what, s.Narration)
		}
	}
}

func (f *fixture) awaitState(name string, want grid.State) grid.Subscription {
	f.t.Helper()
	return f.await(name, string(want), func(s grid.Subscription) bool { return s.State == want })
}

// properties of a subscription to url.
func properties(url string) grid.Properties {
	return grid.Properties{Destination: grid.WebHook{EndpointURL: grid.Secret(url)}}
}

func (f *fixture) put(name string, p grid.Properties) grid.Subscription {
	f.t.Helper()
	s, _, err := f.grid.Put(context.Background(), source, name, p, grid.Condition{})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// receiver is a webhook that consents and hands over the ids of what it gets.
type receiver struct {
	*httptest.Server
	ids     chan string
	kinds   chan string // aeg-event-type of what is no notification
	confirm chan string // token of the validation URL

	mu      sync.Mutex
	consent bool
	status  int
}

func newReceiver(t testing.TB) *receiver {
	t.Helper()
	r := &receiver{ids: make(chan string, 1<<16), kinds: make(chan string, 100), confirm: make(chan string, 100), consent: true}
	r.Server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) set(consent bool, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.consent, r.status = consent, status
}

func (r *receiver) serve(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	r.mu.Lock()
	consent, status := r.consent, r.status
	r.mu.Unlock()
	var events []struct {
		ID   string
		Data struct{ ValidationCode, ValidationURL string }
	}
	_ = json.Unmarshal(body, &events)
	switch kind := q.Header.Get("aeg-event-type"); kind {
	case "SubscriptionValidation":
		u, _ := url.Parse(events[0].Data.ValidationURL)
		r.confirm <- u.Query().Get("token")
		if status != 0 {
			w.WriteHeader(status)
		}
		if consent {
			_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": events[0].Data.ValidationCode})
		}
	case "Notification":
		if status != 0 {
			w.WriteHeader(status)
			return
		}
		for _, e := range events {
			r.ids <- e.ID
		}
	default:
		r.kinds <- kind
	}
}

// expect waits for exactly these ids, in any order.
func (r *receiver) expect(t testing.TB, ids ...string) {
	t.Helper()
	want := map[string]bool{}
	for _, id := range ids {
		want[id] = true
	}
	late := time.After(20 * time.Second)
	for len(want) > 0 {
		select {
		case id := <-r.ids:
			if !want[id] {
				t.Fatalf("got event %s, which was not expected (again)", id)
			}
			delete(want, id)
		case <-late:
			t.Fatalf("events did not come: %v", want)
		}
	}
}

func newEvent(id, kind, subject string) *event.Event {
	return &event.Event{ID: id, Source: source.ID, Type: kind, Subject: subject, Time: time.Now(), DataVersion: "1", Data: []byte(`{}`)}
}
