package broker

import (
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/transport"
)

// socket is a TCP connection, plain or with TLS, that an event loop owns. Bytes that arrive
// are handled where the loop has read them; what is left of an incomplete
// packet, or came while nothing may be handled, waits in rest.
type socket struct {
	conn
	loop *loop
	fd   int
	tls  *secure // nil: plain TCP
	done func()
	rest []byte // arrived and not handled

	// The loop's own.
	adopted  bool
	readable bool  // bytes, or the end, may be there to read
	hup      bool  // the end may be there to read
	tired    bool  // the others have their turn before what has arrived is handled
	last     error // what the transport said last, after rest
	closing  bool  // our side is closed; what arrives is thrown away
	closed   bool
	lingers  int // bytes thrown away

	// Under conn.mu.
	posted  bool          // the loop will look at it
	blocked bool          // the transport takes no more bytes for now
	again   bool          // it has taken some while somebody was writing
	doomed  bool          // abort: the loop is to close it at once
	failure error         // of a write
	linger  time.Duration // until when we wait for the peer to close its side; monotonic
}

// admit implements link.
func (s *socket) admit(_ *round, id string, p *packet.Connect, expiry uint32) {
	s.borrow(0) // what has arrived became p; the loop counts what is behind it
	s.b.admissions.submit(func() {
		r := s.b.begin()
		defer s.b.done(r)
		s.judge(r, id, p, expiry, func() {})
	})
}

// rouse implements link.
func (s *socket) rouse() { s.post() }

// catchUp implements link.
func (s *socket) catchUp() { s.post() }

// checkCaughtUp is the loop's, after a turn of a connection that so many had
// asked for.
func (s *socket) checkCaughtUp(asked int) {
	if asked == 0 {
		return
	}
	s.mu.Lock()
	var caughtUp bool
	switch {
	case s.conn.s.Ended(): // whoever settles the end tells
	case s.closing, s.blocked && s.behind(), s.owes(): // no more is read for now
		caughtUp = true
	case s.frozen || s.conn.s.Paused() || s.tired || len(s.fans) > 0: // what has arrived is handled afterwards
	default:
		caughtUp = !s.readable || s.caught >= lastWordsBytes
	}
	s.mu.Unlock()
	if caughtUp {
		s.caughtUp(asked)
	}
}

// post has the loop attend to the connection. The caller holds the lock.
func (s *socket) post() {
	if !s.posted {
		s.posted = true
		s.loop.post(s)
	}
}

// abort implements link.
func (s *socket) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doomed = true
	s.post()
}

// backlog implements link.
func (s *socket) backlog() int {
	if s.tls == nil {
		return 0
	}
	return s.tls.backlog()
}

// progress implements link.
func (s *socket) progress() (n uint64, waits bool) {
	if s.gone { // and the descriptor may be another's
		return 0, true
	}
	n, waits, known := transport.Taken(s.fd)
	return n, waits || !known
}

// isDeaf implements link.
func (s *socket) isDeaf() bool {
	return s.blocked && s.behind() || !s.gone && transport.Unread(s.fd) > 0
}

// push implements link. Whoever touched the connection writes, and never waits:
// what the transport does not take, the loop writes when it can.
func (s *socket) push(r *round) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = false
	if s.writing || s.blocked {
		return
	}
	if r.remote {
		s.post()
		return
	}
	s.writing = true
	for s.unsent() && !s.gone {
		var o *output
		if s.tls == nil || !s.tls.pending() { // else what is encrypted goes first, and nothing on top of it
			o, s.out = s.out, nil
		}
		all, err := s.sendUnlocked(o)
		switch {
		case err == nil && !all, errors.Is(err, unix.EAGAIN):
			s.putBack(r, o)
		case err != nil:
			s.gone = true
			s.failure = err
			s.post()
			putOutput(o)
		default:
			putOutput(o)
			s.stall = stall{}
			s.drain(r)
		}
		if s.blocked {
			if !s.again {
				break
			}
			s.blocked, s.again = false, false // it may be writable again already
		}
	}
	s.writing = false
	if !s.unsent() && s.conn.s.Ended() || s.gone { // the loop waits for the last word
		s.post()
	}
}

// sendUnlocked is send without the lock, which the caller holds.
func (s *socket) sendUnlocked(o *output) (all bool, err error) {
	s.mu.Unlock()
	defer s.mu.Lock()
	return s.send(o)
}

// putBack makes o the first of what is to be written, when the transport can
// take more.
func (s *socket) putBack(r *round, o *output) {
	switch {
	case o == nil:
	case o.from == len(o.buf): // TLS has it
		putOutput(o)
	default:
		o.join(s.out)
		s.out = o
	}
	s.blocked = true
	s.stalls()
}

