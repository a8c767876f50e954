package webhook_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
)

// Options that make no sense are refused by name, and zero is the default.
func TestOptionsAreChecked(t *testing.T) {
	for _, c := range []struct {
		o    webhook.Options
		want string
	}{
		{webhook.Options{}, ""},
		{webhook.Options{ResponseTimeout: -1}, "responseTimeout"},
		{webhook.Options{IdlePerHost: -1}, "idlePerHost"},
		{webhook.Options{RequestRate: -1}, "requestRate"},
		{webhook.Options{Origin: "a\nb"}, "origin"},
		{webhook.Options{Origin: "a b\tc"}, ""},
	} {
		client, err := webhook.New(c.o)
		if c.want == "" {
			if err != nil {
				t.Errorf("%+v: %v", c.o, err)
				continue
			}
			client.Close()
		} else if err == nil || !strings.Contains(fmt.Sprintf("%+v", err), c.want) {
			t.Errorf("%+v: %v, want one about %s", c.o, err, c.want)
		}
	}
}

// A proxy takes the requests, also those for hosts that only it can resolve;
// without one they go to the host.
func TestProxyTakesTheRequests(t *testing.T) {
	asked := make(chan string, 1)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked <- r.URL.String() }))
	defer proxy.Close()
	to, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	// The rules forbid the proxy's own address, which is for operators to choose.
	c := newClient(t, webhook.Options{Rules: webhook.Rules{AllowHTTP: true}, Proxy: to})
	d := destination(t, c, "http://hook.invalid/a", event.EventGrid)
	if r := deliver(t, d, attempt(10)); r.Verdict != delivery.Delivered {
		t.Fatalf("%+v", r)
	}
	if got := <-asked; got != "http://hook.invalid/a" {
		t.Errorf("the proxy was asked for %s", got)
	}
}

// A client that is closed can still end what its callers have begun: answers
// are not read to their end then, and nothing hangs.
func TestDeliverAfterClose(t *testing.T) {
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 1000)) })
	c := newClient(t, webhook.Options{Rules: local})
	d := destination(t, c, r.URL, event.EventGrid)
	for range 3 {
		if r := deliver(t, d, attempt(10)); r.Verdict != delivery.Delivered {
			t.Fatalf("%+v", r)
		}
		c.Close()
	}
}

// A status without a name is told by its number.
func TestUnknownStatus(t *testing.T) {
	for status, want := range map[int]string{599: "599", 503: "503 Service Unavailable"} {
		r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		d := destination(t, newClient(t, webhook.Options{Rules: local}), r.URL, event.EventGrid)
		if got := deliver(t, d, attempt(10)); got.Detail != want {
			t.Errorf("%d: %q", status, got.Detail)
		}
	}
}

// Consent that comes later names nobody, everybody or us.
func TestPermits(t *testing.T) {
	c := newClient(t, webhook.Options{Origin: "us.example"})
	for _, one := range []struct {
		allowed []string
		want    bool
	}{
		{nil, true}, {[]string{"*"}, true}, {[]string{"US.example"}, true}, {[]string{"them.example, us.example"}, true},
		{[]string{"them.example", "*"}, true}, {[]string{"them.example"}, false}, {[]string{""}, false},
	} {
		if got := c.Permits(http.Header{"Webhook-Allowed-Origin": one.allowed}); got != one.want {
			t.Errorf("%q: %v", one.allowed, got)
		}
	}
}

// The rate that an endpoint allows is a number of requests per minute; anything
// else is any number.
func TestAllowedRate(t *testing.T) {
	for value, want := range map[string]int{
		"": 0, "*": 0, "0": 0, "1": 1, "-1": 0, "-120": 0, "7": 7, " 120 ": 120, "1000000": 1_000_000, "1000001": 1_000_000, "many": 0, "9999999999999999999999": 0,
	} {
		if got := webhook.AllowedRate(http.Header{"Webhook-Allowed-Rate": {value}}); got != want {
			t.Errorf("%q: %d, want %d", value, got, want)
		}
	}
}

// Events share a request only if their headers are the same, and a member that
// is empty is not one that is missing.
func TestGroupsOfMissingMembers(t *testing.T) {
	d := destination(t, newClient(t, webhook.Options{Rules: local}), "http://127.0.0.1/", event.EventGrid,
		webhook.Attribute{Name: "x-a", SourceField: "data.a"}, webhook.Attribute{Name: "x-static", Value: "v"})
	empty, missing := sample("a"), sample("b")
	empty.Data, missing.Data = []byte(`{"a":""}`), []byte(`{}`)
	if d.Group(empty) == d.Group(missing) {
		t.Error("an empty member and a missing one are together")
	}
}

