package listen_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/mqtt/listen"
)

const patience = 30 * time.Second

// echo sends back what comes, and reports how each connection ended.
type echo struct {
	infos chan listen.Info
	ends  chan error
}

func newEcho() *echo { return &echo{make(chan listen.Info, 16), make(chan error, 16)} }

func (e *echo) Serve(nc net.Conn, info listen.Info, done func()) {
	defer done()
	defer nc.Close()
	e.infos <- info
	buf := make([]byte, 64)
	for {
		n, err := nc.Read(buf)
		if n > 0 {
			if _, err := nc.Write(buf[:n]); err != nil {
				e.ends <- err
				return
			}
		}
		if err != nil {
			e.ends <- err
			return
		}
	}
}

func newServer(t *testing.T, o listen.Options) (*listen.Server, *prometheus.Registry) {
	t.Helper()
	o.Realm = "default"
	s, err := listen.New(o)
	if err != nil {
		t.Fatal(err)
	}
	r := prometheus.NewRegistry()
	if err := s.Register(r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if !s.Wait(ctx) {
			t.Error("connections are left")
		}
	})
	return s, r
}

func serve(t *testing.T, run func(ctx context.Context, ln net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := run(ctx, ln); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return ln.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = nc.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { nc.Close() })
	return nc
}

