package httpd_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"rollcall/internal/httpd"
)

// exempting lets anyone GET what is below /free.
type exempting struct{ http.HandlerFunc }

func (exempting) Exempt(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/free") }

// A page whose name was made to resolve to our address cannot reach us.
func TestHost(t *testing.T) {
	f := start(t, httpd.Options{Hosts: []string{"grid.example.org", "*.fleet.example.org", "192.0.2.7", "2001:db8::1"}})
	_, port, _ := strings.Cut(f.addr, ":")
	for host, want := range map[string]int{
		f.addr:                   200,
		"localhost:" + port:      200,
		"localhost":              200,
		"LocalHost.":             200,
		"default.localhost:80":   200,
		"127.0.0.1":              200,
		"127.9.9.9:80":           200,
		"[::1]:8080":             200,
		"[::1]":                  200,
		"[::ffff:127.0.0.1]:80":  200,
		"grid.example.org":       200,
		"GRID.example.org:8443":  200,
		"a.fleet.example.org":    200,
		"192.0.2.7:80":           200,
		"[2001:db8::1]":          200,
		"fleet.example.org":      421,
		"xfleet.example.org":     421,
		"sub.grid.example.org":   421,
		"evil.example":           421,
		"evil.example:" + port:   421,
		"localhost.evil.example": 421,
		"notlocalhost":           421,
		"127.0.0.1.evil.example": 421,
		"192.0.2.8":              421,
		"0.0.0.0":                421,
		"169.254.169.254":        421,
		"[fe80::1]":              421,
	} {
		for _, head := range []string{"GET / HTTP/1.1", "POST / HTTP/1.1\nAuthorization: Bearer " + token} {
			a := f.send(head + "\nHost: " + host + "\nConnection: close\n\n")
			if a.status != want || want == 421 && a.code() != "MisdirectedRequest" {
				t.Errorf("%.4s with Host %s: %d %s, want %d", head, host, a.status, a.body, want)
			}
		}
	}
	if a := f.send("GET http://evil.example/ HTTP/1.1\nHost: localhost\n\n"); a.status != 421 { // RFC 9112, 3.2.2
		t.Errorf("absolute form: %d", a.status)
	}
	if a := f.send("GET / HTTP/1.0\n\n"); a.status != 421 {
		t.Errorf("no Host: %d", a.status)
	}
	if n := f.value("rollcall_http_refused_total", map[string]string{"reason": "host"}); n == 0 {
		t.Error("refusals are not counted")
	}
}

func TestBadHosts(t *testing.T) {
	for _, h := range []string{"", "*.", "a b", "http://x", "x:80", "u@x", "*"} {
		if _, err := httpd.New(httpd.Options{Handler: http.NotFoundHandler(), Token: "t", Hosts: []string{h}}); err == nil {
			t.Errorf("host %q was accepted", h)
		}
	}
}

// What a page of another origin has a browser send is refused, also where
// browsers ask no permission first.
func TestCrossSite(t *testing.T) {
	socket := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	f := start(t, httpd.Options{Handler: exempting{echo}, WebSocket: socket, NoAuth: true, Hosts: []string{"grid.example.org"}})
	const post = "POST /subscriptions HTTP/1.1\nContent-Type: text/plain\nContent-Length: 0\n"
	const get = "GET /rollcall/v1/status HTTP/1.1\n"
	const upgrade = "GET /mqtt HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n"
	own := "Host: " + f.addr + "\nOrigin: http://" + f.addr + "\n"
	for _, c := range []struct {
		name, head, rest string
		want             int
	}{
		{"no browser", post, "Host: localhost\n", 200},
		{"own page", post, own, 200},
		{"own page, default port", post, "Host: grid.example.org\nOrigin: http://grid.example.org:80\n", 200},
		{"own page, other case", post, "Host: grid.example.org\nOrigin: http://GRID.example.org\n", 200},
		{"own page behind a TLS proxy", get, "Host: grid.example.org\nOrigin: https://grid.example.org\nX-Forwarded-Proto: https\nAuthorization: Bearer " + token + "\n", 200},
		{"own page, fetch metadata", post, own + "Sec-Fetch-Site: same-origin\n", 200},
		{"typed", get, "Host: localhost\nSec-Fetch-Site: none\nSec-Fetch-Mode: navigate\n", 200},
		{"other site", post, "Host: localhost\nOrigin: https://evil.example\n", 403},
		{"other site reads", get, "Host: localhost\nOrigin: https://evil.example\n", 403},
		{"other port", post, "Host: localhost:8080\nOrigin: http://localhost:3000\n", 403},
		{"other scheme", post, "Host: localhost\nOrigin: https://localhost\n", 403},
		{"sandboxed", post, "Host: localhost\nOrigin: null\n", 403},
		{"empty", post, "Host: localhost\nOrigin:\n", 403},
		{"two", post, own + "Origin: https://evil.example\n", 403},
		{"path", post, "Host: localhost\nOrigin: http://localhost/\n", 403},
		{"rebound", post, "Host: evil.example\nOrigin: http://evil.example\n", 421},
		{"form without Origin", post, "Host: localhost\nSec-Fetch-Site: cross-site\n", 403},
		{"same site", post, "Host: localhost\nSec-Fetch-Site: same-site\n", 403},
		{"unknown metadata", post, "Host: localhost\nSec-Fetch-Site: whatever\n", 403},
		{"image", get, "Host: localhost\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors\nSec-Fetch-Dest: image\n", 403},
		{"link", get, "Host: localhost\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\n", 403},
		{"link to what proves itself", "GET /free HTTP/1.1\n", "Host: localhost\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\n", 200},
		{"frame of what proves itself", "GET /free HTTP/1.1\n", "Host: localhost\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: iframe\n", 403},
		{"preflight", "OPTIONS /subscriptions HTTP/1.1\n", "Host: localhost\nOrigin: https://evil.example\nAccess-Control-Request-Method: PUT\n", 403},
		{"WebSocket, no browser", upgrade, "Host: localhost\n", 418},
		{"WebSocket, own page", upgrade, own, 418},
		{"WebSocket, other site", upgrade, "Host: localhost\nOrigin: https://evil.example\n", 403},
		{"WebSocket, fetch metadata", upgrade, "Host: localhost\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: websocket\n", 403},
	} {
		a := f.send(c.head + c.rest + "\n")
		if a.status != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, a.status, a.body, c.want)
		}
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: the answer has %s", c.name, name)
			}
		}
	}
}

