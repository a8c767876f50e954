// Package servertest starts the real product for tests: in this process on
// free ports, or as a process of its own that can be killed; and has what it
// takes at the other end: a webhook receiver, certificates, raw MQTT peers. It
// is for tests only.
package servertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/clock"
	"rollcall/internal/config"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
)

// Patience bounds every wait of a test.
const Patience = 60 * time.Second

// Server is a server in this process.
type Server struct {
	*app.Server
	Info   app.ReadyInfo
	Config config.Config

	t    testing.TB
	stop context.CancelFunc
	done chan error
}

// Config returns settings for a test: free ports on loopback, a temporary
// directory, short times.
func Config(t testing.TB) config.Config {
	c := config.Default(config.Open)
	c.Data = filepath.Join(t.TempDir(), "data")
	c.Listen = config.Listen{
		MQTT: []string{"127.0.0.1:0"}, MQTTS: []string{"127.0.0.1:0"},
		HTTP: []string{"127.0.0.1:0"}, HTTPS: []string{"127.0.0.1:0"},
	}
	c.Storage.LowWater, c.Storage.Reserve = 64<<20, 16<<20
	c.TLS.KeyType = "ecdsa" // keys of RSA take long to make
	c.ShutdownTimeout = 20 * time.Second
	return c
}

// Start starts a server with the settings of Config, changed by edit, and
// stops it when the test ends.
func Start(t testing.TB, edit func(*config.Config)) *Server {
	t.Helper()
	c := Config(t)
	if edit != nil {
		edit(&c)
	}
	return Run(t, c)
}

// StartAt is Start with a clock.
func StartAt(t testing.TB, k clock.Clock, edit func(*config.Config)) *Server {
	t.Helper()
	c := Config(t)
	if edit != nil {
		edit(&c)
	}
	return run(t, c, k)
}

// Run starts a server with exactly these settings.
func Run(t testing.TB, c config.Config) *Server {
	t.Helper()
	return run(t, c, nil)
}

func run(t testing.TB, c config.Config, k clock.Clock) *Server {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	if testing.Short() || !testing.Verbose() {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := app.Open(t.Context(), c, app.Options{Log: log, Version: "test", Clock: k})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	srv := &Server{Server: s, Config: c, t: t, stop: stop, done: make(chan error, 1)}
	up := make(chan struct{})
	go func() {
		srv.done <- s.Run(ctx, func() error { close(up); return nil })
	}()
	select {
	case <-up:
	case err := <-srv.done:
		t.Fatal(err)
	case <-time.After(Patience):
		t.Fatal("the server does not come up")
	}
	srv.Info = s.Info(os.Getpid())
	t.Cleanup(func() { srv.Stop() })
	return srv
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	os.Stderr.Write(p)
	return len(p), nil
}

// Stop shuts the server down in order and waits for it. It may be called more
// than once.
func (s *Server) Stop() {
	s.t.Helper()
	s.stop()
	select {
	case err, ok := <-s.done:
		if ok && err != nil {
			s.t.Errorf("the server ended with %v", err)
		}
		if ok {
			close(s.done)
		}
	case <-time.After(Patience):
		s.t.Fatal("the server does not stop")
	}
}

// Target is where a peer connects to over the transport: tcp, tls, ws or wss.
func (s *Server) Target(transport string) string { return Target(s.Info, transport) }

// Target is where a peer connects to over the transport: tcp, tls, ws or wss.
func Target(i app.ReadyInfo, transport string) string {
	switch transport {
	case "tcp":
		return "mqtt://" + i.MQTT[0]
	case "tls":
		return "mqtts://" + i.MQTTS[0]
	case "ws":
		return "ws" + i.HTTP[0][len("http"):] + "/mqtt"
	case "wss":
		return "wss" + i.HTTPS[0][len("https"):] + "/mqtt"
	}
	panic("servertest: unknown transport " + transport)
}

// TLS returns a client's configuration that trusts the server, with a
// certificate if one is given.
func (s *Server) TLS(pairs ...tls.Certificate) *tls.Config { return TLS(s.t, s.Info, pairs...) }

// TLS returns a client's configuration that trusts the server of i.
func TLS(t testing.TB, i app.ReadyInfo, pairs ...tls.Certificate) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(i.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("no CA")
	}
	return &tls.Config{RootCAs: pool, Certificates: pairs, MinVersion: tls.VersionTLS12}
}

