package arm_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/arm"
	"rollcall/internal/clock"
	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/disconnect"
	"rollcall/internal/event"
	"rollcall/internal/grid"
	"rollcall/internal/httpd"
	"rollcall/internal/pki"
	"rollcall/internal/presence"
	"rollcall/internal/registry"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

const (
	token = "the-token"
	subID = "/subscriptions/00000000-0000-0000-0000-000000000000"
	group = subID + "/resourceGroups/rollcall"
	ns    = group + "/providers/Microsoft.EventGrid/namespaces/default"
	realm = "default"
)

// still is a clock that always shows the same time; its timers are real.
type still struct{ clock.System }

func (still) Now() time.Time           { return time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC) }
func (still) Monotonic() time.Duration { return 0 }

// fixture is the control plane over real services and a real listener.
type fixture struct {
	t        testing.TB
	source   grid.Source
	engine   store.Engine
	grid     *grid.Grid
	registry *registry.Registry
	ledger   *presence.Ledger
	server   *httpd.Server
	base     string
	client   *http.Client

	active atomic.Int64 // requests being answered

	mu    sync.Mutex
	ended []string // sessions that were ended, and why
	holds map[string]*presence.Hold
}

func newFixture(t testing.TB, change ...func(*arm.Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, source: grid.Source{Realm: "namespace/default", ID: ns}, holds: map[string]*presence.Hold{}}
	m := mem.New()
	f.engine = m
	hooks, err := webhook.New(webhook.Options{Rules: webhook.Rules{AllowHTTP: true, AllowPrivate: true}})
	f.must(err)
	d, err := delivery.Open(delivery.Options{Engine: m, Clock: still{}, Settings: delivery.DefaultSettings(), DeadLetterRoot: t.TempDir()})
	f.must(err)
	set := grid.DefaultSettings()
	set.ValidationPause = time.Millisecond
	f.grid, err = grid.Open(grid.Options{
		Engine: m, Dispatcher: d, Webhooks: hooks, Clock: still{}, Settings: set, DeadLetters: true,
		BaseURL: func(string) (string, string) { return f.base, "" },
	})
	f.must(err)
	f.registry, err = registry.Open(t.Context(), registry.Options{
		Engine: m, Realm: realm, Clock: still{}, Settings: registry.Settings{Passwords: true, MaxClients: 1000},
		ClientAuthority: func(now time.Time) (*pki.Authority, error) { return pki.OpenClientAuthority(pkiDir(t), now) },
	})
	f.must(err)
	f.ledger, err = presence.Open(t.Context(), presence.Options{Engine: m, Node: "node1", Clock: still{}, NewID: func() string { return "event" }})
	f.must(err)
	o := arm.Options{
		Registry: f.registry, Grid: f.grid, Source: f.source, Ledger: f.ledger, Realm: realm, Broker: fakeBroker{f: f},
		ServerCA: []byte("-----BEGIN CERTIFICATE-----\nserver\n-----END CERTIFICATE-----\n"),
		Status:   func() any { return map[string]string{"version": "test", "namespace": ns} },
		Keys:     func() map[string]string { return map[string]string{"token": token} },
		MQTTHost: func() string { return "localhost:8883" }, HTTPHost: func() string { return "localhost:8443" },
		Clock: still{}, Heartbeat: 20 * time.Millisecond, Watch: 50 * time.Millisecond,
	}
	for _, c := range change {
		c(&o)
	}
	api, err := arm.New(o)
	f.must(err)
	f.server, err = httpd.New(httpd.Options{Handler: counting{api, &f.active}, Token: token, Log: slog.New(slog.DiscardHandler)})
	f.must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	f.must(err)
	f.base, f.client = "http://"+ln.Addr().String(), &http.Client{Transport: &http.Transport{}}

	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for what, run := range map[string]func(context.Context) error{
		"grid": f.grid.Run, "delivery": d.Run, "registry": f.registry.Run,
		"http": func(ctx context.Context) error { return f.server.Serve(ctx, ln) },
	} {
		group.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		if err := f.server.Shutdown(context.Background()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		cancel()
		group.Wait()
		hooks.Close()
		if err := f.registry.Close(); err != nil {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// counting counts the requests being answered.
type counting struct {
	*arm.API
	n *atomic.Int64
}

func (c counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.n.Add(1)
	defer c.n.Add(-1)
	c.API.ServeHTTP(w, r)
}

// busy waits until n requests are being answered.
func (f *fixture) busy(n int64) {
	f.t.Helper()
	late := time.Now().Add(20 * time.Second)
	for f.active.Load() != n {
		if time.Now().After(late) {
			f.t.Fatalf("%d requests are being answered, want %d", f.active.Load(), n)
		}
		runtime.Gosched()
	}
}

func pkiDir(t testing.TB) string { return t.TempDir() }

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// end is what ends sessions.
func (f *fixture) end(session, why string) bool {
	f.mu.Lock()
	h := f.holds[session]
	delete(f.holds, session)
	f.ended = append(f.ended, session+": "+why)
	f.mu.Unlock()
	if h == nil {
		return false
	}
	h.Release(disconnect.ServerInitiatedDisconnect, disconnect.Evidence{Kind: disconnect.Operator, Detail: "ended by an operator"}, nil)
	<-h.Released()
	return true
}

type idle struct{}

func (idle) Freeze()               {}
func (idle) Unfreeze()             {}
func (idle) Gone() bool            { return false }
func (idle) Evict(presence.Origin) {}

// connect makes a session connected.
func (f *fixture) connect(session string) {
	f.t.Helper()
	done := make(chan error, 1)
	f.ledger.Claim(presence.Claim{
		Realm: realm, Session: session, Owner: session, Conn: idle{},
		Origin: presence.Origin{Protocol: "MQTT 5.0", Transport: "tcp", Remote: "127.0.0.1:50000", Method: "anonymous"},
	}, func(h *presence.Hold, err error) {
		f.mu.Lock()
		f.holds[session] = h
		f.mu.Unlock()
		done <- err
	})
	f.must(<-done)
}

// leave has a session disconnect.
func (f *fixture) leave(session string) {
	f.mu.Lock()
	h := f.holds[session]
	delete(f.holds, session)
	f.mu.Unlock()
	h.Release(disconnect.ClientInitiatedDisconnect,
		disconnect.Evidence{Kind: disconnect.Packet, Packet: "DISCONNECT", HasCode: true, Detail: "the client disconnected"}, nil)
	<-h.Released()
}

// await waits for a state of an event subscription.
func (f *fixture) await(name, state string) {
	f.t.Helper()
	late := time.After(20 * time.Second)
	for {
		changed, err := f.grid.Watch(f.source, name)
		f.must(err)
		s, err := f.grid.Get(f.source, name)
		f.must(err)
		if string(s.State) == state {
			return
		}
		select {
		case <-changed:
		case <-late:
			f.t.Fatalf("subscription %s is %s, want %s", name, s.State, state)
		}
	}
}

func (f *fixture) publish(e *event.Event) {
	f.t.Helper()
	f.must(f.grid.Publish(context.Background(), 1, f.source, e))
}

// do makes a request with the token and returns status, headers and body.
func (f *fixture) do(method, path, body string, headers ...string) (int, http.Header, string) {
	f.t.Helper()
	req, err := http.NewRequest(method, f.base+path, strings.NewReader(body))
	f.must(err)
	req.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := f.client.Do(req)
	f.must(err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	f.must(err)
	return res.StatusCode, res.Header, string(text)
}

// receiver is a webhook that consents, keeps silent or refuses.
type receiver struct {
	*httptest.Server
	token atomic.Pointer[string] // of the newest validation URL
}

func newReceiver(t testing.TB, status int, consent bool) *receiver {
	t.Helper()
	r := new(receiver)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var events []struct {
			Data struct{ ValidationCode, ValidationURL string }
		}
		if json.NewDecoder(q.Body).Decode(&events) != nil || len(events) == 0 {
			return
		}
		if u, err := url.Parse(events[0].Data.ValidationURL); err == nil {
			text := u.Query().Get("token")
			r.token.Store(&text)
		}
		w.WriteHeader(status)
		if consent {
			_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": events[0].Data.ValidationCode})
		}
	}))
	t.Cleanup(r.Close)
	return r
}