// A mapping that does not apply to an event leaves the ones behind it alone, and
// one that has the name of a header of ours replaces it, however it is spelled.
func TestMappingsBesideOthers(t *testing.T) {
	r := newReceiver(t, nil)
	c := newClient(t, webhook.Options{Rules: local})
	d := destination(t, c, r.URL, event.EventGrid,
		webhook.Attribute{Name: "x-missing", SourceField: "data.missing"},
		webhook.Attribute{Name: "x-broken", SourceField: "data.broken"},
		webhook.Attribute{Name: "USER-agent", Value: "mine"}, webhook.Attribute{Name: "accept-ENCODING", Value: "identity"},
		webhook.Attribute{Name: "x-n", SourceField: "data.n"},
	)
	e := sample("a")
	e.Data = []byte(`{"n":1,"broken":"a\nb"}`)
	if got := deliver(t, d, delivery.Attempt{Subscription: "s", Schema: event.EventGrid, Events: []*event.Event{e}}); got.Verdict != delivery.Delivered {
		t.Fatalf("%+v", got)
	}
	h := r.requests()[0].header
	if len(h.Values("Accept-Encoding")) != 1 || h.Get("Accept-Encoding") != "identity" {
		t.Errorf("%v", h)
	}
	if len(h.Values("User-Agent")) != 1 || h.Get("User-Agent") != "mine" || h.Get("X-N") != "1" || h.Get("X-Missing") != "" || h.Get("X-Broken") != "" {
		t.Errorf("%v", h)
	}
}

// What is not a notification has the static mappings too: an endpoint that
// wants a token wants it with the handshake and the farewell. OPTIONS tells of
// no event, so that it has no dynamic ones.
func TestMappingsOfHandshakeAndFarewell(t *testing.T) {
	for _, s := range []event.Schema{event.EventGrid, event.CloudEvents} {
		r := newReceiver(t, nil)
		d := destination(t, newClient(t, webhook.Options{Rules: local}), r.URL, s,
			webhook.Attribute{Name: "x-dynamic", SourceField: "id"}, webhook.Attribute{Name: "Authorization", Value: "Bearer x", Secret: true})
		d.Ask(t.Context(), question())
		if got := d.Farewell(t.Context(), "s", "/topic", "/topic/s", "id", time.Now()); got.Verdict != delivery.Delivered {
			t.Errorf("%+v", got)
		}
		for _, q := range r.requests() {
			if q.header.Get("Authorization") != "Bearer x" {
				t.Errorf("%s without its mapping: %v", q.method, q.header)
			}
			if dynamic := q.header.Get("X-Dynamic") != ""; dynamic != (q.method == http.MethodPost) {
				t.Errorf("%s: dynamic %v", q.method, dynamic)
			}
		}
	}
}

// A farewell that reaches nobody, or is not taken, says so.
func TestFarewellInVain(t *testing.T) {
	c := newClient(t, webhook.Options{Rules: local})
	closed := httptest.NewServer(nil)
	closed.Close()
	d := destination(t, c, closed.URL, event.EventGrid)
	if got := d.Farewell(t.Context(), "s", "/topic", "/topic/s", "id", time.Now()); got.Verdict != delivery.TryLater || got.Outcome != delivery.SocketError {
		t.Errorf("nobody is there: %+v", got)
	}
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	d = destination(t, c, r.URL, event.EventGrid)
	if got := d.Farewell(t.Context(), "s", "/topic", "/topic/s", "id", time.Now()); got.Verdict != delivery.Refused {
		t.Errorf("it is not taken: %+v", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if got := d.Farewell(ended, "s", "/topic", "/topic/s", "id", time.Now()); got.Verdict != 0 {
		t.Errorf("we are shutting down: %+v", got)
	}
}

// Rules of mappings that the table of good and bad ones does not reach.
func TestMoreAttributeRules(t *testing.T) {
	for _, c := range []struct {
		a    webhook.Attribute
		want string // "": good
	}{
		{webhook.Attribute{Name: "x", SourceField: "data.x", Secret: true}, "isSecret"},
		{webhook.Attribute{Name: `x"y`, Value: "v"}, "name"},
		{webhook.Attribute{Name: "x\x7f", Value: "v"}, "name"},
		{webhook.Attribute{Name: "x~", Value: "v"}, ""},
		{webhook.Attribute{Name: "x", Value: "two words"}, ""},
		{webhook.Attribute{Name: "x", Value: "x\x7f"}, "value"},
		{webhook.Attribute{Name: "x", Value: "x\x1f"}, "value"},
	} {
		bad := webhook.ValidateAttributes("m", []webhook.Attribute{c.a})
		if c.want == "" && len(bad) != 0 || c.want != "" && (len(bad) != 1 || !strings.Contains(fmt.Sprintf("%+v", bad[0]), c.want)) {
			t.Errorf("%+v: %v", c.a, bad.Err())
		}
	}
}

// The longest URL is taken, one byte more is not; and http is told from what
// is no scheme of ours.
func TestEndpointBounds(t *testing.T) {
	c := newClient(t, webhook.Options{})
	long := "https://example.com/" + strings.Repeat("a", 4096-len("https://example.com/"))
	if err := c.Check("t", long); err != nil {
		t.Errorf("4096 bytes: %v", err)
	}
	if err := c.Check("t", long+"a"); err == nil {
		t.Error("4097 bytes are taken")
	}
	if err := c.Check("t", "http://example.com/"); err == nil || !strings.Contains(err.Message, "only where the server is configured") {
		t.Errorf("http: %v", err)
	}
	if err := c.Check("t", "ftp://example.com/"); err == nil || strings.Contains(err.Message, "configured") {
		t.Errorf("ftp: %v", err)
	}
}
