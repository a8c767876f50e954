package broker

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// secure is TLS on a connection that an event loop owns: the loop gives it the
// bytes it has read, and whoever writes takes the bytes to send. The handshake
// was done elsewhere, on a connection of its own.
type secure struct {
	tls           *tls.Conn
	local, remote net.Addr

	in  []byte // arrived and not read by tls; the loop's
	dry bool   // no more has arrived
	end bool   // nothing more will arrive
	bye bool   // close_notify was sent; under conn.mu

	mu  sync.Mutex
	out *output // to be sent; nil: nothing
}

// wouldBlock is what a read returns when all that arrived has been read. To
// package tls it is an error that it may try again after.
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "broker: no more bytes have arrived" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// Read implements net.Conn.
func (s *secure) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		if s.end {
			return 0, io.EOF
		}
		return 0, wouldBlock{}
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

// Write implements net.Conn. It never blocks.
func (s *secure) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		s.out = outputs.Get().(*output)
	}
	s.out.buf = append(s.out.buf, p...)
	return len(p), nil
}

// take returns what is to be sent, or nil.
func (s *secure) take() *output {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.out
	s.out = nil
	return out
}

// putBack makes o what is to be sent first.
func (s *secure) putBack(o *output) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.join(s.out)
	s.out = o
}

// pending reports whether there is something to send.
func (s *secure) pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out != nil
}

// backlog is how many bytes are to be sent.
func (s *secure) backlog() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		return 0
	}
	return len(s.out.buf) - s.out.from
}

// keep makes what has arrived and was not read its own: the loop reads for
// others now.
func (s *secure) keep() {
	if len(s.in) > 0 {
		s.in = append([]byte(nil), s.in...)
	} else {
		s.in = nil
	}
}

// Close implements net.Conn.
func (s *secure) Close() error { return nil }

// LocalAddr implements net.Conn.
func (s *secure) LocalAddr() net.Addr { return s.local }

// RemoteAddr implements net.Conn.
func (s *secure) RemoteAddr() net.Addr { return s.remote }

// SetDeadline implements net.Conn: nothing blocks.
func (s *secure) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (s *secure) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (s *secure) SetWriteDeadline(time.Time) error { return nil }

// read reads what has arrived into p: the bytes of the transport, or what they
// are after TLS.
func (s *socket) read(p []byte) (int, error) {
	t := s.tls
	if t == nil {
		return sysRead(s.fd, p)
	}
	for {
		n, err := t.tls.Read(p)
		if n > 0 {
			return n, nil
		}
		if !errors.Is(err, wouldBlock{}) {
			return 0, err
		}
		if t.dry {
			return 0, unix.EAGAIN
		}
		cipher := s.loop.cipherBuffer()
		n, err = sysRead(s.fd, cipher)
		switch {
		case err != nil:
			return 0, err
		case n == 0:
			t.end = true
		default:
			t.in = cipher[:n]
			t.dry = n < len(cipher) && !s.hup
		}
	}
}

// send sends o, which may be nil if there is only something of TLS's own, and
// reports whether the transport took all of it.
func (s *socket) send(o *output) (all bool, err error) {
	t := s.tls
	if t == nil {
		n, err := sysSend(s.fd, o.buf[o.from:])
		o.from += n
		return o.from == len(o.buf), err
	}
	if o != nil {
		_, err := t.tls.Write(o.buf[o.from:])
		o.from = len(o.buf)
		if err != nil {
			return false, err
		}
	}
	c := t.take()
	if c == nil {
		return true, nil
	}
	n, err := sysSend(s.fd, c.buf[c.from:])
	c.from += n
	if c.from < len(c.buf) {
		t.putBack(c)
		return false, err
	}
	putOutput(c)
	return true, err
}

// unsent reports whether there is something to be sent. The caller holds the
// lock.
func (s *socket) unsent() bool { return s.out != nil || s.tls != nil && s.tls.pending() }
