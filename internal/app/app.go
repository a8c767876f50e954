// Package app wires the product together and owns its life: it opens
// everything in order, starts what runs, and stops it in order, each step
// bounded in time. It is the only package that sees all others.
package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rollcall/internal/arm"
	"rollcall/internal/clock"
	"rollcall/internal/config"
	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/grid"
	"rollcall/internal/httpd"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/listen"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/pki"
	"rollcall/internal/presence"
	"rollcall/internal/registry"
	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
	"rollcall/internal/store/setaside"
	"rollcall/internal/sysevent"
)

// Options are what does not come from the configuration.
type Options struct {
	Log     *slog.Logger
	Clock   clock.Clock
	Version string
}

// Server is the whole product in one process.
type Server struct {
	cfg     config.Config
	log     *slog.Logger
	clock   *clock.Steady
	version string
	started time.Time

	keys       Keys
	caPEM      []byte
	engine     *pebble.Engine
	setAside   *setaside.List
	files      Descriptors
	ledger     *presence.Ledger
	stored     *stored.Store
	dispatcher *delivery.Dispatcher
	webhooks   *webhook.Client
	grid       *grid.Grid
	registry   *registry.Registry
	broker     *broker.Broker
	accept     *listen.Server
	cert       *pki.Server
	http       *httpd.Server
	metrics    *prometheus.Registry
	listeners  listeners

	ready   atomic.Bool // everything listens
	leaving atomic.Bool // shutting down
	failed  chan error  // a fault that ends the process
}

