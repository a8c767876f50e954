package httpd_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/httpd"
)

const token = "the-token"

// fixture is a server that listens.
type fixture struct {
	t        testing.TB
	server   *httpd.Server
	registry *prometheus.Registry
	addr     string // plain
	tlsAddr  string
	roots    *x509.CertPool
	log      *logBuffer
}

// logBuffer takes what is logged.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func start(t testing.TB, o httpd.Options) *fixture {
	t.Helper()
	f := &fixture{t: t, registry: prometheus.NewRegistry(), log: new(logBuffer)}
	if o.Handler == nil {
		o.Handler = http.HandlerFunc(echo)
	}
	if o.Token == "" {
		o.Token = token
	}
	o.Log = slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if f.server, err = httpd.New(o); err != nil {
		t.Fatal(err)
	}
	if err := f.server.Register(f.registry); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	listen := func(serve func(context.Context, net.Listener) error) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			if err := serve(context.Background(), ln); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		return ln.Addr().String()
	}
	f.addr = listen(f.server.Serve)
	cert, roots := certificate(t)
	f.roots = roots
	f.tlsAddr = listen(func(ctx context.Context, ln net.Listener) error {
		return f.server.ServeTLS(ctx, ln, &tls.Config{Certificates: []tls.Certificate{cert}})
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f.server.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		group.Wait()
	})
	return f
}

func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// echo answers with the method, the path and the body.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		httpd.Fail(w, r, slog.New(slog.DiscardHandler), err)
		return
	}
	_, _ = io.WriteString(w, r.Method+" "+r.URL.EscapedPath()+" "+string(body))
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// code is that of the error body.
func (a answer) code() string {
	var e struct {
		Error struct{ Code, Message string }
	}
	_ = json.Unmarshal([]byte(a.body), &e)
	return e.Error.Code
}

// send writes a request as it is given, with \n for CRLF, and reads one answer.
func (f *fixture) send(request string) answer {
	f.t.Helper()
	c := f.dial()
	defer c.Close()
	if _, err := io.WriteString(c, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		f.t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	return readTo(f.t, c, method)
}

func (f *fixture) dial() net.Conn {
	f.t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		f.t.Fatal(err)
	}
	return c
}

func read(t testing.TB, c net.Conn) answer {
	t.Helper()
	return readTo(t, c, http.MethodGet)
}

// readTo reads the answer to a request of this method.
func readTo(t testing.TB, c net.Conn, method string) answer {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var body []byte
	if res.StatusCode != http.StatusSwitchingProtocols {
		if body, err = io.ReadAll(res.Body); err != nil {
			t.Fatal(err)
		}
	}
	return answer{res.StatusCode, res.Header, string(body)}
}

// value is that of a counter with labels as in {reason="host"}.
func (f *fixture) value(name string, labels map[string]string) float64 {
	f.t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	next:
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if want, ok := labels[l.GetName()]; ok && want != l.GetValue() {
					continue next
				}
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return 0
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("it did not come to be that %s", what)
		}
	}
}

// closed reads until the connection ends and returns what came.
func closed(t testing.TB, c net.Conn) string {
	t.Helper()
	text, err := io.ReadAll(c)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		t.Fatalf("the server kept the connection open; it sent %q", text)
	}
	return string(text)
}
