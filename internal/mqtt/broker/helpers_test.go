package broker_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/listen"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/mqtt/topic"
	"rollcall/internal/presence"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

const (
	realm    = "default"
	patience = 30 * time.Second
)

// gate lets everybody in, unless a test says otherwise.
type gate struct {
	mu    sync.Mutex
	admit func(ctx context.Context, c broker.Credentials) (broker.Identity, error)
	slow  bool // its answers come later; set before anybody connects
}

func (g *gate) set(f func(context.Context, broker.Credentials) (broker.Identity, error)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admit = f
}

func (g *gate) Admit(c broker.Credentials, later func(broker.Identity, error)) (broker.Identity, bool, error) {
	g.mu.Lock()
	f := g.admit
	g.mu.Unlock()
	if f != nil && g.slow {
		go func() { later(f(context.Background(), c)) }() // ends with the test's function
		return broker.Identity{}, false, nil
	}
	if f != nil {
		who, err := f(context.Background(), c)
		return who, true, err
	}
	return broker.Identity{AuthenticationName: c.ClientID, Method: "anonymous"}, true, nil
}

// ledger is the real ledger as the broker wants it.
type ledger struct{ *presence.Ledger }

func (l ledger) Amend(realm, session string, f func(b *store.Batch, open bool) bool, done func(error)) {
	l.Ledger.Amend(realm, session, func(b *store.Batch, _ uint8, open bool) bool { return f(b, open) }, done)
}

func stage(f broker.Stage) presence.Stage {
	if f == nil {
		return nil
	}
	return func(b *store.Batch, _ uint8, t *presence.Transition) { f(b, t.Number) }
}

type hold struct{ *presence.Hold }

func (h hold) Release(r disconnect.Reason, v disconnect.Evidence, f broker.Stage) {
	h.Hold.Release(r, v, stage(f))
}

func (l ledger) Claim(c broker.Claim, done func(broker.Hold, error)) {
	l.Ledger.Claim(presence.Claim{
		Realm: c.Realm, Session: c.Session, Owner: c.Owner, Conn: evicted{c.Conn}, Stage: stage(c.Stage),
		Origin: presence.Origin{Protocol: c.Protocol, Transport: c.Transport, Remote: c.Remote, Method: c.Method},
	}, func(h *presence.Hold, err error) {
		switch {
		case errors.Is(err, presence.ErrBusy):
			err = broker.ErrBusy
		case errors.Is(err, presence.ErrOwned):
			err = broker.ErrOwned
		case errors.Is(err, presence.ErrFull):
			err = broker.ErrFull
		}
		if err != nil {
			done(nil, err)
			return
		}
		done(hold{h}, nil)
	})
}

type evicted struct{ broker.Connection }

func (e evicted) Evict(by presence.Origin) {
	e.Connection.Evict(disconnect.Evidence{Kind: disconnect.Newcomer, Detail: by.Remote})
}

// server is a broker on real sockets, with the real ledger.
type server struct {
	t       testing.TB
	b       *broker.Broker
	ledger  *presence.Ledger
	gate    *gate
	metrics *prometheus.Registry
	config  *tls.Config // for clients
	targets map[string]string
}

type settings struct {
	keeps   bool         // there may be stored sessions at the end
	engine  store.Engine // default: memory
	broker  broker.Options
	session func(*session.Config)
}

func sessionConfig() session.Config {
	return session.Config{
		ConnectTimeout: 10 * time.Second, MaximumQoS: packet.QoS1, ReceiveMaximum: 100, MaximumPacketSize: 1 << 20,
		TopicAliasMaximum: 4, Topics: topic.Limits{MaxLevels: 16}, MaxClientID: 128, MaxInflight: 10, MaxSubscriptions: 50,
		QueueMessages: 100, QueueBytes: 1 << 20, CheckPayload: true,
	}
}

// start starts a server, and checks at the end that it leaves nothing behind:
// no goroutine, no open session, no subscription.
func start(t testing.TB, o settings) *server {
	t.Helper()
	before := runtime.NumGoroutine()
	s := &server{t: t, gate: new(gate), metrics: prometheus.NewRegistry(), targets: map[string]string{}}
	if o.engine == nil {
		o.engine = mem.New()
	}
	var err error
	if o.broker.Store, err = stored.Open(stored.Options{Engine: o.engine, Clock: o.broker.Clock}); err != nil {
		t.Fatal(err)
	}
	o.broker.Partitions = o.engine.Partitions()
	crashed := func(b *store.Batch, _ uint8, tr *presence.Transition) { s.b.Crashed(b, tr.Realm, tr.Session) }
	if s.ledger, err = presence.Open(t.Context(), presence.Options{Engine: o.engine, Node: "n", Crashed: crashed, Clock: o.broker.Clock}); err != nil {
		t.Fatal(err)
	}
	o.broker.Session = sessionConfig()
	if o.session != nil {
		o.session(&o.broker.Session)
	}
	o.broker.Gatekeeper = s.gate
	if os.Getenv("ROLLCALL_TEST_DRIVER") == "goroutines" && o.broker.Loops == 0 {
		o.broker.Loops = -1
	}
	if o.broker.Presence == nil {
		o.broker.Presence = ledger{s.ledger}
	}
	if s.b, err = broker.New(o.broker); err != nil {
		t.Fatal(err)
	}
	if err := s.b.Load(); err != nil {
		t.Fatal(err)
	}
	if err := s.b.Register(s.metrics); err != nil {
		t.Fatal(err)
	}
	accept, err := listen.New(listen.Options{Handler: s.b, Acceptor: s.b.Acceptor(), Realm: realm})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg, wg2 sync.WaitGroup
	server, client := certificates(t)
	s.config = client
	tcp, tlsln, web := listener(t), listener(t), listener(t)
	s.targets["tcp"] = "mqtt://" + tcp.Addr().String()
	s.targets["tls"] = "mqtts://" + tlsln.Addr().String()
	s.targets["ws"] = "ws://" + web.Addr().String() + "/mqtt"
	hs := &http.Server{Handler: accept.WebSocket(func(*http.Request) bool { return true })}
	wg.Go(func() { _ = accept.TCP(ctx, tcp) })
	background, halt := context.WithCancel(context.Background())
	wg2.Go(func() { _ = s.b.Run(background) })
	wg2.Go(func() { _ = o.broker.Store.Run(background) })
	wg.Go(func() { _ = accept.TLS(ctx, tlsln, server) })
	wg.Go(func() { _ = hs.Serve(web) })
	t.Cleanup(func() {
		s.b.Shutdown()
		cancel()
		hs.Close()
		wg.Wait()
		ctx, stop := context.WithTimeout(context.Background(), patience)
		defer stop()
		if !accept.Wait(ctx) {
			t.Error("connections are left")
		}
		if err := s.ledger.Drain(ctx); err != nil {
			t.Error(err)
		}
		if n := s.metric("rollcall_mqtt_subscriptions"); n != 0 && !o.keeps {
			t.Errorf("%v subscriptions are left", n)
		}
		halt()
		wg2.Wait()
		if err := o.engine.Close(); err != nil {
			t.Error(err)
		}
		if !eventually(func() bool { return runtime.NumGoroutine() <= before }) {
			buf := make([]byte, 1<<20)
			t.Errorf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	})
	return s
}

func listener(t testing.TB) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func certificates(t testing.TB) (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
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
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool}
}

