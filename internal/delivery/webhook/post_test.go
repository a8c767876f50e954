package webhook_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
	"rollcall/internal/fault"
)

// request is what a receiver got.
type request struct {
	method string
	header http.Header
	body   string
}

// receiver answers as told and remembers what it got.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []request
}

func newReceiver(t *testing.T, answer http.HandlerFunc) *receiver {
	t.Helper()
	r := new(receiver)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Errorf("read body: %v", err)
		}
		r.mu.Lock()
		r.got = append(r.got, request{method: q.Method, header: q.Header, body: string(body)})
		r.mu.Unlock()
		q.Body = io.NopCloser(strings.NewReader(string(body)))
		if answer != nil {
			answer(w, q)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) requests() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func newClient(t testing.TB, o webhook.Options) *webhook.Client {
	t.Helper()
	c, err := webhook.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

var local = webhook.Rules{AllowHTTP: true, AllowPrivate: true}

func destination(t testing.TB, c *webhook.Client, url string, s event.Schema, a ...webhook.Attribute) *webhook.Destination {
	t.Helper()
	d, err := c.Destination(url, s, a)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func sample(id string) *event.Event {
	return &event.Event{
		ID: id, Source: "/subscriptions/0/namespaces/default", Type: "Microsoft.EventGrid.MQTTClientSessionConnected",
		Subject: "clients/c/sessions/s", Time: time.Date(2026, 1, 2, 3, 4, 5, 678900, time.UTC), DataVersion: "1",
		Data: []byte(`{"n":1,"flag":true,"text":"T","nested":{"Deep":"d"},"list":[1]}`), OutputID: "output-" + id,
		Accepted: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC),
	}
}

// The wire spelling of header names counts, so the request is read raw.
func rawRequest(t *testing.T, s event.Schema, batch bool, events []*event.Event, a ...webhook.Attribute) (head, body string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	text := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			text <- err.Error()
			return
		}
		defer c.Close()
		var all []byte
		buf := make([]byte, 4096)
		for !strings.HasSuffix(string(all), "}") && !strings.HasSuffix(string(all), "}]") {
			n, err := c.Read(buf)
			all = append(all, buf[:n]...)
			if err != nil {
				break
			}
		}
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
		text <- string(all)
	}()
	d := destination(t, newClient(t, webhook.Options{Rules: local}), "http://"+l.Addr().String()+"/hook?code=secret", s, a...)
	r := d.Deliver(context.Background(), delivery.Attempt{Subscription: "My-sub", Schema: s, Batch: batch, Events: events, Earlier: 2})
	if r.Verdict != delivery.Delivered {
		t.Fatalf("result %+v", r)
	}
	head, body, _ = strings.Cut(<-text, "\r\n\r\n")
	return head, body
}

