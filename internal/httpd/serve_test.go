package httpd_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"rollcall/internal/httpd"
)

func requestFrom(peer, local string) *http.Request {
	r := &http.Request{RemoteAddr: peer, Header: http.Header{}}
	if local == "" {
		return r
	}
	return r.WithContext(context.WithValue(context.Background(), http.LocalAddrContextKey, staticAddr(local)))
}

func TestBodyLimit(t *testing.T) {
	f := start(t, httpd.Options{MaxBodyBytes: 1000})
	const head = "POST /x HTTP/1.1\nHost: localhost\nAuthorization: Bearer " + token + "\n"
	if a := f.send(head + "Content-Length: 1000\n\n" + strings.Repeat("x", 1000)); a.status != 200 {
		t.Errorf("1000 bytes: %d %s", a.status, a.body)
	}
	if a := f.send(head + "Content-Length: 1001\n\n"); a.status != 413 || a.code() != "RequestEntityTooLarge" { // before the body is sent
		t.Errorf("1001 bytes: %d %s", a.status, a.body)
	}
	if a := f.send(head + "Content-Length: 1000000000000\nExpect: 100-continue\n\n"); a.status != 413 {
		t.Errorf("a terabyte: %d", a.status)
	}
	chunks := strings.Repeat("64\n"+strings.Repeat("x", 100)+"\n", 11)
	if a := f.send(head + "Transfer-Encoding: chunked\n\n" + chunks + "0\n\n"); a.status != 413 {
		t.Errorf("1100 bytes in chunks: %d %s", a.status, a.body)
	}
	if n := f.value("rollcall_http_refused_total", map[string]string{"reason": "body"}); n != 2 {
		t.Errorf("%v refusals counted, want 2", n)
	}
}

func TestHeaderLimit(t *testing.T) {
	f := start(t, httpd.Options{MaxHeaderBytes: 4096})
	if a := f.send("GET / HTTP/1.1\nHost: localhost\nX: " + strings.Repeat("x", 2000) + "\n\n"); a.status != 200 {
		t.Errorf("small headers: %d", a.status)
	}
	if a := f.send("GET / HTTP/1.1\nHost: localhost\nX: " + strings.Repeat("x", 20000) + "\n\n"); a.status != 431 {
		t.Errorf("large headers: %d", a.status)
	}
}

// A peer that sends its headers or its body too slowly is cut off.
func TestSlowPeers(t *testing.T) {
	f := start(t, httpd.Options{HeaderTimeout: 100 * time.Millisecond, BodyTimeout: 100 * time.Millisecond, IdleTimeout: 100 * time.Millisecond})
	for name, sent := range map[string]string{
		"nothing": "",
		"headers": "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
		"body":    "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token + "\r\nContent-Length: 10\r\n\r\nxx",
		"idle":    "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		c := f.dial()
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		got := closed(t, c)
		c.Close()
		if name == "body" && !strings.HasPrefix(got, "HTTP/1.1 400 ") || name == "idle" && !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("%s: the answer is %q", name, got)
		}
	}
	c, err := net.Dial("tcp", f.tlsAddr) // no TLS handshake
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	closed(t, c)
}

func TestMaxConnections(t *testing.T) {
	f := start(t, httpd.Options{MaxConnections: 2})
	const request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	open := []net.Conn{f.dial(), f.dial()}
	for _, c := range open {
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		if a := read(t, c); a.status != 200 {
			t.Fatalf("status %d", a.status)
		}
	}
	third := f.dial()
	if got := closed(t, third); got != "" {
		t.Errorf("the third connection got %q", got)
	}
	third.Close()
	if n := f.value("rollcall_http_refused_total", map[string]string{"reason": "connections"}); n != 1 {
		t.Errorf("%v refusals counted, want 1", n)
	}
	for _, c := range open {
		c.Close()
	}
	eventually(t, "there is room again", func() bool { return f.value("rollcall_http_connections", nil) == 0 })
	if a := f.send("GET / HTTP/1.1\nHost: localhost\n\n"); a.status != 200 {
		t.Errorf("afterwards: %d", a.status)
	}
}

func TestPanic(t *testing.T) {
	f := start(t, httpd.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			_, _ = io.WriteString(w, strings.Repeat("x", 10))
			_ = http.NewResponseController(w).Flush()
		}
		panic("broken")
	})})
	a := f.send("GET /early?secret=1 HTTP/1.1\nHost: localhost\n\n")
	if id := a.header.Get("x-ms-request-id"); a.status != 500 || a.code() != "InternalServerError" || !strings.Contains(a.body, id) || !strings.Contains(f.log.String(), id) {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if strings.Contains(a.body, "broken") || strings.Contains(f.log.String(), "secret") {
		t.Error("the answer or the log tells too much")
	}
	c := f.dial()
	defer c.Close()
	if _, err := io.WriteString(c, "GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an answer that was cut short ended with %v", err)
	}
	if n := f.value("rollcall_http_panics_total", nil); n != 2 {
		t.Errorf("%v panics counted, want 2", n)
	}
}

