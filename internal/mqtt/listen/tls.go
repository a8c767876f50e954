package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"
)

// TLS serves MQTT over TLS on ln until ctx ends, and closes ln. config must
// request client certificates without verifying them: they are judged at
// CONNECT, where a reason code can be given.
func (s *Server) TLS(ctx context.Context, ln net.Listener, config *tls.Config) error {
	if s.opts.Acceptor != nil {
		release, err := s.opts.Acceptor.Hold()
		if err != nil {
			return errors.Join(err, ln.Close())
		}
		defer release()
	}
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
			state := nc.ConnectionState()
			info := s.info("tls", raw)
			info.Confidential, info.TLS = true, &state
			s.serveTLS(raw, nc, info)
		}()
	})
}

func (s *Server) serveTLS(raw net.Conn, nc *tls.Conn, info Info) {
	if a := s.opts.Acceptor; a != nil {
		slot := nc.NetConn().(*slotted)
		if a.ServeTLS(raw, nc, func(to net.Conn) { slot.Conn = to }, info, s.leave) {
			s.metrics.accepted.WithLabelValues(info.Transport).Inc()
			return
		}
	}
	s.serve(nc, info)
}

// handshake returns nil when the peer fails it, or takes too long.
func (s *Server) handshake(ctx context.Context, raw net.Conn, config *tls.Config) *tls.Conn {
	ctx, cancel := context.WithTimeout(ctx, s.opts.HandshakeTimeout)
	defer cancel()
	if err := raw.SetDeadline(time.Now().Add(s.opts.HandshakeTimeout)); err != nil {
		return nil
	}
	slot := &slotted{Conn: raw, slots: s.handshakes, expired: ctx.Done()}
	nc := tls.Server(slot, config)
	err := nc.HandshakeContext(ctx)
	slot.leave()
	if err != nil {
		s.refuse(Info{Transport: "tls", Remote: raw.RemoteAddr().String()}, slot.verdict(), "the TLS handshake failed: "+err.Error())
		return nil
	}
	slot.slots, slot.expired = nil, nil
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return nil
	}
	return nc
}

// slotted is a connection in its handshake. It holds a slot while the handshake
// computes and none while it waits for the peer: peers that stay silent, at
// whatever point, keep nobody else out.
type slotted struct {
	net.Conn
	slots   chan struct{} // nil after the handshake
	expired <-chan struct{}
	held    bool
	heard   bool // bytes came
	busy    bool // no slot became free in time
}

// Read implements net.Conn.
func (c *slotted) Read(p []byte) (int, error) {
	if c.slots == nil {
		return c.Conn.Read(p)
	}
	c.leave()
	n, err := c.Conn.Read(p)
	if n == 0 {
		return n, err
	}
	c.heard = true
	select {
	case c.slots <- struct{}{}:
		c.held = true
	case <-c.expired:
		c.busy = true
		return 0, os.ErrDeadlineExceeded
	}
	return n, err
}

// NetConn returns the connection below.
func (c *slotted) NetConn() net.Conn { return c.Conn }

func (c *slotted) leave() {
	if c.held {
		<-c.slots
		c.held = false
	}
}

// verdict names why the handshake failed.
func (c *slotted) verdict() string {
	switch {
	case !c.heard:
		return "tls_silent"
	case c.busy:
		return "tls_busy"
	}
	return "tls_handshake"
}
