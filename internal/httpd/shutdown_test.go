package httpd_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"rollcall/internal/httpd"
)

// Shutdown ends reads, which may be streams, lets writes finish, and leaves
// nothing behind.
func TestShutdown(t *testing.T) {
	before := runtime.NumGoroutine()
	began, finish := make(chan string, 2), make(chan struct{})
	f := start(t, httpd.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began <- r.Method
		if r.Method == http.MethodGet {
			<-r.Context().Done()
			return
		}
		select {
		case <-finish:
			_, _ = io.WriteString(w, "done")
		case <-r.Context().Done():
			t.Error("the context of a write ended")
		}
	})})
	stream, write := f.dial(), f.dial()
	defer stream.Close()
	defer write.Close()
	for c, m := range map[net.Conn]string{stream: "GET", write: "POST"} {
		if _, err := fmt.Fprintf(c, "%s / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 0\r\n\r\n", m, token); err != nil {
			t.Fatal(err)
		}
		<-began
	}
	ended := make(chan error, 1)
	go func() { ended <- f.server.Shutdown(context.Background()) }()
	if a := read(t, stream); a.status != 200 {
		t.Errorf("the stream ended with %d", a.status)
	}
	close(finish)
	if a := read(t, write); a.body != "done" {
		t.Errorf("the write was answered %q", a.body)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", f.addr); err == nil {
		t.Error("it still listens")
	}
	stream.Close()
	write.Close()
	eventually(t, "its goroutines ended", func() bool { return runtime.NumGoroutine() <= before })
}

// A stream that moves its own deadline on outlives the one for answers.
func TestStreamOutlivesWriteTimeout(t *testing.T) {
	const timeout = 500 * time.Millisecond // bounds the TLS handshake too
	f := start(t, httpd.Options{WriteTimeout: timeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(timeout)
		defer tick.Stop()
		for range 3 {
			c := http.NewResponseController(w)
			if err := c.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Error(err)
			}
			if _, err := io.WriteString(w, "x"); err != nil {
				t.Error(err)
			}
			if err := c.Flush(); err != nil {
				t.Error(err)
			}
			<-tick.C
		}
	})})
	for _, h2 := range []bool{false, true} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.roots}, ForceAttemptHTTP2: h2}
		res, err := (&http.Client{Transport: tr}).Get("https://" + f.tlsAddr + "/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if string(body) != "xxx" || err != nil {
			t.Errorf("%s: %q, %v", res.Proto, body, err)
		}
		tr.CloseIdleConnections()
	}
}

// A shutdown that takes too long cuts what is left.
func TestShutdownDeadline(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	f := start(t, httpd.Options{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(began)
		<-release
	})})
	c := f.dial()
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-began
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.server.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	closed(t, c)
	close(release)
}

// Serve returns when its context ends, and the connections live on.
func TestServeContext(t *testing.T) {
	s, err := httpd.New(httpd.Options{Handler: http.HandlerFunc(echo), Token: token})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	f := &fixture{t: t, addr: ln.Addr().String()}
	c := f.dial()
	defer c.Close()
	get := func() {
		t.Helper()
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if a := read(t, c); a.status != 200 {
			t.Errorf("status %d", a.status)
		}
	}
	get()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	get()
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	broken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken.Close()
	s2, err := httpd.New(httpd.Options{Handler: http.HandlerFunc(echo), Token: token})
	if err != nil {
		t.Fatal(err)
	}
	if err := s2.Serve(context.Background(), broken); err == nil {
		t.Error("a listener that failed was not reported")
	}
}
