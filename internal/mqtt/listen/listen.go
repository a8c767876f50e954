// Package listen accepts MQTT connections over TCP, TLS and WebSocket and hands
// each to a Handler as a net.Conn that is ready for MQTT: handshakes done,
// under deadlines, within bounds on how many may be under way. It knows nothing
// of MQTT but the WebSocket subprotocol's name.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/clock"
)

// Info says how a connection came in.
type Info struct {
	Transport string // "tcp", "tls", "ws" or "wss"
	Realm     string // namespace the listener stands for
	Remote    string // address of the peer
	// Loopback: both ends are on loopback and nothing was forwarded.
	Loopback bool
	// Confidential: the bytes are protected by TLS.
	Confidential bool
	// TLS is the state of the TLS connection, nil without TLS. Client
	// certificates in it are not verified against any CA yet.
	TLS *tls.ConnectionState
}

// Handler serves one connection and closes it. It may return before the
// connection has ended; it calls done once, when it has.
type Handler interface {
	Serve(nc net.Conn, info Info, done func())
}

// Acceptor serves TCP connections itself, in place of a Handler, and accepts the
// plain ones.
type Acceptor interface {
	// ServeTCP accepts on ln until ctx ends, and closes ln. Connections go on.
	ServeTCP(ctx context.Context, ln *net.TCPListener, d Door) error
	// ServeTLS serves a connection whose TLS handshake is done: tc works on raw,
	// until swap gives it another transport. It reports false, and has done
	// nothing, if the Handler is to serve the connection. Done is called once
	// the connection has ended.
	ServeTLS(raw net.Conn, tc *tls.Conn, swap func(net.Conn), info Info, done func()) bool
	// Hold has it be ready for ServeTLS until release is called.
	Hold() (release func(), err error)
}

// Door is what an Acceptor owes the server for each connection.
type Door struct{ s *Server }

// Admit counts a new connection, or reports that there are too many. Leave is
// due when an admitted one has ended.
func (d Door) Admit() bool {
	if !d.s.admit(Info{}) {
		return false
	}
	d.s.metrics.tcp.Inc()
	return true
}

// Leave uncounts a connection.
func (d Door) Leave() { d.s.leave() }

// Paused counts that accepting pauses because of err, and logs it once for each
// spell: until Resumed.
func (d Door) Paused(err error) { d.s.paused(err) }

// Resumed says that a connection was accepted.
func (d Door) Resumed() { d.s.resumed() }

// Info describes a plain TCP connection.
func (d Door) Info(remote string, loopback bool) Info {
	return Info{Transport: "tcp", Realm: d.s.opts.Realm, Remote: remote, Loopback: loopback && !d.s.opts.BehindProxy}
}

// Options configure a Server. Handler and Realm are required.
type Options struct {
	Handler Handler
	// Acceptor serves TCP, with and without TLS, if it is not nil.
	Acceptor Acceptor
	// Refused is told of connections that are not handed over: why, from a small
	// closed set, and in words. It does not block. May be nil.
	Refused func(info Info, reason, text string)
	Realm   string
	// BehindProxy: a proxy stands in front, so that no peer counts as being on
	// this machine.
	BehindProxy bool
	Clock       clock.Clock
	Log         *slog.Logger
	// MaxConnections bounds the connections open at once, over all listeners;
	// further ones are closed at accept and counted. Default 100,000.
	MaxConnections int
	// HandshakeTimeout bounds TLS and WebSocket handshakes. Default 10 s.
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds the TLS handshakes that compute at once; those that
	// wait for their peer do not count. Default 256.
	MaxHandshakes int
}

// Server accepts on any number of listeners for one handler. Its methods may
// be called concurrently.
type Server struct {
	opts       Options
	open       atomic.Int64
	pausing    atomic.Bool  // a spell in which accepting fails
	pausedAt   atomic.Int64 // its last failure, monotonic nanoseconds
	handshakes chan struct{}
	conns      sync.WaitGroup
	metrics    metrics
}

type metrics struct {
	accepted *prometheus.CounterVec
	tcp      prometheus.Counter // of accepted
	refused  *prometheus.CounterVec
}

// New returns a Server.
func New(o Options) (*Server, error) {
	if o.Handler == nil || o.Realm == "" {
		return nil, errors.New("listen: Handler and Realm are required")
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = 100_000
	}
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = 10 * time.Second
	}
	if o.MaxHandshakes <= 0 {
		o.MaxHandshakes = 256
	}
	s := &Server{
		opts:       o,
		handshakes: make(chan struct{}, o.MaxHandshakes),
		metrics: metrics{
			accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "rollcall_mqtt_accepted_total", Help: "Connections accepted, by transport."}, []string{"transport"}),
			refused: prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "rollcall_mqtt_accept_failures_total", Help: "Connections that ended before MQTT began, by reason."}, []string{"reason"}),
		},
	}
	s.metrics.tcp = s.metrics.accepted.WithLabelValues("tcp")
	return s, nil
}