// eventually waits for a condition that nothing announces.
func eventually(ok func() bool) bool { return eventuallyWithin(patience, ok) }

func eventuallyWithin(d time.Duration, ok func() bool) bool {
	for end := time.Now().Add(d); time.Now().Before(end); runtime.Gosched() {
		if ok() {
			return true
		}
	}
	return false
}

// metric adds up the samples of a metric with the given label values.
func (s *server) metric(name string, labels ...string) (sum float64) {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	next:
		for _, m := range f.GetMetric() {
			for _, want := range labels {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetValue() == want
				}
				if !found {
					continue next
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// open opens a connection without sending anything.
func (s *server) open(transport string, v packet.Version) *peer.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := peer.Open(ctx, s.targets[transport], v, s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// dial connects a client.
func (s *server) dial(transport string, v packet.Version, p packet.Connect) *peer.Conn {
	s.t.Helper()
	c := s.open(transport, v)
	p.CleanStart = true
	if p.ReceiveMaximum == 0 {
		p.ReceiveMaximum = 65535
	}
	send(s.t, c, &p)
	if ack := receive[*packet.Connack](s.t, c); ack.ReasonCode != packet.Success {
		s.t.Fatalf("%s is refused: %s", p.ClientID, ack.ReasonCode)
	}
	return c
}

func send(t testing.TB, c *peer.Conn, ps ...packet.Packet) {
	t.Helper()
	for _, p := range ps {
		if err := c.Send(p); err != nil {
			t.Fatalf("send %s: %v", p.Type(), err)
		}
	}
}

// receive expects a packet of type P.
func receive[P packet.Packet](t testing.TB, c *peer.Conn) P {
	t.Helper()
	got, err := c.Receive(time.Now().Add(patience))
	if err != nil {
		t.Fatalf("received %v", err)
	}
	p, ok := got.(P)
	if !ok {
		t.Fatalf("received %s %+v", got.Type(), got)
	}
	return p
}

// closed expects that the server closes the connection and sends nothing.
func closed(t testing.TB, c *peer.Conn) {
	t.Helper()
	if p, err := c.Receive(time.Now().Add(patience)); err == nil {
		t.Fatalf("received %s %+v instead of the end", p.Type(), p)
	} else if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Fatal("the server does not close the connection")
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func subscribe(t testing.TB, c *peer.Conn, qos packet.QoS, filters ...string) {
	t.Helper()
	p := &packet.Subscribe{PacketID: 1}
	for _, f := range filters {
		p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: f, QoS: qos})
	}
	send(t, c, p)
	for i, code := range receive[*packet.Suback](t, c).ReasonCodes {
		if code.Failed() {
			t.Fatalf("subscribe to %s: %s", filters[i], code)
		}
	}
}

// history waits until the session is closed and returns its transitions.
func (s *server) history(id string) []presence.Transition {
	s.t.Helper()
	var ts []presence.Transition
	if !eventually(func() bool {
		st, err := s.ledger.Show(realm, id)
		return err == nil && !st.Open()
	}) {
		s.t.Fatalf("%s is not closed", id)
	}
	ts, _, err := s.ledger.History(realm, id, presence.Page{Limit: 10000})
	if err != nil {
		s.t.Fatal(err)
	}
	return ts
}

// talk sends bytes and returns everything that comes until the server closes.
func (s *server) talk(send []byte) []byte {
	s.t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(s.targets["tcp"], "mqtt://"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := nc.Write(send); err != nil {
		s.t.Fatal(err)
	}
	got, err := io.ReadAll(nc)
	if err != nil {
		s.t.Fatalf("%v after %x", err, got)
	}
	return got
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encode(t testing.TB, v packet.Version, ps ...packet.Packet) []byte {
	t.Helper()
	var out []byte
	for _, p := range ps {
		var err error
		if out, err = p.AppendTo(out, v); err != nil {
			t.Fatal(err)
		}
	}
	return bytes.Clone(out)
}