// Open opens everything that cfg, which has been validated, asks for, and
// listens. Nothing is served before Run. After an error nothing stays open.
func Open(ctx context.Context, cfg config.Config, o Options) (_ *Server, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	s := &Server{cfg: cfg, log: o.Log, clock: clock.NewSteady(o.Clock, o.Log), version: o.Version, started: o.Clock.Now(), failed: make(chan error, 1), setAside: setaside.New(o.Log)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	s.files = shareDescriptors(descriptorLimit(), cfg)
	if n := s.files; n.low(config.Default(cfg.Profile).MQTT.MaxConnections) {
		o.Log.Warn("the limit of file descriptors is too low for mqtt.maxConnections: fewer connections are let in",
			"limit", n.Limit, "maxConnections", n.Configured, "connections", n.Connections)
	}
	if err := openDir(cfg.Data); err != nil {
		return nil, err
	}
	if err := s.openStore(); err != nil {
		return nil, err
	}
	resumeClock(s.engine, s.clock, s.log)
	if s.keys, err = openKeys(cfg.Data, cfg.Access.DevKeys); err != nil {
		return nil, err
	}
	if err := s.openCertificates(); err != nil {
		return nil, err
	}
	if s.listeners, err = openListeners(cfg.Listen); err != nil {
		return nil, err
	}
	if err := s.openGrid(); err != nil {
		return nil, fmt.Errorf("open the event grid: %w", err)
	}
	if err := s.openClients(ctx); err != nil {
		return nil, err
	}
	if err := s.openHTTP(); err != nil {
		return nil, err
	}
	return s, s.openMetrics()
}

// openDir makes the data directory, or makes one that others may use its
// owner's.
func openDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	if err := pki.Tighten(dir, 0o700); err != nil {
		return fmt.Errorf("the data directory holds secrets: %w", err)
	}
	for _, name := range []string{"store", "pki"} { // a mounted volume may have been opened to a group
		if err := pki.Tighten(filepath.Join(dir, name), 0o700); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (s *Server) openStore() (err error) {
	c := s.cfg.Storage
	s.engine, err = pebble.Open(pebble.Options{
		Dir: filepath.Join(s.cfg.Data, "store"), Log: s.log, Clock: s.clock,
		Limit: uint64(c.Limit), LowWater: uint64(c.LowWater), Reserve: uint64(c.Reserve), CacheBytes: c.Cache, MaxFiles: s.files.storeFiles,
		OnFatal: func(err error) { s.fail(fmt.Errorf("the store failed: %w", err)) },
	})
	return err
}

// fail ends Run with err. The first failure counts.
func (s *Server) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

func (s *Server) openCertificates() error {
	dir := filepath.Join(s.cfg.Data, "pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var err error
	if s.cfg.TLS.Cert != "" {
		s.cert, err = pki.OpenFiles(s.cfg.TLS.Cert, s.cfg.TLS.Key, s.clock, s.log)
		return err
	}
	names, err := pki.ParseNames(append(append([]string(nil), s.cfg.TLS.Names...), s.cfg.Access.Hosts...))
	if err != nil {
		return fmt.Errorf("tls.names: %w", err)
	}
	kinds := map[string][]pki.KeyType{"ecdsa": {pki.ECDSA}, "rsa": {pki.RSA}, "both": {pki.ECDSA, pki.RSA}}[s.cfg.TLS.KeyType]
	var cas []*pki.Authority
	for _, kind := range kinds {
		ca, err := pki.OpenServerAuthority(dir, kind, names, s.clock.Now())
		if err != nil {
			return err
		}
		cas = append(cas, ca)
		s.caPEM = append(s.caPEM, ca.PEM()...)
	}
	s.cert, err = pki.OpenLocal(dir, cas, names, s.clock, s.log)
	return err
}

// CAFile is where the certificate of the local CA is, or "" where the
// operator's certificate is used.
func (s *Server) CAFile() string {
	if s.caPEM == nil {
		return ""
	}
	return CAFile(s.cfg.Data)
}

// CAFile is where a data directory keeps the certificate of the local CA.
func CAFile(data string) string { return filepath.Join(data, "pki", "server-ca.crt") }

// namespaceRealm is the realm of a namespace in keys.
func (s *Server) namespaceRealm() string { return s.cfg.Resource.Namespace }

func (s *Server) source() grid.Source {
	return grid.Source{Realm: "namespace/" + s.cfg.Resource.Namespace, ID: s.cfg.Resource.NamespaceID()}
}

func (s *Server) openGrid() (err error) {
	w := s.cfg.Webhook
	rules := webhook.Rules{AllowHTTP: s.cfg.LoopbackOnly(), AllowPrivate: s.cfg.LoopbackOnly()}
	if w.AllowHTTP != nil {
		rules.AllowHTTP = *w.AllowHTTP
	}
	if w.AllowPrivate != nil {
		rules.AllowPrivate = *w.AllowPrivate
	}
	o := webhook.Options{
		Rules: rules, Clock: s.clock, ResponseTimeout: s.cfg.Delivery.ResponseTimeout, Origin: w.Origin,
	}
	if w.Proxy != "" {
		if o.Proxy, err = url.Parse(w.Proxy); err != nil {
			return fmt.Errorf("webhook.proxy: %w", err)
		}
	}
	if w.CAFile != "" {
		if o.RootCAs, err = roots(w.CAFile); err != nil {
			return fmt.Errorf("webhook.caFile: %w", err)
		}
	}
	if s.webhooks, err = webhook.New(o); err != nil {
		return err
	}
	s.dispatcher, err = delivery.Open(delivery.Options{
		Engine: s.engine, Clock: s.clock, Log: s.log, Settings: s.cfg.Delivery,
		SetAside:       s.setAside,
		DeadLetterRoot: filepath.Join(s.cfg.Data, "dead-letter"),
	})
	if err != nil {
		return err
	}
	s.grid, err = grid.Open(grid.Options{
		Engine: s.engine, Dispatcher: s.dispatcher, Webhooks: s.webhooks, SetAside: s.setAside, Clock: s.clock, Log: s.log,
		Settings: s.cfg.Subscriptions, BaseURL: s.publicURL, DeadLetters: true,
		EventTypes: func(grid.Source) []string { return sysevent.NamespaceTypes() },
	})
	return err
}

// roots are the system's certificates and those of a PEM file.
func roots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate in PEM found", file)
	}
	return pool, nil
}

func (s *Server) openClients(ctx context.Context) (err error) {
	ev := &events{grid: s.grid, source: s.source(), namespace: sysevent.Namespace{
		Name: s.cfg.Resource.Namespace, ID: s.cfg.Resource.NamespaceID(),
	}}
	s.ledger, err = presence.Open(ctx, presence.Options{
		Engine: s.engine, Node: s.cfg.Node, Stager: transitions{ev}, Clock: s.clock, Log: s.log,
		SetAside:  s.setAside,
		Retention: presence.Retention{Age: s.cfg.Ledger.Age, Bytes: s.cfg.Ledger.Bytes},
		Crashed: func(b *store.Batch, _ uint8, t *presence.Transition) {
			s.broker.Crashed(b, t.Realm, t.Session)
		},
	})
	if err != nil {
		return err
	}
	retained := s.cfg.MQTT.Retained
	s.stored, err = stored.Open(stored.Options{SetAside: s.setAside, Engine: s.engine, Clock: s.clock, Log: s.log,
		Retained: stored.RetainedLimits{Messages: retained.Messages, Bytes: retained.Bytes, MessageBytes: retained.MessageBytes},
	})
	if err != nil {
		return fmt.Errorf("open stored MQTT state: %w", err)
	}
	if err := s.openRegistry(ctx, ev); err != nil {
		return fmt.Errorf("open the registry: %w", err)
	}
	s.broker, err = broker.New(broker.Options{
		Gatekeeper: gatekeeper{s.registry}, Presence: ledger{s.ledger}, Session: sessionConfig(s.cfg),
		Store: s.stored, Partitions: s.engine.Partitions(), Loops: s.cfg.MQTT.Loops,
		Clock: s.clock, Log: s.log, WriteTimeout: s.cfg.MQTT.WriteTimeout, OutputBytes: s.cfg.MQTT.OutputBytes, FullQueue: fullQueue(s.cfg.MQTT.FullQueue),
		SubscriptionBytes: s.cfg.MQTT.SubscriptionBytes, MaxMatches: s.cfg.MQTT.MaxMatches,
	})
	if err != nil {
		return err
	}
	// What is read stays: collecting in between would find little.
	percent := debug.SetGCPercent(400)
	err = s.broker.Load()
	debug.SetGCPercent(percent)
	if err != nil {
		return err
	}
	s.registry.OnChange(func() { s.broker.Reconsider() })
	s.accept, err = listen.New(listen.Options{
		Handler: s.broker, Acceptor: s.broker.Acceptor(), Refused: s.broker.RefusedByListener, BehindProxy: s.cfg.Access.BehindProxy, Realm: s.namespaceRealm(), Clock: s.clock, Log: s.log,
		MaxConnections: s.files.Connections, HandshakeTimeout: s.cfg.MQTT.ConnectTimeout,
	})
	return err
}

func (s *Server) openHTTP() error {
	handler, err := arm.New(arm.Options{
		Registry: s.registry, Grid: s.grid, Source: s.source(), Ledger: s.ledger, Realm: s.namespaceRealm(),
		SubscriptionID: s.cfg.Resource.Subscription, ResourceGroup: s.cfg.Resource.Group,
		Namespace: s.cfg.Resource.Namespace, Location: s.cfg.Resource.Location,
		Broker:   operator{s.broker, s.stored, s.namespaceRealm()},
		Refusals: s.refusals,
		ServerCA: s.caPEM, Status: func() any { return s.Status() },
		Keys:     func() map[string]string { return map[string]string{"token": s.keys.Token} },
		MQTTHost: s.mqttHost, HTTPHost: s.httpHost,
		Clock: s.clock, Log: s.log,
	})
	if err != nil {
		return err
	}
	s.metrics = prometheus.NewRegistry()
	s.http, err = httpd.New(httpd.Options{
		Handler: handler.Handler(), WebSocket: s.accept.WebSocket(func(r *http.Request) bool { return s.http.Local(r) }),
		Refused:        s.accept.RefusedRequest,
		Metrics:        promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}),
		MaxConnections: s.files.http,
		Ready:          s.Ready, Token: s.keys.Token, NoAuth: s.cfg.Access.NoAuth,
		Origins: s.cfg.Access.Origins, BehindProxy: s.cfg.Access.BehindProxy,
		Hosts: append(append([]string(nil), s.cfg.Access.Hosts...), s.cfg.TLS.Names...),
		Clock: s.clock, Log: s.log,
	})
	return err
}