// Register adds the server's metrics to r.
func (s *Server) Register(r prometheus.Registerer) error {
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rollcall_mqtt_open_connections", Help: "Transport connections open now."},
		func() float64 { return float64(s.open.Load()) })
	return errors.Join(r.Register(s.metrics.accepted), r.Register(s.metrics.refused), r.Register(open))
}

// Wait returns when every connection has ended, or false if ctx ended first.
func (s *Server) Wait(ctx context.Context) bool {
	done := make(chan struct{})
	go func() { // ends with the connections, whose handler bounds their life
		s.conns.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// serve gives the handler a connection that admit let in.
func (s *Server) serve(nc net.Conn, info Info) {
	s.metrics.accepted.WithLabelValues(info.Transport).Inc()
	s.opts.Handler.Serve(nc, info, s.leave)
}

// admit counts a new connection, or reports that there are too many.
func (s *Server) admit(info Info) bool {
	if s.open.Add(1) > int64(s.opts.MaxConnections) {
		s.open.Add(-1)
		s.refuse(info, "limit", fmt.Sprintf("%d connections are open, as many as there may be", s.opts.MaxConnections))
		return false
	}
	s.conns.Add(1)
	return true
}

// refuse counts a connection that is not handed over, and says so.
func (s *Server) refuse(info Info, reason, text string) {
	s.metrics.refused.WithLabelValues(reason).Inc()
	if s.opts.Refused != nil {
		info.Realm = s.opts.Realm
		s.opts.Refused(info, reason, text)
	}
}

// spellEnd is how long accepting must not have failed for a spell to be over: at
// the limit every connection that ends lets one more in.
const spellEnd = 10 * time.Second

// paused and resumed are the ends of a spell in which nothing can be accepted.
func (s *Server) paused(err error) {
	s.metrics.refused.WithLabelValues("accept").Inc()
	s.pausedAt.Store(int64(s.opts.Clock.Monotonic()))
	if s.pausing.CompareAndSwap(false, true) {
		s.opts.Log.Warn("accepting pauses until it succeeds again", "err", err)
	}
}

func (s *Server) resumed() {
	if !s.pausing.Load() || s.opts.Clock.Monotonic()-time.Duration(s.pausedAt.Load()) < spellEnd {
		return
	}
	if s.pausing.CompareAndSwap(true, false) {
		s.opts.Log.Info("accepting again")
	}
}

func (s *Server) leave() {
	s.open.Add(-1)
	s.conns.Done()
}

// accept runs the accept loop of ln and calls each for every connection that
// is let in, on a goroutine of its own. It returns when ctx ends or ln breaks.
// Out of descriptors, it pauses and counts instead of failing.
func (s *Server) accept(ctx context.Context, ln net.Listener, each func(net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	pause := 5 * time.Millisecond
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.paused(fmt.Errorf("listener %s: %w", ln.Addr(), err))
			if !s.wait(ctx, pause) {
				return nil
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		s.resumed()
		if !s.admit(Info{Remote: nc.RemoteAddr().String()}) {
			nc.Close()
			continue
		}
		go each(nc)
	}
}

func (s *Server) wait(ctx context.Context, d time.Duration) bool {
	woken := make(chan struct{})
	t := s.opts.Clock.AfterFunc(d, func() { close(woken) })
	defer t.Stop()
	select {
	case <-woken:
		return true
	case <-ctx.Done():
		return false
	}
}

// TCP serves plain MQTT on ln until ctx ends, and closes ln. Connections go on;
// Wait waits for them.
func (s *Server) TCP(ctx context.Context, ln net.Listener) error {
	if tcp, ok := ln.(*net.TCPListener); ok && s.opts.Acceptor != nil {
		return s.opts.Acceptor.ServeTCP(ctx, tcp, Door{s})
	}
	return s.accept(ctx, ln, func(nc net.Conn) {
		s.serve(nc, s.info("tcp", nc))
	})
}

func (s *Server) info(transport string, nc net.Conn) Info {
	return Info{
		Transport: transport,
		Realm:     s.opts.Realm,
		Remote:    nc.RemoteAddr().String(),
		Loopback:  !s.opts.BehindProxy && IsLoopback(nc.LocalAddr()) && IsLoopback(nc.RemoteAddr()),
	}
}

// IsLoopback reports whether a is an address of this machine's loopback.
func IsLoopback(a net.Addr) bool {
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}