// writable is the loop's: the transport takes bytes again.
func (s *socket) writable(r *round) {
	s.mu.Lock()
	was := s.blocked
	s.blocked = false
	s.stall = stall{}
	s.again = s.writing // whoever writes may be about to find it full as it was
	s.mu.Unlock()
	if was {
		s.push(r)
		if s.readable || len(s.rest) > 0 { // reading stopped because of it
			s.attend(r)
		}
	}
}

// attend is the loop's: it does whatever can be done now for the connection.
func (s *socket) attend(r *round) {
	asked := 0
	defer func() { s.checkCaughtUp(asked) }()
	defer s.guard(r)
	s.mu.Lock()
	s.posted = false
	asked = len(s.catchUps)
	doomed, failure := s.doomed, s.failure
	output := s.unsent()
	s.mu.Unlock()
	s.tired = false
	if asked > 0 { // an event that tells of bytes may be on its way
		s.readable = true
		if s.tls != nil {
			s.tls.dry = false
		}
	}
	if output && s.adopted && !s.closed {
		s.link.push(r)
	}
	if !s.adopted {
		s.adopted = true
		s.loop.adopt(s)
	}
	switch {
	case s.closed:
		return
	case s.closing && doomed:
		s.close()
	case s.closing:
		s.discard(r)
	case doomed:
		s.finish(r, io.EOF)
	case failure != nil && s.fansOut(): // the client's last word may be behind what goes to very many
	case failure != nil:
		s.readable = true // the client's last word may be there
		if err := s.advance(r); errors.Is(err, errEnded) {
			failure = err
		}
		s.finish(r, failure)
	default:
		if err := s.advance(r); err != nil {
			s.finish(r, err)
		}
	}
}

// fansOut reports whether messages of the client's are on their way to very many,
// and what it has sent behind them will be handled.
func (s *socket) fansOut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.fans) > 0 && !s.frozen && !s.conn.s.Ended()
}

// advance is readOn, which leaves nothing in the loop's buffers.
func (s *socket) advance(r *round) error {
	t := s.tls
	if t == nil {
		return s.readOn(r)
	}
	err := s.readOn(r)
	t.keep()
	if t.pending() { // TLS has answered something
		s.link.push(r)
	}
	return err
}

