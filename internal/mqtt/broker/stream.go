package broker

import (
	"errors"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"rollcall/internal/mqtt/listen"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/transport"
)

// stream is a connection over a net.Conn: TLS, WebSocket, and everything where
// there are no event loops. Its owner is a goroutine that rests in a read
// without a buffer. A writer exists only while there is something to write that
// the reader does not write itself.
type stream struct {
	conn
	nc   net.Conn
	work sync.WaitGroup // the writer
	// Under conn.mu:
	wake    chan struct{} // the reader waits for it; nil if it does not
	ended   bool          // the reader has been told that the session is over
	written uint64        // bytes that the transport has taken
	// looked: there is something to read, as far as somebody knows who waits
	// until the reader has caught up.
	looked bool
}

// Serve serves one connection until it has ended, closes it, and calls done.
// It may return before. It implements listen.Handler.
func (b *Broker) Serve(nc net.Conn, info listen.Info, done func()) {
	s := &stream{nc: nc}
	if !s.init(b, s, info) {
		nc.Close()
		done()
		return
	}
	s.live(done, true)
}

// init makes c a connection of the broker, or reports that the broker is
// shutting down.
func (c *conn) init(b *Broker, l link, info listen.Info) bool {
	c.b, c.link, c.info = b, l, info
	c.s = session.New(&b.cfg, b.clock.Instant())
	c.realm = b.enter(c)
	if c.realm == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.schedule()
	return true
}

// live reads until the connection has ended. The judgement of CONNECT grows
// the stack beyond what a connection needs that rests, and stacks shrink late
// and not all the way: once CONNACK has left, a fresh goroutine goes on.
func (s *stream) live(done func(), connecting bool) {
	var err error
	r := s.b.begin()
	r.reader = &s.conn
	s.guarded(r, func() { err = s.read(connecting) })
	if errors.Is(err, errConnected) {
		s.b.done(r)
		go s.live(done, false) // in place of this one
		return
	}
	s.guarded(r, func() { s.finish(r, err) })
	s.b.done(r)
	s.close()
	s.b.leave(&s.conn)
	done()
}

func (s *stream) finish(r *round, err error) {
	lastWords := s.wrapUp(r, err)
	r.end(s.b) // the Will, and what waited for the end, leave before the good-bye
	if lastWords {
		s.farewell(r)
	}
}

// close closes the transport and waits for the writer.
func (s *stream) close() {
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	s.b.wheel.remove(&s.conn)
	s.nc.Close()
	s.work.Wait()
}

// abort closes the transport without a word: the peer takes none, and a polite
// close of TLS or WebSocket would wait for it.
func (s *stream) abort() {
	transport.Base(s.nc).Close()
}

// progress implements link.
func (s *stream) progress() (n uint64, waits bool) {
	n, waits = s.written, true
	transport.Control(s.nc, func(fd int) {
		if acked, w, known := transport.Taken(fd); known {
			n, waits = acked, w
		}
	})
	return n, waits
}

// isDeaf implements link.
func (s *stream) isDeaf() (deaf bool) {
	if s.wake != nil { // the reader waits, and does not read
		return true
	}
	transport.Control(s.nc, func(fd int) { deaf = transport.Unread(fd) > 0 })
	return deaf
}

// rouse implements link: the reader goes on, to finish if the session is over,
// and then no write keeps it for long.
func (s *stream) rouse() {
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
	if s.conn.s.Ended() && !s.ended {
		s.ended = true
		now := time.Now()
		_ = s.nc.SetReadDeadline(now) // it fails only if the transport is dead
		_ = s.nc.SetWriteDeadline(now.Add(s.writeTimeout()))
	}
}

// admit implements link: the reader has nothing else to do meanwhile.
func (s *stream) admit(r *round, id string, p *packet.Connect, expiry uint32) {
	settled := make(chan struct{})
	s.judge(r, id, p, expiry, sync.OnceFunc(func() { close(settled) }))
	<-settled
}

// await waits, with the lock held but while it sleeps, until done. Only the
// reader may.
func (s *stream) await(done func() bool) {
	for !done() {
		woken := make(chan struct{})
		s.wake = woken
		s.mu.Unlock()
		<-woken
		s.mu.Lock()
	}
}

// signal has the reader look again whether what it waits for has come. The
// caller holds the lock.
func (s *stream) signal() {
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}

// backlog implements link: what is being written is one output at most.
func (s *stream) backlog() int { return 0 }

// push implements link. The reader writes what no other is writing, itself.
func (s *stream) push(r *round) {
	s.mu.Lock()
	s.dirty = false
	if s.writing || s.gone || s.out == nil {
		s.mu.Unlock()
		return
	}
	s.writing = true
	if r.reader != &s.conn {
		s.work.Go(func() { // ends when out is empty, or by WriteTimeout
			w := s.b.begin()
			defer s.b.done(w)
			s.guarded(w, func() { s.write(w) })
		})
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.write(r)
}

// write writes until nothing is left. The caller has set writing.
func (s *stream) write(r *round) {
	for {
		o, err := s.next(r)
		if o == nil {
			return
		}
		if err == nil {
			err = s.writeOut(o.buf)
		}
		putOutput(o)
		if err != nil {
			s.writeFailed(r, err)
			return
		}
	}
}

// next takes what is to be written, or nil, and then writing has ended.
func (s *stream) next(r *round) (*output, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.signal()
	s.stall = stall{}
	s.drain(r)
	if s.out == nil || s.gone {
		s.writing = false
		return nil, nil
	}
	o := s.out
	s.out = nil
	s.stalls()
	return o, nil
}

// chunk is how much is written at once. On Linux the system knows the progress
// of a write; elsewhere it is known when a write has ended.
var chunk = map[bool]int{true: math.MaxInt, false: 16 << 10}[runtime.GOOS == "linux"]

// writeOut writes all of buf. How long that may take depends on whether the
// peer takes bytes, which the wheel watches.
func (s *stream) writeOut(buf []byte) error {
	for len(buf) > 0 {
		n, err := s.nc.Write(buf[:min(len(buf), chunk)])
		s.mu.Lock()
		s.written += uint64(n)
		s.mu.Unlock()
		if err != nil {
			return err
		}
		buf = buf[n:]
	}
	return nil
}

func (s *stream) writeFailed(r *round, err error) {
	e := ending(err)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		e = stalledEnding(s.b.opts.WriteTimeout)
	} else if errors.Is(err, net.ErrClosed) {
		e = lostByClient
	}
	s.mu.Lock()
	s.gone = true
	s.out = nil
	s.writing = false
	s.signal()
	s.mu.Unlock()
	s.step(r, session.Input{Kind: session.Lost, Ending: e})
	s.abort() // the reader notices
}
