package broker

import (
	"errors"
	"sync"
	"time"
)

// burst is the buffer of a reader while bytes flow. An idle connection has
// none.
type burst struct{ buf []byte }

const burstBytes = 4 << 10

var bursts = sync.Pool{New: func() any { return &burst{buf: make([]byte, burstBytes)} }}

func putBurst(b *burst) {
	if cap(b.buf) <= keepBytes {
		b.buf = b.buf[:cap(b.buf)]
		bursts.Put(b)
	}
}

var (
	errConnected = errors.New("broker: the client is connected")
	errEnded     = errors.New("broker: the session has ended")
	errTooMuch   = errors.New("broker: too many bytes are held for clients that are not let in")
)

// read acts on what arrives until the transport or the session ends, and
// returns what the transport said; or, while connecting, errConnected once the
// client is connected.
func (s *stream) read(connecting bool) error {
	wait := waiter(s.nc)
	for {
		s.awaitsCatchUp()
		b, n, err := wait()
		if n == 0 && s.interrupted(err) {
			continue
		}
		if n > 0 {
			r := s.b.begin()
			r.reader = &s.conn
			err = s.burst(r, b, n, err)
			s.b.done(r)
		}
		if b != nil {
			putBurst(b)
		}
		if err != nil {
			return err
		}
		if connecting && s.online() {
			return errConnected
		}
	}
}

func (c *conn) online() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.s.Online()
}

// burst handles the n bytes in b and whatever it takes to complete the last
// packet.
func (s *stream) burst(r *round, b *burst, n int, readErr error) error {
	have := n // bytes in b.buf that are not handled
	for {
		used, err := s.packets(r, b.buf[:have])
		if err != nil {
			return err
		}
		copy(b.buf, b.buf[used:have])
		have -= used
		if readErr != nil {
			return readErr
		}
		s.flush(r) // what was answered so far must not wait for the rest
		if have == 0 {
			return nil
		}
		if !s.borrow(have) {
			return errTooMuch
		}
		s.trickles(r, have)
		if have == len(b.buf) {
			b.buf = append(b.buf, make([]byte, len(b.buf))...)
		}
		s.awaitsCatchUp()
		n, readErr = s.nc.Read(b.buf[have:])
		for n == 0 && s.interrupted(readErr) {
			s.awaitsCatchUp()
			n, readErr = s.nc.Read(b.buf[have:])
		}
		have += n
		r.now = s.b.clock.Instant()
	}
}

// packets handles the whole packets at the beginning of data and returns how
// many bytes they took.
func (s *stream) packets(r *round, data []byte) (used int, err error) {
	for {
		n, v := s.receive(r, data[used:])
		used += n
		switch v {
		case starved:
			return used, nil
		case over:
			return used, errEnded
		case held:
			if s.awaitTurn(used == len(data)) {
				return used, nil
			}
			r.now = s.b.clock.Instant()
		}
	}
}

// awaitTurn waits until what arrives may be handled. If everything that has
// arrived is, and the session is only being taken over, it reports true at
// once: the reader is to notice if the client goes.
func (s *stream) awaitTurn(handled bool) bool {
	s.skipCatchUp(s.owes)
	s.mu.Lock()
	defer s.mu.Unlock()
	if handled && s.frozen && !s.conn.s.Paused() && !s.owes() {
		return true
	}
	s.await(func() bool { return !s.frozen && !s.conn.s.Paused() && !s.owes() })
	return false
}

// flush ends a part of the round. Where another writes for this connection and
// the client is behind, it waits: a client that sends and does not read is not
// read from either, so that what it is owed stays bounded.
func (s *stream) flush(r *round) {
	r.end(s.b)
	s.skipCatchUp(func() bool { return s.writing && s.behind() })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing {
		s.await(func() bool { return !s.writing || !s.behind() })
	}
}

// What is done after the end of the session, within these bounds.
const (
	lingerTimeout = time.Second // for the client to close its side
	lingerBytes   = 1 << 20     // read and thrown away meanwhile
)

// farewell writes the last packets, closes our side and reads until the client
// has closed its own: closing with bytes unread would reset the connection, and
// the client might never see our last packet.
func (s *stream) farewell(r *round) {
	s.push(r)
	s.mu.Lock()
	s.await(func() bool { return !s.writing })
	polite := s.polite
	s.mu.Unlock()
	if polite { // the client expects nothing any more, and sends nothing
		return
	}
	half, ok := s.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || s.nc.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	b := bursts.Get().(*burst)
	defer putBurst(b)
	for n := 0; n < lingerBytes; {
		m, err := s.nc.Read(b.buf)
		if err != nil {
			return
		}
		n += m
	}
}
