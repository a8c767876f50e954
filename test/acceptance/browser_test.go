package acceptance

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"rollcall/internal/arm"
	"rollcall/internal/config"
	"rollcall/internal/servertest"
)

// TestPageOfAnotherOrigin: MQTT.js in a browser, on a page that another server
// serves. It connects, publishes and receives where access.origins names that
// server, at the paths /mqtt and /, and is refused where it does not.
func TestPageOfAnotherOrigin(t *testing.T) {
	page := newPage(t)
	named := servertest.Start(t, func(c *config.Config) { c.Access.Origins = []string{page.URL} })
	unnamed := servertest.Start(t, nil)
	ws := func(s *servertest.Server, path string) string {
		return strings.Replace(s.Info.HTTP[0], "http://", "ws://", 1) + path
	}

	got := page.open(t, url.Values{
		"at-mqtt": {ws(named, "/mqtt")}, "at-root": {ws(named, "/")}, "refused": {ws(unnamed, "/mqtt")},
	})
	for _, id := range []string{"at-mqtt", "at-root"} {
		if want := "received hello on page/" + id; got[id] != want {
			t.Errorf("%s: %q, want %q", id, got[id], want)
		}
	}
	if got["refused"] != "closed" && !strings.HasPrefix(got["refused"], "error: ") {
		t.Errorf("without access.origins: %q", got["refused"])
	}
	if status := upgrade(t, unnamed.Info.HTTP[0]+"/mqtt", page.URL); status != http.StatusForbidden {
		t.Errorf("without access.origins the answer is %d, want 403", status)
	}

	// It is refused before it is MQTT: no session begins. It leaves a trace.
	var sessions struct{ Value []json.RawMessage }
	if err := json.Unmarshal(unnamed.Must(http.MethodGet, "/rollcall/v1/sessions", nil), &sessions); err != nil || len(sessions.Value) > 0 {
		t.Errorf("sessions: %s %v", sessions.Value, err)
	}
	all := refusals(t, unnamed)
	if len(all) < 2 { // of the browser, and of what looks like one
		t.Errorf("%d refusals", len(all))
	}
	for _, x := range all {
		if x.Reason != "websocket_origin" || !strings.Contains(x.Detail, page.URL) || x.Transport != "ws" || x.Remote == "" {
			t.Errorf("%+v", x)
		}
	}
}

// refusals are what a server tells of clients that were not let in, the newest
// first.
func refusals(t *testing.T, s *servertest.Server) []arm.Refusal {
	t.Helper()
	var list struct{ Value []arm.Refusal }
	if err := json.Unmarshal(s.Must(http.MethodGet, "/rollcall/v1/refusals", nil), &list); err != nil {
		t.Fatal(err)
	}
	return list.Value
}

// A WebSocket client that HTTP refuses leaves the same trace as one that MQTT
// refuses.
func TestEveryRefusedWebSocketLeavesATrace(t *testing.T) {
	s := servertest.Start(t, nil)
	good := map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
		"Sec-WebSocket-Protocol": "mqtt",
	}
	for _, c := range []struct {
		reason, detail string
		header, value  string
		status         int
	}{
		{"websocket_origin", "https://evil.example", "Origin", "https://evil.example", http.StatusForbidden},
		{"websocket_origin", "Sec-Fetch-Site", "Sec-Fetch-Site", "cross-site", http.StatusForbidden},
		{"websocket_host", "rebound.example", "Host", "rebound.example", http.StatusMisdirectedRequest},
		{"websocket_upgrade", "proxy", "Upgrade", "", http.StatusUpgradeRequired},
		{"websocket_protocol", "subprotocol mqtt", "Sec-WebSocket-Protocol", "wamp", http.StatusBadRequest},
		{"websocket_handshake", "Sec-WebSocket-Version", "Sec-WebSocket-Version", "8", http.StatusUpgradeRequired},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Info.HTTP[0]+"/mqtt", nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range good {
			r.Header.Set(name, value)
		}
		if r.Header.Set(c.header, c.value); c.header == "Host" {
			r.Host = c.value
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // only the status matters
		x := refusals(t, s)[0]
		if resp.StatusCode != c.status || x.Reason != c.reason || !strings.Contains(x.Detail, c.detail) || x.Transport != "ws" || x.Remote == "" || x.Time.IsZero() {
			t.Errorf("%s: %s: %d %+v", c.header, c.value, resp.StatusCode, x)
		}
	}
	if m, err := servertest.Metrics(t.Context(), s.Info); err != nil || m[`rollcall_mqtt_refusals_total{reason="websocket_origin"}`] != 2 {
		t.Errorf("%v %v", m[`rollcall_mqtt_refusals_total{reason="websocket_origin"}`], err)
	}
}

// upgrade asks for a WebSocket as a page of an origin would and returns the
// status of the answer.
func upgrade(t *testing.T, target, origin string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Origin": origin, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "mqtt",
	} {
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // only the status matters
	return resp.StatusCode
}

// page is a server of the page that runs MQTT.js.
type page struct {
	*httptest.Server
	reports chan map[string]string // outcome by client id
}

func newPage(t *testing.T) *page {
	p := &page{reports: make(chan map[string]string, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "../clients/page.html") })
	mux.HandleFunc("GET /mqtt.min.js", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, "../clients/node_modules/mqtt/dist/mqtt.min.js")
	})
	mux.HandleFunc("POST /report", func(w http.ResponseWriter, r *http.Request) {
		var outcomes []struct{ ID, Outcome string }
		if err := json.NewDecoder(r.Body).Decode(&outcomes); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		report := map[string]string{}
		for _, o := range outcomes {
			report[o.ID] = o.Outcome
		}
		p.reports <- report
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// open opens the page in a browser and returns what it reports.
func (p *page) open(t *testing.T, query url.Values) map[string]string {
	t.Helper()
	var browser string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Fatal("there is no Chromium; scripts/setup test installs it")
	}
	profile, err := os.MkdirTemp("", "rollcall-browser-")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+profile, "--remote-debugging-port=0", p.URL+"/?"+query.Encode())
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = io.Discard, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the browser and the processes that it started
		<-exited
		_ = os.RemoveAll(profile)
	}()
	select {
	case report := <-p.reports:
		return report
	case err := <-exited:
		exited <- err
		t.Fatalf("%s ended: %v: %s", browser, err, &output)
	case <-time.After(servertest.Patience):
		t.Fatal("the page does not report")
	}
	return nil
}