func TestHeadersAndBody(t *testing.T) {
	eg := `{"id":"a","topic":"/subscriptions/0/namespaces/default","subject":"clients/c/sessions/s","eventType":"Microsoft.EventGrid.MQTTClientSessionConnected","eventTime":"2026-01-02T03:04:05.0006789Z","data":{"n":1,"flag":true,"text":"T","nested":{"Deep":"d"},"list":[1]},"dataVersion":"1","metadataVersion":"1"}`
	ce := `{"specversion":"1.0","id":"a","time":"2026-01-02T03:04:05.0006789Z","type":"Microsoft.EventGrid.MQTTClientSessionConnected","source":"/subscriptions/0/namespaces/default","subject":"clients/c/sessions/s","data":{"n":1,"flag":true,"text":"T","nested":{"Deep":"d"},"list":[1]}}`
	common := []string{"POST /hook?code=secret HTTP/1.1", "aeg-event-type: Notification", "aeg-subscription-name: MY-SUB",
		"aeg-delivery-count: 2", "aeg-output-event-id: output-a", "aeg-metadata-version: 1", "Accept-Encoding: gzip,deflate"}
	for _, c := range []struct {
		name   string
		schema event.Schema
		batch  bool
		n      int
		body   string
		lines  []string
		absent []string
	}{
		{"EventGrid", event.EventGrid, false, 1, "[" + eg + "]",
			[]string{"Content-Type: application/json; charset=utf-8", "aeg-data-version: 1"}, []string{"Origin:"}},
		{"EventGrid batch", event.EventGrid, true, 2, "[" + eg + "," + eg + "]",
			[]string{"Content-Type: application/json; charset=utf-8"}, nil},
		{"CloudEvents", event.CloudEvents, false, 1, ce,
			[]string{"Content-Type: application/cloudevents+json; charset=utf-8", "aeg-data-version: ",
				"Origin: eventgrid.azure.net", "WebHook-Request-Origin: eventgrid.azure.net"}, nil},
		{"CloudEvents batch", event.CloudEvents, true, 2, "[" + ce + "," + ce + "]",
			[]string{"Content-Type: application/cloudevents-batch+json; charset=utf-8"}, nil},
		{"CloudEvents batch of one", event.CloudEvents, true, 1, "[" + ce + "]",
			[]string{"Content-Type: application/cloudevents-batch+json; charset=utf-8"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var events []*event.Event
			for range c.n {
				events = append(events, sample("a"))
			}
			head, body := rawRequest(t, c.schema, c.batch, events)
			if body != c.body {
				t.Errorf("body\n%s\nwant\n%s", body, c.body)
			}
			lines := strings.Split(head, "\r\n")
			for _, want := range slices.Concat(common, c.lines) {
				if !slices.Contains(lines, want) {
					t.Errorf("no line %q in\n%s", want, head)
				}
			}
			for _, bad := range c.absent {
				if strings.Contains(head, "\r\n"+bad) {
					t.Errorf("unexpected %s in\n%s", bad, head)
				}
			}
		})
	}
}

func TestAttributes(t *testing.T) {
	attributes := []webhook.Attribute{
		{Name: "Authorization", Value: "Bearer x", Secret: true},
		{Name: "x-Number", SourceField: "data.n"}, {Name: "x-flag", SourceField: "data.flag"},
		{Name: "x-deep", SourceField: "data.nested.deep"}, {Name: "x-subject", SourceField: "SUBJECT"},
		{Name: "x-none", SourceField: "data.none"}, {Name: "x-object", SourceField: "data.nested"}, {Name: "x-list", SourceField: "data.list"},
	}
	head, _ := rawRequest(t, event.EventGrid, false, []*event.Event{sample("a")}, attributes...)
	for _, want := range []string{"Authorization: Bearer x", "x-Number: 1", "x-flag: true", "x-deep: d", "x-subject: clients/c/sessions/s"} {
		if !strings.Contains(head, "\r\n"+want) {
			t.Errorf("no %q in\n%s", want, head)
		}
	}
	for _, bad := range []string{"x-none", "x-object", "x-list"} {
		if strings.Contains(head, bad) {
			t.Errorf("unexpected %s in\n%s", bad, head)
		}
	}
	d := destination(t, newClient(t, webhook.Options{Rules: local}), "http://127.0.0.1/", event.EventGrid, attributes...)
	a, b := sample("a"), sample("b")
	if d.Group(a) != d.Group(b) {
		t.Error("events with equal dynamic values are apart")
	}
	b.Subject = "other"
	if d.Group(a) == d.Group(b) {
		t.Error("events with different dynamic values are together")
	}
}