// Pages of the origins that are named may connect to MQTT, wherever it is
// mounted, and use nothing else.
func TestOrigins(t *testing.T) {
	socket := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	named := start(t, httpd.Options{Handler: exempting{echo}, WebSocket: socket, NoAuth: true, Origins: []string{"https://app.example.org", "http://localhost:3000"}})
	all := start(t, httpd.Options{Handler: exempting{echo}, WebSocket: socket, NoAuth: true, Origins: []string{"*"}})
	const upgrade = " HTTP/1.1\nHost: localhost\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\nSec-Fetch-Site: cross-site\n"
	for _, c := range []struct {
		request, origin  string
		named, everybody int
	}{
		{"GET /mqtt" + upgrade, "https://app.example.org", 418, 418},
		{"GET /ws" + upgrade, "https://app.example.org:443", 418, 418},
		{"GET /" + upgrade, "http://localhost:3000", 418, 418},
		{"GET /mqtt" + upgrade, "http://app.example.org", 403, 418},
		{"GET /mqtt" + upgrade, "https://app.example.org.evil.example", 403, 418},
		{"GET /mqtt" + upgrade, "https://x.app.example.org", 403, 418},
		{"GET /mqtt" + upgrade, "null", 403, 418},
		{"GET / HTTP/1.1\nHost: localhost\n", "https://app.example.org", 403, 403},
		{"GET /rollcall/v1/status HTTP/1.1\nHost: localhost\n", "https://app.example.org", 403, 403},
		{"POST /subscriptions HTTP/1.1\nHost: localhost\nContent-Length: 0\n", "https://app.example.org", 403, 403},
	} {
		for f, want := range map[*fixture]int{named: c.named, all: c.everybody} {
			if a := f.send(c.request + "Origin: " + c.origin + "\n\n"); a.status != want {
				t.Errorf("%.20q from %s (all: %v): %d, want %d", c.request, c.origin, f == all, a.status, want)
			}
		}
	}
	for _, bad := range []string{"app.example.org", "https://app.example.org/", "https://*.example.org/x", ""} {
		if _, err := httpd.New(httpd.Options{Handler: http.HandlerFunc(echo), NoAuth: true, Origins: []string{bad}}); err == nil {
			t.Errorf("%q is taken for an origin", bad)
		}
	}
}

