package webhook_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/clock/clocktest"
	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
)

// rawServer serves each connection with a function and closes it afterwards.
// The connections are numbered from 1.
func rawServer(t testing.TB, serve func(n int, c *net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(n, c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return "http://" + l.Addr().String() + "/"
}

// take reads one request whole, and reports whether there was one.
func take(r *bufio.Reader) bool {
	q, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, q.Body)
	return err == nil
}

func attempt(data int) delivery.Attempt {
	e := sample("a")
	e.Data = fmt.Appendf(nil, "%q", strings.Repeat("x", data))
	return delivery.Attempt{Subscription: "s", Schema: event.EventGrid, Events: []*event.Event{e}}
}

// deliver fails the test rather than hang.
func deliver(t testing.TB, d *webhook.Destination, a delivery.Attempt) delivery.Result {
	t.Helper()
	done := make(chan delivery.Result, 1)
	go func() { done <- d.Deliver(context.Background(), a) }()
	select {
	case r := <-done:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("an attempt does not end")
		return delivery.Result{}
	}
}

const noContent = "HTTP/1.1 204 No Content\r\n\r\n"

// A kept connection that the receiver closes just when the next request is sent
// is no failure of the receiver's: the request goes out again on another.
func TestKeptConnectionClosedUnderARequest(t *testing.T) {
	for name, reset := range map[string]bool{"closed": false, "reset": true} {
		t.Run(name, func(t *testing.T) {
			var answered atomic.Int64
			url := rawServer(t, func(_ int, c *net.TCPConn) {
				r := bufio.NewReader(c)
				if take(r) {
					answered.Add(1)
					_, _ = io.WriteString(c, noContent)
				}
				if reset {
					_ = c.SetLinger(0)
				}
				_, _ = r.ReadByte() // the next request has begun
			})
			d := destination(t, newClient(t, webhook.Options{Rules: local}), url, event.EventGrid)
			for n := range 50 {
				if r := deliver(t, d, attempt(100<<10)); r.Verdict != delivery.Delivered {
					t.Fatalf("request %d: %+v", n, r)
				}
			}
			if n := answered.Load(); n != 50 {
				t.Errorf("%d requests were answered, want 50", n)
			}
		})
	}
}

// The same with HTTP/2, where net/http does not send it again.
func TestKeptHTTP2ConnectionClosedUnderARequest(t *testing.T) {
	var requests atomic.Int64
	var s *httptest.Server
	s = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the request came by %s", r.Proto)
		}
		if requests.Add(1) == 2 {
			s.CloseClientConnections()
			<-r.Context().Done()
		}
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	d := destination(t, newClient(t, webhook.Options{Rules: local, RootCAs: pool}), s.URL, event.EventGrid)
	for n := range 2 {
		if r := deliver(t, d, attempt(10)); r.Verdict != delivery.Delivered {
			t.Fatalf("request %d: %+v", n, r)
		}
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

// A new connection that is closed without an answer is a failure, once.
func TestNewConnectionClosedUnderARequest(t *testing.T) {
	var requests atomic.Int64
	url := rawServer(t, func(_ int, c *net.TCPConn) {
		if take(bufio.NewReader(c)) {
			requests.Add(1)
		}
	})
	d := destination(t, newClient(t, webhook.Options{Rules: local}), url, event.EventGrid)
	if r := deliver(t, d, attempt(10)); r.Verdict != delivery.TryLater || r.Outcome != delivery.SocketError {
		t.Errorf("%+v", r)
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// Idle connections are given up before the receiver would, by what it says if
// it says something.
func TestIdleConnectionsAreGivenUp(t *testing.T) {
	for _, c := range []struct {
		header string
		after  time.Duration
	}{
		{"", 4 * time.Second},
		{"Keep-Alive: timeout=60, max=100\r\n", 59 * time.Second},
		{"Keep-Alive: max=100, timeout=2\r\n", time.Second},
		{"Keep-Alive: timeout=1000000\r\n", 89 * time.Second},
		{"Keep-Alive: timeout=soon\r\n", 4 * time.Second},
	} {
		t.Run(c.header, func(t *testing.T) {
			over := make(chan int, 10) // requests that a connection had
			url := rawServer(t, func(_ int, conn *net.TCPConn) {
				r, n := bufio.NewReader(conn), 0
				for ; take(r); n++ {
					_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n"+c.header+"\r\n")
				}
				over <- n
			})
			hand := clocktest.NewHand(time.Now())
			d := destination(t, newClient(t, webhook.Options{Rules: local, Clock: hand}), url, event.EventGrid)
			for range 3 { // each is a fresh start
				if r := deliver(t, d, attempt(10)); r.Verdict != delivery.Delivered {
					t.Fatalf("%+v", r)
				}
				hand.Advance(c.after - time.Millisecond)
				select {
				case n := <-over:
					t.Fatalf("closed early, after %d requests", n)
				default:
				}
			}
			hand.Advance(c.after)
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
				hand.Advance(time.Millisecond) // whoever armed a timer late is called too
				select {
				case n := <-over:
					if n != 3 {
						t.Errorf("the connection had %d requests, want 3", n)
					}
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
			t.Error("the connection is kept")
		})
	}
}

// The status decides, though the body of the answer does not come. A worker is
// not held, however often.
func TestStatusDecidesThoughTheBodyStalls(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	for _, c := range []struct {
		status  string
		verdict delivery.Verdict
	}{{"200 OK", delivery.Delivered}, {"503 Service Unavailable", delivery.TryLater}} {
		url := rawServer(t, func(_ int, conn *net.TCPConn) {
			take(bufio.NewReader(conn))
			fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Length: 100\r\n\r\nhalf", c.status)
			<-release
		})
		hand := clocktest.NewHand(time.Now()) // no time passes: nothing times out
		d := destination(t, newClient(t, webhook.Options{Rules: local, Clock: hand}), url, event.EventGrid)
		for range 300 {
			if r := deliver(t, d, attempt(10)); r.Verdict != c.verdict {
				t.Fatalf("%s: %+v", c.status, r)
			}
		}
		hand.Advance(time.Minute) // ends what drains
	}
}

// An answer before the request has been read (413, then close) counts, though
// what was still being sent was met with a reset.
func TestEarlyAnswer(t *testing.T) {
	url := rawServer(t, func(_ int, c *net.TCPConn) {
		buf := make([]byte, 1000)
		_, _ = c.Read(buf)
		_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	d := destination(t, newClient(t, webhook.Options{Rules: local}), url, event.EventGrid)
	a := attempt(1 << 20)
	for n := range 100 {
		if r := deliver(t, d, a); r.Outcome != delivery.PayloadTooLarge {
			t.Fatalf("attempt %d: %+v", n, r)
		}
	}
}

// P7: of an answer's header 64 KiB are read, not what a receiver likes to send.
func TestHugeAnswerHeaders(t *testing.T) {
	t.Run("HTTP/1", func(t *testing.T) {
		var sent atomic.Int64
		url := rawServer(t, func(_ int, c *net.TCPConn) {
			_ = c.SetWriteBuffer(4 << 10)
			take(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			line := "X-Filler: " + strings.Repeat("x", 1000) + "\r\n"
			for sent.Load() < 64<<20 {
				n, err := io.WriteString(c, line)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		d := destination(t, newClient(t, webhook.Options{Rules: local}), url, event.EventGrid)
		if r := deliver(t, d, attempt(10)); r.Verdict != delivery.TryLater {
			t.Errorf("%+v", r)
		}
		if n := sent.Load(); n > 8<<20 { // what the kernel's buffers take
			t.Errorf("%d bytes of headers were sent", n)
		}
	})
	for _, c := range []struct {
		bytes   int
		verdict delivery.Verdict
	}{{32 << 10, delivery.Delivered}, {128 << 10, delivery.TryLater}} {
		t.Run(fmt.Sprintf("HTTP/2 %d", c.bytes), func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor != 2 {
					t.Errorf("the request came by %s", r.Proto)
				}
				for n := 0; n < c.bytes; n += 1 << 10 {
					w.Header().Add("X-Filler", strings.Repeat("x", 1<<10))
				}
			}))
			s.EnableHTTP2 = true
			s.StartTLS()
			defer s.Close()
			pool := x509.NewCertPool()
			pool.AddCert(s.Certificate())
			d := destination(t, newClient(t, webhook.Options{Rules: local, RootCAs: pool}), s.URL, event.EventGrid)
			if r := deliver(t, d, attempt(10)); r.Verdict != c.verdict {
				t.Errorf("%+v", r)
			}
		})
	}
}

// A connection is used again, also if the answer has a body that nobody needs,
// and over HTTP/2 without a limit of ours to how long it is idle.
func TestConnectionsAreUsedAgain(t *testing.T) {
	for name, two := range map[string]bool{"HTTP/1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			var connections atomic.Int64
			idle := make(chan struct{}, 100)
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, strings.Repeat("x", 20<<10))
			}))
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				switch state {
				case http.StateNew:
					connections.Add(1)
				case http.StateIdle:
					idle <- struct{}{}
				}
			}
			s.EnableHTTP2 = two
			s.StartTLS()
			defer s.Close()
			pool := x509.NewCertPool()
			pool.AddCert(s.Certificate())
			hand := clocktest.NewHand(time.Now())
			client := newClient(t, webhook.Options{Rules: local, RootCAs: pool, Clock: hand})
			d := destination(t, client, s.URL, event.EventGrid)
			for n := range 5 {
				if r := deliver(t, d, attempt(10)); r.Verdict != delivery.Delivered {
					t.Fatalf("request %d: %+v", n, r)
				}
				client.AwaitDrains()
				if two {
					hand.Advance(time.Minute)
					continue
				}
				select {
				case <-idle:
				case <-time.After(10 * time.Second):
					t.Fatal("the connection is not kept")
				}
			}
			if n := connections.Load(); n != 1 {
				t.Errorf("5 requests took %d connections, want 1", n)
			}
		})
	}
}