func (s *Server) openMetrics() error {
	var errs []error
	for _, r := range []interface {
		Register(prometheus.Registerer) error
	}{s.ledger, s.stored, s.broker, s.accept, s.registry, s.http} {
		errs = append(errs, r.Register(s.metrics))
	}
	for _, c := range []prometheus.Collector{
		s.grid, s.dispatcher, storage{s.engine}, s.setAside,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		errs = append(errs, s.metrics.Register(c))
	}
	return errors.Join(errs...)
}

// Endpoints are where the server listens.
func (s *Server) Endpoints() Endpoints { return s.listeners.endpoints() }

// Descriptors says how many connections the limit of file descriptors leaves.
func (s *Server) Descriptors() Descriptors { return s.files }

// Token is the bearer token of the control plane.
func (s *Server) Token() string { return s.keys.Token }

// Data is the data directory.
func (s *Server) Data() string { return s.cfg.Data }

// Ready returns nil while the server takes work, else why it does not.
func (s *Server) Ready() error {
	switch {
	case s.leaving.Load():
		return errors.New("shutting down")
	case !s.ready.Load():
		return errors.New("starting")
	case s.engine.Usage().Full:
		return fmt.Errorf("storage: %w", store.ErrFull)
	}
	return nil
}

func (s *Server) mqttHost() string {
	if e := s.Endpoints(); len(e.MQTTS) > 0 {
		return e.MQTTS[0]
	} else if len(e.MQTT) > 0 {
		return e.MQTT[0]
	}
	return ""
}

func (s *Server) httpHost() string {
	base, _ := s.publicURL("")
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	return u.Host
}

// close closes what Open opened; it is for failures of Open.
func (s *Server) close() error {
	err := s.listeners.close()
	if s.engine != nil {
		err = errors.Join(err, s.engine.Close())
	}
	return err
}