func TestToken(t *testing.T) {
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "metrics") })
	locked := start(t, httpd.Options{Handler: exempting{echo}, Metrics: metrics})
	free := start(t, httpd.Options{Handler: exempting{echo}, Metrics: metrics, NoAuth: true})
	const proxy = "X-Forwarded-For: 192.0.2.1\n"
	const good, bad = "Authorization: Bearer " + token + "\n", "Authorization: Bearer nonsense\n"
	for _, c := range []struct {
		request, headers string
		locked, free     int
	}{
		{"GET /x", "", 200, 200},
		{"HEAD /x", "", 200, 200},
		{"GET /x", good, 200, 200},
		{"GET /x", "authorization: bearer " + token + "\n", 200, 200},
		{"GET /x", bad, 401, 200},
		{"GET /x", "Authorization: Basic dTpw\n", 401, 200},
		{"GET /x", "Authorization: Bearer\n", 401, 200},
		{"GET /x", good + bad, 401, 200},
		{"GET /x", proxy, 401, 401},
		{"GET /x", "Via: 1.1 proxy\n", 401, 401},
		{"GET /x", "Forwarded: for=192.0.2.1\n", 401, 401},
		{"GET /x", "X-Real-IP: 192.0.2.1\n", 401, 401},
		{"GET /x", "X-Forwarded-Proto: https\n", 401, 401},
		{"GET /x", proxy + good, 200, 200},
		{"GET /x", proxy + bad, 401, 401},
		{"POST /x", "", 401, 200},
		{"PUT /x", "", 401, 200},
		{"PATCH /x", "", 401, 200},
		{"DELETE /x", "", 401, 200},
		{"OPTIONS /x", "", 401, 200},
		{"BREW /x", "", 401, 200},
		{"POST /x", good, 200, 200},
		{"POST /x", bad, 401, 200},
		{"POST /x", proxy, 401, 401},
		{"POST /x", proxy + good, 200, 200},
		{"GET /free", "", 200, 200},
		{"GET /free", proxy, 200, 200},
		{"GET /healthz", proxy, 200, 200},
		{"GET /readyz", proxy, 200, 200},
		{"POST /healthz", proxy, 405, 405},
		{"GET /metrics", "", 200, 200},
		{"GET /metrics", proxy, 401, 401},
		{"GET /metrics", proxy + good, 200, 200},
		{"POST /metrics", good, 405, 405},
	} {
		for f, want := range map[*fixture]int{locked: c.locked, free: c.free} {
			a := f.send(c.request + " HTTP/1.1\nHost: localhost\n" + c.headers + "Content-Length: 0\nConnection: close\n\n")
			if a.status != want {
				t.Errorf("%s %q (no auth: %v): %d, want %d", c.request, c.headers, f == free, a.status, want)
			}
			if a.status == 401 && (!strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer ") || !strings.HasPrefix(c.request, "HEAD") && a.code() != "AuthenticationFailed") {
				t.Errorf("%s %q: %v %s", c.request, c.headers, a.header, a.body)
			}
		}
	}
	if log := locked.log.String() + free.log.String(); strings.Contains(log, token) || strings.Contains(log, "nonsense") {
		t.Error("a token was logged")
	}
}

func TestLocal(t *testing.T) {
	plain, behind := newServer(t, httpd.Options{}), newServer(t, httpd.Options{BehindProxy: true})
	for _, c := range []struct {
		peer, local string
		want        bool
	}{
		{"127.0.0.1:1", "127.0.0.1:80", true},
		{"[::1]:1", "[::1]:80", true},
		{"[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:80", true},
		{"192.0.2.1:1", "127.0.0.1:80", false},
		{"127.0.0.1:1", "192.0.2.1:80", false},
		{"192.0.2.1:1", "192.0.2.2:80", false},
		{"", "127.0.0.1:80", false},
		{"@", "", false},
	} {
		if got := plain.Local(requestFrom(c.peer, c.local)); got != c.want {
			t.Errorf("from %q to %q: %v", c.peer, c.local, got)
		}
		if behind.Local(requestFrom(c.peer, c.local)) {
			t.Errorf("from %q to %q behind a proxy: on this machine", c.peer, c.local)
		}
	}
	for _, name := range []string{"Forwarded", "Via", "X-Real-Ip", "True-Client-Ip", "X-Forwarded-For", "X-Forwarded-Host", "Cf-Connecting-Ip"} {
		r := requestFrom("127.0.0.1:1", "127.0.0.1:80")
		r.Header = http.Header{name: {""}}
		if plain.Local(r) {
			t.Errorf("what came with %s counts as from this machine", name)
		}
	}
}

func newServer(t *testing.T, o httpd.Options) *httpd.Server {
	t.Helper()
	o.Handler, o.NoAuth = http.HandlerFunc(echo), true
	s, err := httpd.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// staticAddr is a net.Addr.
type staticAddr string

func (staticAddr) Network() string  { return "tcp" }
func (a staticAddr) String() string { return string(a) }
