package arm_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/arm"
	"rollcall/internal/event"
	"rollcall/internal/registry"
)

const version = "?api-version=2025-02-15"

// lines reads the answer to a GET line by line.
func (f *fixture) lines(ctx context.Context, path string) (*http.Response, *bufio.Reader) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.base+path, nil)
	f.must(err)
	res, err := f.client.Do(req)
	f.must(err)
	f.t.Cleanup(func() { res.Body.Close() })
	return res, bufio.NewReader(res.Body)
}

// next returns the next line that is no heartbeat.
func next(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line != "\n" {
			return line
		}
	}
}

// The tail shows events that nobody subscribed to, at once, one a line, and
// beats while there are none.
func TestTail(t *testing.T) {
	f := newFixture(t)
	res, r := f.lines(t.Context(), "/rollcall/v1/events/tail")
	if ct := res.Header.Get("Content-Type"); res.StatusCode != 200 || ct != "application/x-ndjson" {
		t.Fatalf("%d %s", res.StatusCode, ct)
	}
	for i := range 5 { // heartbeats
		if line, err := r.ReadString('\n'); line != "\n" || err != nil {
			t.Fatalf("beat %d: %q %v", i, line, err)
		}
	}
	const n = 200
	for i := range n {
		f.publish(&event.Event{
			ID: fmt.Sprint(i), Source: ns, Type: "T", Subject: "s", Time: time.Now(), Data: []byte("{\"i\":\n\t1}"),
		})
		if i%50 == 0 { // let it catch up: the tail's buffer is bounded
			for want := max(0, i-49); want <= i; want++ {
				checkEvent(t, next(t, r), want)
			}
		}
	}
	for want := n - 49; want < n; want++ {
		checkEvent(t, next(t, r), want)
	}
}

func checkEvent(t *testing.T, line string, want int) {
	t.Helper()
	var e struct {
		ID   string
		Data struct{ I int }
	}
	if err := json.Unmarshal([]byte(line), &e); err != nil || e.ID != fmt.Sprint(want) || e.Data.I != 1 {
		t.Fatalf("got %q (%v), want event %d", line, err, want)
	}
}

