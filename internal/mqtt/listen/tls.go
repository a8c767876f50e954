package listen

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// TLS serves MQTT over TLS on ln until ctx ends, and closes ln. config must
// request client certificates without verifying them: they are judged at
// CONNECT, where a reason code can be given.
func (s *Server) TLS(ctx context.Context, ln net.Listener, config *tls.Config) error {
	return s.accept(ctx, ln, func(raw net.Conn) {
		nc := s.handshake(ctx, raw, config)
		if nc == nil {
			raw.Close()
			s.leave()
			return
		}
		// A fresh goroutine: the handshake has grown this one's stack, and the
		// connection may rest for days.
		go func() {
			defer s.leave()
			state := nc.ConnectionState()
			info := s.info("tls", raw)
			info.Confidential, info.TLS = true, &state
			s.serve(nc, info)
		}()
	})
}

// handshake returns nil when the peer fails it, or takes too long.
func (s *Server) handshake(ctx context.Context, raw net.Conn, config *tls.Config) *tls.Conn {
	ctx, cancel := context.WithTimeout(ctx, s.opts.HandshakeTimeout)
	defer cancel()
	// Bytes first, then a slot: a peer that stays silent after connecting
	// occupies no slot.
	if err := raw.SetDeadline(time.Now().Add(s.opts.HandshakeTimeout)); err != nil {
		return nil
	}
	first := &firstByte{Conn: raw}
	if err := first.await(); err != nil {
		s.metrics.refused.WithLabelValues("tls_silent").Inc()
		return nil
	}
	select {
	case s.handshakes <- struct{}{}:
		defer func() { <-s.handshakes }()
	case <-ctx.Done():
		s.metrics.refused.WithLabelValues("tls_busy").Inc()
		return nil
	}
	nc := tls.Server(first, config)
	if err := nc.HandshakeContext(ctx); err != nil {
		s.metrics.refused.WithLabelValues("tls_handshake").Inc()
		s.opts.Log.Debug("TLS handshake failed", "remote", raw.RemoteAddr().String(), "err", err)
		return nil
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return nil
	}
	return nc
}

// firstByte is a connection whose first byte has been read ahead.
type firstByte struct {
	net.Conn
	b    [1]byte
	held bool
}

func (f *firstByte) await() error {
	n, err := f.Conn.Read(f.b[:])
	f.held = n == 1
	if f.held {
		return nil
	}
	return err
}

// Read implements net.Conn.
func (f *firstByte) Read(p []byte) (int, error) {
	if f.held && len(p) > 0 {
		p[0] = f.b[0]
		f.held = false
		return 1, nil
	}
	return f.Conn.Read(p)
}