// The answer to a handshake has to come whole, in time.
func TestHandshakeWhoseAnswerStalls(t *testing.T) {
	release, begun := make(chan struct{}), make(chan struct{})
	defer close(release)
	url := rawServer(t, func(_ int, c *net.TCPConn) {
		take(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"validationResponse\"")
		close(begun)
		<-release
	})
	hand := clocktest.NewHand(time.Now())
	d := destination(t, newClient(t, webhook.Options{Rules: local, Clock: hand}), url, event.EventGrid)
	got := make(chan webhook.Answer, 1)
	go func() { got <- d.Ask(context.Background(), question()) }()
	<-begun
	hand.Advance(31 * time.Second)
	select {
	case a := <-got:
		if a.Consent != webhook.Unanswered || a.Detail != "no answer in time" {
			t.Errorf("%+v", a)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the handshake does not end")
	}
}

// P7: receivers that send endless headers, to as many requests as four
// subscriptions make at a time, cost no more than the bound for each.
func TestHugeAnswerHeadersCostLittle(t *testing.T) {
	const requests = 128
	line := "X-Filler: " + strings.Repeat("x", 1000) + "\r\n"
	url := rawServer(t, func(_ int, c *net.TCPConn) {
		take(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for n := 0; n < 10<<20; n += len(line) {
			if _, err := io.WriteString(c, line); err != nil {
				return
			}
		}
	})
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	runtime.GC()
	before, peak := heap(), uint64(0)
	d := destination(t, newClient(t, webhook.Options{Rules: local}), url, event.EventGrid)
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			for range 4 {
				d.Deliver(context.Background(), attempt(10))
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	for over := false; !over; {
		peak = max(peak, heap())
		select {
		case <-done:
			over = true
		case <-time.After(time.Millisecond):
		}
	}
	grown := int64(peak) - int64(before)
	t.Logf("%d requests at a time, answered with 10 MiB of headers: %d KiB of heap at the worst moment", requests, grown>>10)
	if grown > requests*512<<10 {
		t.Errorf("%d bytes of heap at the worst moment, for 64 KiB to each of %d requests", grown, requests)
	}
}