func TestTailsAreBounded(t *testing.T) {
	f := newFixture(t, func(o *arm.Options) { o.MaxTails = 2 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.lines(ctx, "/rollcall/v1/events/tail")
	f.lines(t.Context(), "/rollcall/v1/events/tail")
	status, h, body := f.do("GET", "/rollcall/v1/events/tail", "")
	if status != 429 || h.Get("Retry-After") == "" || !strings.Contains(body, "TooManyRequests") {
		t.Errorf("the third: %d %s", status, body)
	}
	cancel()
	late := time.Now().Add(20 * time.Second)
	for { // the server notices at the next heartbeat at the latest
		res, _ := f.lines(t.Context(), "/rollcall/v1/events/tail")
		if res.StatusCode == 200 {
			break
		}
		if time.Now().After(late) {
			t.Fatal("the place of a reader who left is not free")
		}
	}
}

// A reader that takes nothing is cut off and does not hold anybody up.
func TestSlowTail(t *testing.T) {
	f := newFixture(t, func(o *arm.Options) { o.TailWrite, o.Heartbeat = 50*time.Millisecond, time.Hour })
	res, _ := f.lines(t.Context(), "/rollcall/v1/events/tail")
	data := []byte(`"` + strings.Repeat("x", 256<<10) + `"`)
	late := time.Now().Add(20 * time.Second)
	for n := 0; f.active.Load() > 0; n++ {
		f.publish(&event.Event{ID: fmt.Sprint(n), Source: ns, Type: "T", Subject: "s", Time: time.Now(), Data: data})
		if time.Now().After(late) {
			t.Fatal("the reader was not cut off")
		}
	}
	if _, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Error("the stream ended as if it were whole")
	}
}

// Shutdown ends live tails and watches.
func TestShutdownEndsStreams(t *testing.T) {
	f := newFixture(t, func(o *arm.Options) { o.Watch = time.Hour })
	hook := newReceiver(t, 200, true)
	f.do("PUT", ns+"/providers/Microsoft.EventGrid/eventSubscriptions/hook"+version, properties(hook.URL))
	f.await("hook", "Succeeded")
	_, r := f.lines(t.Context(), "/rollcall/v1/events/tail")
	watched := make(chan int, 1)
	go func() {
		status, _, _ := f.do("GET", "/rollcall/v1/eventSubscriptions/hook?watch=4", "")
		watched <- status
	}()
	f.busy(2)
	if err := f.server.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err != nil {
		t.Errorf("the tail ended with %v", err)
	}
	if status := <-watched; status != 503 {
		t.Errorf("the watch ended with %d", status)
	}
}

func properties(endpoint string) string {
	return `{"properties":{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"` + endpoint + `"}}}}`
}

// A watch answers as soon as there is something to tell.
func TestWatch(t *testing.T) {
	f := newFixture(t, func(o *arm.Options) { o.Watch = time.Hour })
	hook := newReceiver(t, 200, true)
	f.do("PUT", ns+"/providers/Microsoft.EventGrid/eventSubscriptions/hook"+version, properties(hook.URL))
	told := 0
	for state := ""; state != "Succeeded"; {
		_, _, body := f.do("GET", fmt.Sprintf("/rollcall/v1/eventSubscriptions/hook?watch=%d", told), "")
		var s struct {
			State     string
			Narration []struct{ Text string }
		}
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			t.Fatal(err)
		}
		if len(s.Narration) == told && s.State != "Succeeded" {
			t.Fatalf("the watch of %d steps told nothing: %s", told, body)
		}
		state, told = s.State, len(s.Narration)
	}
	watched := make(chan string, 1)
	go func() {
		_, _, body := f.do("GET", fmt.Sprintf("/rollcall/v1/eventSubscriptions/hook?watch=%d", told), "")
		watched <- body
	}()
	f.busy(1)
	f.do("POST", "/rollcall/v1/eventSubscriptions/hook/pause", "")
	f.do("POST", "/rollcall/v1/eventSubscriptions/hook/resume", "")
	f.do("DELETE", ns+"/providers/Microsoft.EventGrid/eventSubscriptions/hook"+version, "")
	if body := <-watched; !strings.Contains(body, `"paused"`) && !strings.Contains(body, "ResourceNotFound") {
		t.Errorf("the watch was answered %s", body)
	}
}

// A long-running operation as clients follow it: the header's URL until the
// status is final, then the resource.
func TestOperation(t *testing.T) {
	f := newFixture(t)
	for name, want := range map[string]string{"good": "Succeeded", "bad": "Failed"} {
		hook := newReceiver(t, map[string]int{"good": 200, "bad": 500}[name], true)
		id := ns + "/providers/Microsoft.EventGrid/eventSubscriptions/" + name
		status, h, body := f.do("PUT", id+version, properties(hook.URL), "X-Forwarded-Proto: https")
		if status != 201 {
			t.Fatalf("%d %s", status, body)
		}
		link := h.Get("Azure-AsyncOperation")
		if !strings.HasPrefix(link, "https"+strings.TrimPrefix(f.base, "http")+"/subscriptions/") { // TLS ended before us
			t.Fatalf("the operation is at %q", link)
		}
		path := "/subscriptions" + strings.SplitN(link, "/subscriptions", 2)[1]
		f.await(name, want)
		status, _, body = f.do("GET", path, "")
		var op struct {
			Status string
			Error  struct{ Code, Message string }
		}
		if err := json.Unmarshal([]byte(body), &op); err != nil || status != 200 || op.Status != want {
			t.Errorf("%d %s", status, body)
		}
		if want == "Failed" && (op.Error.Code != "Url validation" || !strings.HasPrefix(op.Error.Message, "Webhook validation handshake failed for "+hook.URL)) {
			t.Errorf("the error is %+v", op.Error)
		}
		if status, _, body = f.do("GET", id+version, ""); !strings.Contains(body, `"provisioningState":"`+want+`"`) {
			t.Errorf("%d %s", status, body)
		}
	}
}

