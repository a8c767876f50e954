// Package httpd serves HTTP and HTTPS safely and knows nothing of what it
// serves.
//
// Its promises: a request reaches a handler only if it is addressed to us by a
// name that is ours (which ends DNS rebinding), does not come from another
// site's page in a browser, and shows the bearer token where one is needed: for
// everything but reads by peers on this machine. Bodies, headers, connections
// and the time that a peer may take to send or read are bounded. Every answer
// has request ids and tells browsers to keep it to themselves. A panic in a
// handler costs its request, not the process. Secrets travel in headers, bodies
// and query strings, none of which are logged.
package httpd

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/clock"
)

// Exempter is a Handler some of whose requests carry their own proof, such as
// a secret in the query string, and so need no token.
type Exempter interface {
	http.Handler
	// Exempt reports whether the handler lets anyone make r.
	Exempt(r *http.Request) bool
}

// Options configure a Server. Handler is required, and Token unless NoAuth is
// set. Zero limits mean the defaults.
type Options struct {
	Handler   http.Handler // of everything that is not named below; may be an Exempter
	WebSocket http.Handler // of MQTT; nil: none
	Metrics   http.Handler // at /metrics; nil: none
	Ready     func() error // nil while we take work; nil func: always
	// Refused is told of requests for MQTT over WebSocket that are not let
	// through, why, from a small closed set, and in words. It does not block. May
	// be nil.
	Refused func(r *http.Request, reason, text string)

	Token  string // bearer token
	NoAuth bool   // peers on this machine need no token for anything
	// Origins are those whose pages may connect to MQTT over WebSocket, exactly
	// (https://app.example.org), or "*" for all; other pages than ours may not.
	Origins []string
	// BehindProxy: a proxy stands in front, so that no peer counts as being on
	// this machine, wherever its connections come from.
	BehindProxy bool
	Hosts       []string // further host names and addresses that are ours; "*.example.org" for all below

	Clock clock.Clock   // default: clock.System
	Log   *slog.Logger  // default: discards
	NewID func() string // request ids; default: random UUIDs

	MaxConnections int           // at a time, upgraded ones not counted; more are closed at once; default 4096
	MaxHeaderBytes int           // default 64 KiB
	MaxBodyBytes   int64         // default 1 MiB
	HeaderTimeout  time.Duration // TLS handshake, and headers from their first byte on; default 10 s
	BodyTimeout    time.Duration // for a request's body; default 30 s
	WriteTimeout   time.Duration // from the headers to the end of an answer, unless its handler sets another; default 60 s
	IdleTimeout    time.Duration // between requests of a connection; default 2 min
}

// Server serves on any number of listeners. All methods may be called
// concurrently.
type Server struct {
	opts    Options
	log     *slog.Logger
	exempt  func(*http.Request) bool
	token   [sha256.Size]byte // hash of the token
	hosts   hosts
	origins origins
	metrics *metrics
	http    *http.Server

	conns   atomic.Int64
	starved atomic.Bool     // no descriptor was left at the last accept
	leaving context.Context // ends when Shutdown begins
	leave   context.CancelFunc
}

// New checks the options and returns a Server that does not listen yet.
func New(o Options) (*Server, error) {
	if o.Handler == nil {
		return nil, errors.New("httpd: a handler is required")
	}
	if o.Token == "" && !o.NoAuth {
		return nil, errors.New("httpd: a token is required")
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.NewID == nil {
		o.NewID = uuid.NewString
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	orElse(&o.MaxConnections, 4096)
	orElse(&o.MaxHeaderBytes, 64<<10)
	orElse(&o.MaxBodyBytes, 1<<20)
	orElse(&o.HeaderTimeout, 10*time.Second)
	orElse(&o.BodyTimeout, 30*time.Second)
	orElse(&o.WriteTimeout, 60*time.Second)
	orElse(&o.IdleTimeout, 2*time.Minute)
	s := &Server{opts: o, log: o.Log, token: sha256.Sum256([]byte(o.Token)), metrics: newMetrics()}
	s.exempt = func(*http.Request) bool { return false }
	if e, ok := o.Handler.(Exempter); ok {
		s.exempt = e.Exempt
	}
	var err error
	if s.origins, err = parseOrigins(o.Origins); err != nil {
		return nil, err
	}
	if s.hosts, err = parseHosts(o.Hosts); err != nil {
		return nil, err
	}
	s.leaving, s.leave = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:                      s,
		ReadHeaderTimeout:            o.HeaderTimeout,
		WriteTimeout:                 o.WriteTimeout,
		IdleTimeout:                  o.IdleTimeout,
		MaxHeaderBytes:               o.MaxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		ConnState:                    s.connState,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: 128},
	}
	return s, nil
}

func orElse[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Serve accepts plain connections until ctx ends or ln fails, closes ln, and
// leaves the connections to Shutdown.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, &gate{ln, s})
}

// ServeTLS is Serve over TLS 1.2 or later, with HTTP/2 where the client speaks
// it. cfg is not changed.
func (s *Server) ServeTLS(ctx context.Context, ln net.Listener, cfg *tls.Config) error {
	cfg = cfg.Clone()
	if len(cfg.NextProtos) == 0 {
		cfg.NextProtos = []string{"h2", "http/1.1"}
	}
	cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
	return s.serve(ctx, ln, tls.NewListener(&gate{ln, s}, cfg))
}

func (s *Server) serve(ctx context.Context, ln, gated net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() }) // which Serve returns for
	defer stop()
	err := s.http.Serve(gated)
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown closes the listeners, ends the contexts of reads (a stream would
// never end by itself), lets writes finish and closes idle connections. When
// ctx ends first, what is left is cut and the context's error returned.
// Upgraded connections are their handler's.
func (s *Server) Shutdown(ctx context.Context) error {
	s.leave()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	return err
}

// Register registers the metrics.
func (s *Server) Register(r prometheus.Registerer) error {
	return errors.Join(
		r.Register(s.metrics.requests), r.Register(s.metrics.seconds), r.Register(s.metrics.refused), r.Register(s.metrics.panics),
		r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rollcall_http_connections", Help: "Open HTTP connections, upgraded ones not counted.",
		}, func() float64 { return float64(s.conns.Load()) })),
	)
}

// gate bounds the connections of all listeners together. Closing what is too
// much is kinder than to let it wait: connections may idle for minutes.
type gate struct {
	net.Listener
	s *Server
}

// Accept implements net.Listener.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			g.s.acceptPaused(err)
			continue
		}
		if err != nil {
			return nil, err
		}
		g.s.starved.Store(false)
		if g.s.conns.Add(1) <= int64(g.s.opts.MaxConnections) {
			return c, nil
		}
		g.s.conns.Add(-1)
		g.s.metrics.refused.WithLabelValues("connections").Inc()
		c.Close()
	}
}

// acceptPause is the time between two tries to accept without descriptors.
const acceptPause = 100 * time.Millisecond

// acceptPaused waits for descriptors to come back. It logs once a spell.
func (s *Server) acceptPaused(err error) {
	s.metrics.refused.WithLabelValues("accept").Inc()
	if !s.starved.Swap(true) {
		s.opts.Log.Warn("accepting pauses until it succeeds again", "err", err)
	}
	woken := make(chan struct{})
	s.opts.Clock.AfterFunc(acceptPause, func() { close(woken) })
	<-woken
}

// connState gives back what gate counted. Every connection ends in exactly one
// of the two states.
func (s *Server) connState(_ net.Conn, st http.ConnState) {
	if st == http.StateClosed || st == http.StateHijacked {
		s.conns.Add(-1)
	}
}