// Dial connects an anonymous MQTT client and fails the test if it is refused.
func (s *Server) Dial(transport string, v packet.Version, id string) *peer.Conn {
	s.t.Helper()
	c, _ := s.DialWith(transport, v, packet.Connect{ClientID: id, CleanStart: true})
	return c
}

// DialWith connects with the options of p.
func (s *Server) DialWith(transport string, v packet.Version, p packet.Connect) (*peer.Conn, *packet.Connack) {
	s.t.Helper()
	if p.ReceiveMaximum == 0 {
		p.ReceiveMaximum = 65535
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c, ack, err := peer.Dial(ctx, s.Target(transport), v, s.TLS(), p)
	if err != nil {
		s.t.Fatalf("%s connects over %s: %v", p.ClientID, transport, err)
	}
	return c, ack
}

// Call makes a request with the token and returns status and body.
func (s *Server) Call(method, path string, body any) (int, []byte) {
	s.t.Helper()
	status, text, err := Call(context.Background(), s.Info, method, path, body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return status, text
}

// Must is Call for requests that succeed.
func (s *Server) Must(method, path string, body any) []byte {
	s.t.Helper()
	status, text := s.Call(method, path, body)
	if status >= 300 {
		s.t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	return text
}

// Call makes a request to the server of i, with its token.
func Call(ctx context.Context, i app.ReadyInfo, method, path string, body any) (int, []byte, error) {
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, i.HTTP[0]+path, in)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+i.Token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, text, err
}

// ARM is the control plane's path of something below the namespace.
func ARM(i app.ReadyInfo, rest string) string { return i.Namespace + rest + "?api-version=2025-02-15" }

// ARM is the control plane's path of something below the namespace.
func (s *Server) ARM(rest string) string { return ARM(s.Info, rest) }

// PutClient registers a client.
func (s *Server) PutClient(name string, properties map[string]any) {
	s.t.Helper()
	s.Must(http.MethodPut, s.ARM("/clients/"+name), map[string]any{"properties": properties})
}

// Subscribe creates an event subscription for url and waits for the consent.
func (s *Server) Subscribe(name, url string, more map[string]any) {
	s.t.Helper()
	if err := Subscribe(context.Background(), s.Info, name, url, more); err != nil {
		s.t.Fatal(err)
	}
}

// Subscribe creates an event subscription on the server of i and waits for the
// endpoint's consent. more are further properties; those of "destination" go
// into the destination.
func Subscribe(ctx context.Context, i app.ReadyInfo, name, url string, more map[string]any) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	destination := map[string]any{"endpointUrl": url}
	p := map[string]any{"eventDeliverySchema": "CloudEventSchemaV1_0"}
	for k, v := range more {
		if k == "destination" {
			for k, v := range v.(map[string]any) {
				destination[k] = v
			}
			continue
		}
		p[k] = v
	}
	p["destination"] = map[string]any{"endpointType": "WebHook", "properties": destination}
	status, text, err := Call(ctx, i, http.MethodPut, ARM(i, "/providers/Microsoft.EventGrid/eventSubscriptions/"+name), map[string]any{"properties": p})
	if err != nil {
		return err
	}
	if status != http.StatusCreated {
		return fmt.Errorf("subscribe %s: %d %s", name, status, text)
	}
	for told := 0; ; told++ {
		var st struct {
			State     string
			Narration []json.RawMessage
			Failure   json.RawMessage
		}
		_, text, err := Call(ctx, i, http.MethodGet, fmt.Sprintf("/rollcall/v1/eventSubscriptions/%s?watch=%d", name, told), nil)
		if err == nil {
			err = json.Unmarshal(text, &st)
		}
		switch {
		case err != nil:
			return fmt.Errorf("subscribe %s: %w: %s", name, err, text)
		case st.State == "Succeeded":
			return nil
		case st.State == "Failed":
			return errors.New(string(st.Failure))
		}
		told = len(st.Narration) - 1
	}
}