// The certificate that is issued lets the client in, over the CA certificate
// that was registered with it.
func TestIssueCertificate(t *testing.T) {
	f := newFixture(t)
	f.do("PUT", ns+"/clients/pump"+version, `{"properties":{"authenticationName":"The Pump"}}`)
	status, _, body := f.do("POST", "/rollcall/v1/clients/pump/certificate", `{"days":30}`)
	var issued struct{ Certificate, PrivateKey, CA string }
	if err := json.Unmarshal([]byte(body), &issued); err != nil || status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	pair, err := tls.X509KeyPair([]byte(issued.Certificate), []byte(issued.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if leaf.Subject.CommonName != "The Pump" || leaf.NotAfter.Sub(still{}.Now()) != 30*24*time.Hour || !strings.Contains(issued.CA, "server") {
		t.Errorf("%v until %v, CA %s", leaf.Subject, leaf.NotAfter, issued.CA)
	}
	id, _, err := f.registry.Authenticate(registry.Proof{
		ClientID: "c", UserName: "The Pump", HasUser: true, Leaf: leaf, Chain: []*x509.Certificate{leaf},
	}, nil) // certificates are judged at once
	if err != nil || id.ClientName != "pump" {
		t.Errorf("%+v %v", id, err)
	}
	_, _, body = f.do("GET", ns+"/caCertificates/"+registry.QuickStartCA+version, "")
	var ca struct {
		Properties struct{ EncodedCertificate string }
	}
	if err := json.Unmarshal([]byte(body), &ca); err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode([]byte(ca.Properties.EncodedCertificate)); block == nil {
		t.Errorf("the CA certificate is %s", body)
	}
}

// A password that is set lets the client in, and a change at the same time is
// not lost.
func TestPassword(t *testing.T) {
	f := newFixture(t)
	f.do("PUT", ns+"/clients/pump"+version, `{"properties":{}}`)
	var group sync.WaitGroup
	group.Go(func() {
		for i := range 20 {
			if status, _, body := f.do("PUT", ns+"/clients/pump"+version, fmt.Sprintf(`{"properties":{"description":"d%d"}}`, i)); status != 200 {
				t.Errorf("%d %s", status, body)
			}
		}
	})
	group.Go(func() {
		if status, _, body := f.do("POST", "/rollcall/v1/clients/pump/password", `{"password":"hidden"}`); status != 204 {
			t.Errorf("%d %s", status, body)
		}
	})
	group.Wait()
	p := registry.Proof{ClientID: "c", UserName: "pump", HasUser: true, Password: []byte("hidden"), Loopback: true}
	if err := judged(f, p); err != nil {
		t.Error(err)
	}
	if _, _, body := f.do("GET", ns+"/clients/pump"+version, ""); !strings.Contains(body, `"description":"d19"`) || strings.Contains(body, "hidden") {
		t.Errorf("the client is %s", body)
	}
	f.do("POST", "/rollcall/v1/clients/pump/password", `{"password":null}`)
	if err := judged(f, p); err == nil {
		t.Error("a password that was removed lets in")
	}
}

// Pages follow each other by their links and leave nothing out.
func TestPaging(t *testing.T) {
	f := newFixture(t)
	const n = 45
	for i := range n {
		if status, _, body := f.do("PUT", fmt.Sprintf("%s/clients/c:%02d%s", ns, i, version), `{"properties":{}}`); status != 201 {
			t.Fatalf("%d %s", status, body)
		}
	}
	path, pages, seen := ns+"/clients"+version, 0, 0
	for path != "" {
		var page struct {
			Value    []struct{ Name string }
			NextLink string
		}
		status, _, body := f.do("GET", path, "")
		if err := json.Unmarshal([]byte(body), &page); err != nil || status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		for _, c := range page.Value {
			if want := fmt.Sprintf("c:%02d", seen); c.Name != want {
				t.Fatalf("got %s, want %s", c.Name, want)
			}
			seen++
		}
		pages++
		path = strings.TrimPrefix(page.NextLink, f.base)
	}
	if seen != n || pages != 3 { // 20 a page
		t.Errorf("%d clients on %d pages", seen, pages)
	}
}

// Bodies are bounded, whatever they are of.
func TestLargeBody(t *testing.T) {
	f := newFixture(t)
	status, _, body := f.do("PUT", ns+"/clients/pump"+version, `{"properties":{"description":"`+strings.Repeat("x", 2<<20)+`"}}`)
	if status != 413 || !strings.Contains(body, "RequestEntityTooLarge") {
		t.Errorf("%d %.200s", status, body)
	}
	status, _, body = f.do("PUT", ns+"/clients/pump"+version, strings.Repeat(`{"properties":`, 20000)) // deep and broken
	if status != 400 || !strings.Contains(body, "InvalidRequestContent") {
		t.Errorf("%d %.200s", status, body)
	}
}

// All versions from 2022-06-15 on are served alike.
func TestVersions(t *testing.T) {
	f := newFixture(t)
	for v, want := range map[string]int{
		"2022-06-15": 200, "2023-06-01-preview": 200, "2023-12-15-preview": 200, "2024-06-01-preview": 200, "2024-12-15-preview": 200,
		"2025-02-15": 200, "2025-04-01-preview": 200, "2025-07-15-preview": 200,
		"2021-12-01": 400, "2021-10-15-preview": 400, "2018-01-01": 400, "2023-06-01": 400, "2025-02-15-preview": 400, "2026-01-01": 400, "": 400, "x": 400,
	} {
		if status, _, body := f.do("GET", ns+"/clients?api-version="+v, ""); status != want {
			t.Errorf("%q: %d %s", v, status, body)
		}
	}
}

// judged waits for the registry's answer.
func judged(f *fixture, p registry.Proof) error {
	answer := make(chan error, 1)
	_, known, err := f.registry.Authenticate(p, func(_ registry.Identity, err error) { answer <- err })
	if known {
		return err
	}
	return <-answer
}

// Where names of members are taken in any case, two that differ in case only are
// one member twice; where they are data, they are two.
func TestMembersThatDifferInCase(t *testing.T) {
	f := newFixture(t)
	rc := newReceiver(t, 200, true)
	const hook = ns + "/providers/Microsoft.EventGrid/eventSubscriptions/hook" + version
	destination := `"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"` + rc.URL + `"`
	for _, c := range []struct{ method, path, body string }{
		{"PUT", ns + "/clients/pump" + version, `{"properties":{"description":"a","Description":"b"}}`},
		{"PUT", ns + "/clients/pump" + version, `{"properties":{},"PROPERTIES":{"state":"Disabled"}}`},
		{"PUT", ns + "/clients/pump" + version, `{"properties":{"clientCertificateAuthentication":{"validationScheme":"DnsMatchesAuthenticationName","validationscheme":"ThumbprintMatch"}}}`},
		{"PUT", hook, `{"properties":{` + destination + `,"EndpointURL":"http://127.0.0.1:1"}}}}`},
		{"PUT", hook, `{"properties":{` + destination + `}},"retryPolicy":{"maxDeliveryAttempts":3,"MaxDeliveryAttempts":4}}}`},
		{"PATCH", hook, `{"labels":["a"],"Labels":["b"]}`},
		{"POST", "/rollcall/v1/clients/pump/password", `{"password":"a","Password":"b"}`},
	} {
		if status, _, text := f.do(c.method, c.path, c.body); status != 400 || !strings.Contains(text, "there twice") {
			t.Errorf("%s: %d %s", c.body, status, text)
		}
	}
	if status, _, text := f.do("PUT", ns+"/clients/pump"+version, `{"properties":{"attributes":{"a":1,"A":2}}}`); status >= 300 {
		t.Errorf("%d %s", status, text)
	}
}