func TestAnswerHeaders(t *testing.T) {
	n := 0
	f := start(t, httpd.Options{NewID: func() string { n++; return fmt.Sprintf("id-%d", n) }})
	a := f.send("GET / HTTP/1.1\nHost: localhost\n\n")
	for name, want := range map[string]string{
		"x-ms-request-id": "id-1", "x-ms-correlation-request-id": "id-1", "X-Content-Type-Options": "nosniff",
		"Cache-Control": "no-store", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
		"x-ms-client-request-id": "",
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	a = f.send("GET / HTTP/1.1\nHost: localhost\nx-ms-correlation-request-id: mine-7\nx-ms-client-request-id: c-1\nx-ms-return-client-request-id: true\n\n")
	if a.header.Get("x-ms-correlation-request-id") != "mine-7" || a.header.Get("x-ms-client-request-id") != "c-1" {
		t.Errorf("ids were not returned: %v", a.header)
	}
	a = f.send("GET / HTTP/1.1\nHost: localhost\nx-ms-correlation-request-id: " + strings.Repeat("x", 129) + "\n\n")
	if got := a.header.Get("x-ms-correlation-request-id"); got != "id-3" {
		t.Errorf("an unfit id was returned: %q", got)
	}
	a = f.send("GET / HTTP/1.1\nHost: evil.example\n\n")
	if a.header.Get("x-ms-request-id") != "id-4" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("a refusal has headers %v", a.header)
	}
}

// Repeated slashes are tolerated and never answered with a redirect.
func TestSlashes(t *testing.T) {
	f := start(t, httpd.Options{})
	for path, want := range map[string]string{
		"//subscriptions/a":      "/subscriptions/a",
		"/a///b//c/":             "/a/b/c/",
		"/a/b%2Fc//d":            "/a/b%2Fc/d",
		"/a/%2F%2F/b":            "/a/%2F%2F/b",
		"/a/../b/./c":            "/a/../b/./c",
		"//evil.example/a":       "/evil.example/a",
		"/sessions/a%20b//x%3Fy": "/sessions/a%20b/x%3Fy",
	} {
		a := f.send("GET " + path + " HTTP/1.1\nHost: localhost\n\n")
		if a.status != 200 || a.body != "GET "+want+" " {
			t.Errorf("%s: %d %q, want %q", path, a.status, a.body, want)
		}
	}
	if a := f.send("GET //healthz HTTP/1.1\nHost: localhost\n\n"); a.body != "ok\n" {
		t.Errorf("//healthz: %q", a.body)
	}
}

func TestReady(t *testing.T) {
	var why error
	f := start(t, httpd.Options{Ready: func() error { return why }})
	get := func(headers string) answer { return f.send("GET /readyz HTTP/1.1\nHost: localhost\n" + headers + "\n") }
	if a := get(""); a.status != 200 || a.body != "ready\n" {
		t.Errorf("%d %q", a.status, a.body)
	}
	why = errors.New("starting")
	if a := get(""); a.status != 503 || a.body != "not ready: starting\n" {
		t.Errorf("%d %q", a.status, a.body)
	}
	if a := get("X-Forwarded-For: 192.0.2.1\n"); a.status != 503 || a.body != "not ready\n" {
		t.Errorf("%d %q", a.status, a.body)
	}
}

func TestUpgrade(t *testing.T) {
	f := start(t, httpd.Options{WebSocket: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		go func() { // as the broker does
			defer c.Close()
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
			line, err := rw.ReadString('\n')
			if err != nil {
				t.Error(err)
			}
			_, _ = io.WriteString(c, line)
		}()
	}), MaxConnections: 1})
	c := f.dial()
	defer c.Close()
	if _, err := io.WriteString(c, "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("%v %v", res, err)
	}
	// An upgraded connection takes no place.
	if a := f.send("GET / HTTP/1.1\nHost: localhost\n\n"); a.status != 200 {
		t.Errorf("beside an upgraded connection: %d", a.status)
	}
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); line != "hello\n" || err != nil {
		t.Errorf("%q %v", line, err)
	}
	if n := f.value("rollcall_http_requests_total", map[string]string{"route": "mqtt", "status": "1xx"}); n != 1 {
		t.Errorf("%v upgrades counted, want 1", n)
	}
}

func TestHTTP2AndTLS(t *testing.T) {
	f := start(t, httpd.Options{})
	for _, h2 := range []bool{false, true} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.roots}, ForceAttemptHTTP2: h2}
		req, err := http.NewRequest(http.MethodPost, "https://"+f.tlsAddr+"/x", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if want := map[bool]int{false: 1, true: 2}[h2]; res.ProtoMajor != want || string(body) != "POST /x hello" {
			t.Errorf("%s: %s", res.Proto, body)
		}
		tr.CloseIdleConnections()
	}
	if _, err := tls.Dial("tcp", f.tlsAddr, &tls.Config{RootCAs: f.roots, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
}

func TestNewRefuses(t *testing.T) {
	for name, o := range map[string]httpd.Options{
		"no handler": {Token: "t"}, "no token": {Handler: http.NotFoundHandler()},
	} {
		if _, err := httpd.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