// readOn handles what has arrived, until there is no more or nothing may be
// handled now. It returns why the connection is over.
func (s *socket) readOn(r *round) error {
	if len(s.rest) > 0 {
		used, v := s.handle(r, s.rest)
		s.rest = s.rest[:copy(s.rest, s.rest[used:])]
		if len(s.rest) == 0 {
			s.rest = nil
		}
		if stop, err := s.verdict(r, v); stop {
			return err
		}
	} else if stop, err := s.verdict(r, s.state()); stop {
		return err
	}
	if s.last != nil {
		return s.last
	}
	l := s.loop
	for budget := readBudget; s.readable; {
		if budget <= 0 {
			s.mu.Lock()
			s.post() // after the others' turn
			s.mu.Unlock()
			return nil
		}
		buf, have := l.buf, 0
		if len(s.rest) > 0 {
			if len(s.rest) > len(buf)/4 { // a large packet is read where it is
				if len(s.rest) == cap(s.rest) {
					s.rest = append(s.rest, make([]byte, len(s.rest))...)[:len(s.rest)]
				}
				buf, have = s.rest[:cap(s.rest)], len(s.rest)
			} else {
				have = copy(buf, s.rest)
			}
		}
		n, err := s.read(buf[have:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			s.readable = false
			return nil
		case err != nil:
			return err
		case n == 0:
			return io.EOF
		}
		budget -= n
		if n < len(buf)-have && !s.hup && s.tls == nil {
			s.readable = false // a shorter read than asked for has emptied the socket; an event tells of more
		}
		data := buf[:have+n]
		used, v := s.handle(r, data)
		s.keep(data[used:])
		if n := s.unhandled(); n > 0 && !s.borrow(n) {
			return errTooMuch
		}
		if v == starved {
			s.trickles(r, len(s.rest))
		}
		if stop, err := s.verdict(r, v); stop {
			return err
		}
	}
	return nil
}

// unhandled is how many bytes have arrived that were not handled.
func (s *socket) unhandled() int {
	n := len(s.rest)
	if s.tls != nil {
		n += len(s.tls.in)
	}
	return n
}

// keep remembers what was not handled.
func (s *socket) keep(data []byte) {
	switch {
	case len(data) == 0:
		s.rest = nil
	case cap(s.rest) >= len(data):
		s.rest = s.rest[:copy(s.rest[:cap(s.rest)], data)]
	default:
		s.rest = append(make([]byte, 0, len(data)), data...)
	}
}

// handle handles whole packets until the rest is none or nothing may be
// handled now.
func (s *socket) handle(r *round, data []byte) (used int, v verdict) {
	before := r.fanned
	for {
		n, v := s.receive(r, data[used:])
		used += n
		if v != more || r.fanned-before >= turnWide {
			return used, v
		}
	}
}

// turnWide is how many subscriptions the messages of one connection match before
// others have their turn.
const turnWide = 4096

// verdict reports whether reading stops, and how if for good.
func (s *socket) verdict(r *round, v verdict) (stop bool, err error) {
	switch v {
	case more: // after the others' turn
		s.tired = true
		s.mu.Lock()
		s.post()
		s.mu.Unlock()
		return true, nil
	case over:
		return true, errEnded
	case held:
		return true, s.watch(r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A client that sends and does not read is not read from either.
	return s.blocked && s.behind(), nil
}

// watch looks, while nothing may be handled, whether the peer has gone. It
// returns how, if that ends the connection now.
func (s *socket) watch(r *round) error {
	for s.hup && s.readable && s.last == nil && len(s.rest) < restMax {
		n, err := s.read(s.loop.buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			s.readable = false
		case err != nil:
			s.last = err
		case n == 0:
			s.last = io.EOF
		default:
			s.rest = append(s.rest, s.loop.buf[:n]...)
		}
	}
	eof := errors.Is(s.last, io.EOF)
	if s.last == nil || (eof || s.fansOut()) && len(s.rest) > 0 { // its last words are to be handled first
		return nil
	}
	s.mu.Lock()
	judged := !s.conn.s.Paused()
	s.gone = s.gone || !eof
	s.mu.Unlock()
	switch {
	case judged:
		return s.last
	case eof: // it sends no more, and may well listen
		return nil
	}
	s.step(r, session.Input{Kind: session.Lost, Ending: ending(s.last)}) // remembered; the claim may stand
	return nil
}

func (s *socket) state() verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn.s.Ended():
		return over
	case s.frozen || s.conn.s.Paused() || len(s.fans) > 0 || s.owes():
		return held
	}
	return starved
}

// finish ends the connection: the session first, then our side of the
// transport once the last words are written, then, when the peer has closed
// its own or after a while, the rest.
func (s *socket) finish(r *round, err error) {
	lastWords := s.wrapUp(r, err)
	s.closing = true
	s.rest = nil
	if !lastWords {
		s.close()
		return
	}
	s.link.push(r)
	s.mu.Lock()
	polite := s.polite && !s.unsent() && !s.writing
	s.mu.Unlock()
	if polite { // the client expects nothing any more, and sends nothing
		s.close()
		return
	}
	s.discard(r)
}

// sayGoodbye has TLS end its side, once everything else is said.
func (s *socket) sayGoodbye(r *round) {
	s.mu.Lock()
	due := s.tls != nil && !s.tls.bye && !s.unsent() && !s.writing && !s.gone
	if due {
		s.tls.bye = true
	}
	s.mu.Unlock()
	if due && s.tls.tls.CloseWrite() == nil {
		s.link.push(r)
	}
}

// discard waits for the last words to be written and for the peer's end.
func (s *socket) discard(r *round) {
	s.sayGoodbye(r)
	s.mu.Lock()
	unsaid := (s.unsent() || s.writing) && !s.gone
	begun := s.linger != 0
	gone := s.gone
	if !unsaid && !begun && !gone {
		s.linger = r.now.Mono + lingerTimeout
	}
	if s.linger != 0 { // each time: the wheel may have woken us for an earlier deadline
		s.b.wheel.schedule(&s.conn, s.linger)
	}
	late := begun && r.now.Mono >= s.linger
	s.mu.Unlock()
	switch {
	case unsaid:
		return // push posts when it is through, tick if it never is
	case gone || late:
		s.close()
		return
	case !begun:
		if unix.Shutdown(s.fd, unix.SHUT_WR) != nil {
			s.close()
			return
		}
	}
	for {
		n, err := sysRead(s.fd, s.loop.buf)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		s.lingers += n
		if err != nil || n == 0 || s.lingers > lingerBytes {
			s.close()
			return
		}
	}
}

// close closes the transport. A writer that is at work uses the descriptor
// still: then it posts, and the next turn closes. So do the last fan and that of
// the Will.
func (s *socket) close() {
	s.mu.Lock()
	s.gone = true
	if s.writing || len(s.fans) > 0 || s.departs && !s.departed {
		s.doomed = true
		s.mu.Unlock()
		return
	}
	s.closed = true
	s.mu.Unlock()
	s.loop.drop(s)
	s.b.wheel.remove(&s.conn)
	s.b.leave(&s.conn)
	s.done()
}

// readBudget is how many bytes are read from one connection before others have
// their turn.
const readBudget = 256 << 10

// restMax is how much is read ahead while nothing may be handled.
const restMax = 64 << 10