func TestAttributeRules(t *testing.T) {
	for _, c := range []struct {
		a    webhook.Attribute
		good bool
	}{
		{webhook.Attribute{Name: "x-a", Value: "v"}, true},
		{webhook.Attribute{Name: "Authorization", Value: "v", Secret: true}, true},
		{webhook.Attribute{Name: "x-a", SourceField: "data.x"}, true},
		{webhook.Attribute{Name: "", Value: "v"}, false},
		{webhook.Attribute{Name: "aeg-foo", Value: "v"}, false},
		{webhook.Attribute{Name: "AEG-foo", Value: "v"}, false},
		{webhook.Attribute{Name: "Host", Value: "v"}, false},
		{webhook.Attribute{Name: "content-length", Value: "v"}, false},
		{webhook.Attribute{Name: "Transfer-Encoding", Value: "v"}, false},
		{webhook.Attribute{Name: "a b", Value: "v"}, false},
		{webhook.Attribute{Name: "x-a", Value: ""}, false},
		{webhook.Attribute{Name: "x-a", Value: "a\r\nb: c"}, false},
		{webhook.Attribute{Name: "x-a", Value: strings.Repeat("v", 4096)}, true},
		{webhook.Attribute{Name: "x-a", Value: strings.Repeat("v", 4097)}, false},
	} {
		bad := webhook.ValidateAttributes("m", []webhook.Attribute{c.a})
		if (len(bad) == 0) != c.good {
			t.Errorf("%+v: %v", c.a, bad.Err())
		}
	}
	eleven := make([]webhook.Attribute, 11)
	for i := range eleven {
		eleven[i] = webhook.Attribute{Name: "x-" + string(rune('a'+i)), Value: "v"}
	}
	if len(webhook.ValidateAttributes("m", eleven)) != 1 || len(webhook.ValidateAttributes("m", eleven[:10])) != 0 {
		t.Error("the limit is not 10")
	}
	if len(webhook.ValidateAttributes("m", []webhook.Attribute{{Name: "a", Value: "1"}, {Name: "A", Value: "2"}})) != 1 {
		t.Error("a name may be mapped twice")
	}
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		status  int
		verdict delivery.Verdict
		outcome delivery.Outcome
	}{
		{200, delivery.Delivered, delivery.Success}, {201, delivery.Delivered, delivery.Success},
		{202, delivery.Delivered, delivery.Success}, {203, delivery.Delivered, delivery.Success},
		{204, delivery.Delivered, delivery.Success}, {205, delivery.TryLater, delivery.GenericError},
		{206, delivery.TryLater, delivery.GenericError}, {301, delivery.TryLater, delivery.GenericError},
		{307, delivery.TryLater, delivery.GenericError}, {400, delivery.Refused, delivery.BadRequest},
		{401, delivery.Refused, delivery.Unauthorized}, {403, delivery.Refused, delivery.Forbidden},
		{404, delivery.TryLater, delivery.NotFound}, {408, delivery.TryLater, delivery.TimedOut},
		{410, delivery.Refused, delivery.NotFound}, {413, delivery.Refused, delivery.PayloadTooLarge},
		{429, delivery.TryLater, delivery.Busy}, {500, delivery.TryLater, delivery.GenericError},
		{503, delivery.TryLater, delivery.Busy},
	} {
		r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
			w.WriteHeader(c.status)
		})
		d := destination(t, newClient(t, webhook.Options{Rules: local}), r.URL, event.EventGrid)
		got := d.Deliver(context.Background(), delivery.Attempt{Subscription: "s", Schema: event.EventGrid, Events: []*event.Event{sample("a")}})
		if got.Verdict != c.verdict || got.Outcome != c.outcome || got.Status != c.status {
			t.Errorf("%d: %+v", c.status, got)
		}
		if c.verdict != delivery.Delivered && got.RetryAfter != 7*time.Second {
			t.Errorf("%d: retry after %v", c.status, got.RetryAfter)
		}
		if n := len(r.requests()); n != 1 {
			t.Errorf("%d: %d requests", c.status, n)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	attempt := delivery.Attempt{Subscription: "s", Schema: event.EventGrid, Events: []*event.Event{sample("a")}}
	release := make(chan struct{})
	hangs := newReceiver(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := closed.Addr().String()
	closed.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	secure.Config.ErrorLog = nil
	defer secure.Close()
	for _, c := range []struct {
		name, url string
		rules     webhook.Rules
		outcome   delivery.Outcome
	}{
		{"no answer", hangs.URL, local, delivery.TimedOut},
		{"refused", "http://" + refusing, local, delivery.SocketError},
		{"unknown host", "http://does-not-exist.invalid/", local, delivery.ResolutionError},
		{"self-signed", secure.URL, local, delivery.SocketError},
		{"resolves to loopback", "http://localtest.invalid/", webhook.Rules{AllowHTTP: true}, delivery.Disabled},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := webhook.Options{Rules: c.rules, ResponseTimeout: 2 * time.Second}
			if c.outcome == delivery.TimedOut {
				o.ResponseTimeout = 50 * time.Millisecond
			}
			o.Resolver = fakeDNS(t, map[string]string{"localtest.invalid.": "127.0.0.1"})
			d := destination(t, newClient(t, o), c.url+"?code=secret", event.EventGrid)
			got := d.Deliver(context.Background(), attempt)
			if got.Verdict != delivery.TryLater || got.Outcome != c.outcome {
				t.Errorf("%+v", got)
			}
			if got.Detail == "" || strings.Contains(got.Detail, "secret") {
				t.Errorf("detail %q", got.Detail)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d := destination(t, newClient(t, webhook.Options{Rules: local}), hangs.URL, event.EventGrid)
	if got := d.Deliver(ctx, attempt); got.Verdict != 0 {
		t.Errorf("abandoned: %+v", got)
	}
}

func TestEndpointRules(t *testing.T) {
	open, strict := webhook.Rules{AllowHTTP: true, AllowPrivate: true}, webhook.Rules{}
	for _, c := range []struct {
		url          string
		open, strict bool
	}{
		{"https://example.com/hook?code=x", true, true},
		{"http://example.com/hook", true, false},
		{"ftp://example.com/", false, false},
		{"example.com/hook", false, false},
		{"", false, false},
		{"https://", false, false},
		{"https://user:pw@example.com/", false, false},
		{"https://example.com/#part", false, false},
		{"https://exa mple.com/", false, false},
		{"https://" + strings.Repeat("a", 5000), false, false},
		{"https://127.0.0.1/", true, false},
		{"https://localhost/", true, false},
		{"https://[::1]/", true, false},
		{"https://[::ffff:127.0.0.1]/", true, false},
		{"https://10.1.2.3/", true, false},
		{"https://100.64.0.1/", true, false},
		{"https://[fd00::1]/", true, false},
		{"https://8.8.8.8/", true, true},
		{"https://169.254.169.254/", false, false},
		{"https://[::ffff:169.254.169.254]/", false, false},
		{"https://[64:ff9b::a9fe:a9fe]/", false, false},
		{"https://[2002:a9fe:a9fe::1]/", false, false},
		{"https://[fe80::1]/", false, false},
		{"https://[fd00:ec2::254]/", false, false},
		{"https://168.63.129.16/", false, false},
		{"https://100.100.100.200/", false, false},
		{"https://0.0.0.0/", false, false},
		{"https://[::]/", false, false},
		{"https://224.0.0.1/", false, false},
		{"https://255.255.255.255/", false, false},
	} {
		for _, r := range []struct {
			rules webhook.Rules
			want  bool
		}{{open, c.open}, {strict, c.strict}} {
			_, err := r.rules.Parse("endpointUrl", c.url)
			if (err == nil) != r.want {
				t.Errorf("%q under %+v: %v", c.url, r.rules, err)
			}
			if err != nil && (err.Code != fault.InvalidRequest || err.Target != "endpointUrl" || strings.Contains(err.Message, "code=x")) {
				t.Errorf("%q: %+v", c.url, err)
			}
		}
	}
}

// A name that resolves to an allowed address when it is looked up first and to
// a forbidden one later is judged by the address that is dialled.
func TestRebinding(t *testing.T) {
	r := newReceiver(t, nil)
	port := r.Listener.Addr().(*net.TCPAddr).Port
	for _, address := range []string{"169.254.169.254", "0.0.0.0", "224.0.0.1", "168.63.129.16"} {
		c := newClient(t, webhook.Options{Rules: local, Resolver: fakeDNS(t, map[string]string{"evil.invalid.": address})})
		d := destination(t, c, "http://evil.invalid:"+itoa(port)+"/", event.EventGrid)
		got := d.Deliver(context.Background(), delivery.Attempt{Subscription: "s", Schema: event.EventGrid, Events: []*event.Event{sample("a")}})
		if got.Outcome != delivery.Disabled {
			t.Errorf("%s: %+v", address, got)
		}
	}
	if n := len(r.requests()); n != 0 {
		t.Errorf("%d requests got through", n)
	}
}