func refused(t *testing.T, r *prometheus.Registry, reason string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "rollcall_mqtt_accept_failures_total" && m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestConnectionLimit(t *testing.T) {
	e := newEcho()
	s, r := newServer(t, listen.Options{Handler: e, MaxConnections: 1})
	addr := serve(t, s.TCP)
	first := dial(t, addr)
	if info := <-e.infos; info.Transport != "tcp" || info.Realm != "default" || !info.Loopback || info.Confidential {
		t.Errorf("%+v", info)
	}
	if _, err := dial(t, addr).Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the second is served: %v", err)
	}
	if refused(t, r, "limit") != 1 {
		t.Error("the refusal is not counted")
	}
	first.Close()
	<-e.ends
	for { // the place becomes free soon after
		nc := dial(t, addr)
		if _, err := nc.Write([]byte("x")); err == nil {
			if _, err := io.ReadFull(nc, make([]byte, 1)); err == nil {
				return
			}
		}
		nc.Close()
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// TestSilentTLSPeers: peers that say nothing, one byte, or a whole hello and
// then nothing occupy no handshake slot, and are closed in time.
func TestSilentTLSPeers(t *testing.T) {
	e := newEcho()
	server, client := certificates(t)
	s, r := newServer(t, listen.Options{Handler: e, MaxHandshakes: 1, HandshakeTimeout: 2 * time.Second})
	addr := serve(t, func(ctx context.Context, ln net.Listener) error { return s.TLS(ctx, ln, server) })
	var silent []net.Conn
	for range 8 {
		nothing, one, hello := dial(t, addr), dial(t, addr), dial(t, addr)
		if _, err := one.Write([]byte{22}); err != nil {
			t.Fatal(err)
		}
		if _, err := hello.Write(clientHello(t, client)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(hello, make([]byte, 5)); err != nil { // the server has answered
			t.Fatal(err)
		}
		silent = append(silent, nothing, one, hello)
	}
	began := time.Now()
	nc := tls.Client(dial(t, addr), client)
	if _, err := nc.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 1900*time.Millisecond {
		t.Errorf("a handshake among silent peers took %s", took)
	}
	if info := <-e.infos; info.Transport != "tls" || !info.Confidential || info.TLS == nil {
		t.Errorf("%+v", info)
	}
	nc.Close()
	<-e.ends
	for _, c := range silent {
		if _, err := io.Copy(io.Discard, c); isTimeout(err) {
			t.Error("a silent peer is kept")
		}
	}
	counted := func() float64 { return refused(t, r, "tls_silent") + refused(t, r, "tls_handshake") }
	for end := time.Now().Add(patience); counted() < 24; runtime.Gosched() { // soon after the close
		if time.Now().After(end) {
			t.Fatalf("%v refusals are counted", counted())
		}
	}
}

// clientHello is what a TLS client says first.
func clientHello(t *testing.T, config *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	config = config.Clone()
	config.ServerName = "localhost"
	go func() {
		defer close(done)
		_ = tls.Client(a, config).Handshake()
	}()
	buf := make([]byte, 8<<10)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	<-done
	return buf[:n]
}

func certificates(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
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
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}

// web starts a WebSocket endpoint and returns its address.
func web(t *testing.T, e *echo) string {
	t.Helper()
	s, _ := newServer(t, listen.Options{Handler: e})
	hs := httptest.NewServer(s.WebSocket(func(r *http.Request) bool { return r.Header["X-Forwarded-For"] == nil }))
	t.Cleanup(hs.Close)
	return strings.TrimPrefix(hs.URL, "http://")
}

// upgrade opens a WebSocket and returns the raw connection; early is sent
// together with the request.
func upgrade(t *testing.T, addr string, early []byte, headers ...string) (net.Conn, *bufio.Reader) {
	t.Helper()
	nc := dial(t, addr)
	req := "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, mqtt\r\n"
	for _, h := range headers {
		req += h + "\r\n"
	}
	if _, err := nc.Write(append([]byte(req+"\r\n"), early...)); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(nc)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Protocol") != "mqtt" {
		t.Fatalf("%+v %v", resp, err)
	}
	return nc, br
}

func frame(op ws.OpCode, fin bool, payload string) []byte {
	f := ws.NewFrame(op, fin, []byte(payload))
	var b bytes.Buffer
	_ = ws.WriteFrame(&b, ws.MaskFrameInPlaceWith(f, [4]byte{1, 2, 3, 4})) // a buffer takes all
	return b.Bytes()
}

func unmasked(op ws.OpCode, payload string) []byte {
	return ws.MustCompileFrame(ws.NewFrame(op, true, []byte(payload)))
}

func TestWebSocketFrames(t *testing.T) {
	long := strings.Repeat("p", 126)
	reserved := frame(ws.OpBinary, true, "a")
	reserved[0] |= 0x40
	for _, tt := range []struct {
		name  string
		send  [][]byte
		data  string        // echoed
		pongs int           // answered
		code  ws.StatusCode // of the close frame
		end   string        // how the handler's connection ended
	}{
		{"one frame", [][]byte{frame(ws.OpBinary, true, "hello"), frame(ws.OpClose, true, "\x03\xe8")}, "hello", 0, 1000, "close frame (status 1000)"},
		{"several frames", [][]byte{frame(ws.OpBinary, true, "he"), frame(ws.OpBinary, true, ""), frame(ws.OpBinary, true, "llo"), frame(ws.OpClose, true, "")}, "hello", 0, 0, "close frame (status 1005)"},
		{"fragments with a ping between", [][]byte{frame(ws.OpBinary, false, "he"), frame(ws.OpPing, true, "x"), frame(ws.OpContinuation, false, "l"), frame(ws.OpContinuation, true, "lo"), frame(ws.OpClose, true, "\x03\xe9")}, "hello", 1, 1001, "close frame (status 1001)"},
		{"pong for nothing", [][]byte{frame(ws.OpPong, true, "x"), frame(ws.OpBinary, true, "a"), frame(ws.OpClose, true, "")}, "a", 0, 0, "close frame"},
		{"text", [][]byte{frame(ws.OpText, true, "hello")}, "", 0, 1003, "text frame"},
		{"not masked", [][]byte{unmasked(ws.OpBinary, "hello")}, "", 0, 1002, "not masked"},
		{"control frame not masked", [][]byte{unmasked(ws.OpPing, "")}, "", 0, 1002, "not masked"},
		{"control frame too long", [][]byte{frame(ws.OpPing, true, long)}, "", 0, 1002, "too long"},
		{"control frame in fragments", [][]byte{frame(ws.OpPing, false, "x")}, "", 0, 1002, "fragmented"},
		{"reserved bits", [][]byte{reserved}, "", 0, 1002, "reserved bits"},
		{"reserved opcode", [][]byte{frame(ws.OpCode(3), true, "")}, "", 0, 1002, "reserved"},
		{"continuation of nothing", [][]byte{frame(ws.OpContinuation, true, "a")}, "", 0, 1002, "out of order"},
		{"a message within a message", [][]byte{frame(ws.OpBinary, false, ""), frame(ws.OpBinary, true, "a")}, "", 0, 1002, "out of order"},
		{"close frame of one byte", [][]byte{frame(ws.OpClose, true, "x")}, "", 0, 1002, "malformed"},
		{"close frame with a code that is never sent", [][]byte{frame(ws.OpClose, true, "\x03\xed")}, "", 0, 1002, "malformed"},
		{"length with the highest bit", [][]byte{{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}}, "", 0, 1002, "malformed"},
	} {
		for _, early := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				e := newEcho()
				all := bytes.Join(tt.send, nil)
				first, rest := all, []byte(nil) // with the handshake, and after it
				if !early {
					first, rest = nil, all
				}
				nc, br := upgrade(t, web(t, e), first)
				if _, err := nc.Write(rest); err != nil {
					t.Fatal(err)
				}
				if info := <-e.infos; info.Transport != "ws" || !info.Loopback || info.Confidential {
					t.Errorf("%+v", info)
				}
				data, pongs := "", 0
				for {
					h, err := ws.ReadHeader(br)
					if err != nil {
						t.Fatalf("%v before the close frame", err)
					}
					payload := make([]byte, h.Length)
					if _, err := io.ReadFull(br, payload); err != nil {
						t.Fatal(err)
					}
					switch h.OpCode {
					case ws.OpBinary:
						data += string(payload)
						continue
					case ws.OpPong:
						pongs++
						continue
					}
					code, _ := ws.ParseCloseFrameData(payload)
					if want := tt.code; want != 0 && code != want || h.OpCode != ws.OpClose {
						t.Errorf("close frame %d, want %d", code, want)
					}
					break
				}
				if data != tt.data || pongs != tt.pongs {
					t.Errorf("%q and %d pongs, want %q and %d", data, pongs, tt.data, tt.pongs)
				}
				if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
					t.Errorf("%x %v after the close frame", rest, err)
				}
				if err := <-e.ends; err == nil || !strings.Contains(err.Error(), tt.end) {
					t.Errorf("ended with %v, want %q", err, tt.end)
				}
			})
		}
	}
}

func TestWebSocketHandshake(t *testing.T) {
	e := newEcho()
	addr := web(t, e)
	for _, h := range []string{"X-Forwarded-For: 10.0.0.1", "X-Forwarded-For:"} {
		nc, _ := upgrade(t, addr, nil, h)
		if info := <-e.infos; info.Loopback {
			t.Errorf("%s counts as loopback", h)
		}
		nc.Close()
		<-e.ends
	}
	for _, tt := range []struct {
		headers map[string]string
		status  int
	}{
		{nil, http.StatusUpgradeRequired},
		{map[string]string{"Upgrade": "websocket", "Connection": "Upgrade"}, http.StatusBadRequest},
		{map[string]string{"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Protocol": "chat"}, http.StatusBadRequest},
		{map[string]string{"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Protocol": "mqtt"}, http.StatusBadRequest},
	} {
		req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/mqtt", nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range tt.headers {
			req.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.status && !(tt.status == http.StatusBadRequest && resp.StatusCode == http.StatusUpgradeRequired) {
			t.Errorf("%v: status %d, want %d", tt.headers, resp.StatusCode, tt.status)
		}
	}
}
