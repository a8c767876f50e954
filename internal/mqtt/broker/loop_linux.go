package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"rollcall/internal/mqtt/listen"
)

// loop serves plain TCP connections on one goroutine: it waits until some can
// be read, reads all they have, handles it, and then writes once to every
// connection that is concerned. A connection belongs to one loop. Others hand
// it over by post, which costs the loop one wake-up however many there are.
type loop struct {
	b      *Broker
	group  *loops
	epoll  int
	event  int             // eventfd: wakes the loop
	file   *os.File        // epoll, as the runtime waits for it
	raw    syscall.RawConn // of file
	buf    []byte
	cipher []byte // as it comes over TLS; nil until there is some
	round  round
	pacing pacing
	conns  []*socket // by descriptor
	count  atomic.Int32

	acceptors map[int]*acceptor // by descriptor

	mu     sync.Mutex
	posted []*socket
	calls  []func()
	asleep bool

	// The loop's own.
	waiting []*socket // taken from posted
	next    int       // the first of them that is not attended to
}

// loops are the event loops of a broker, while there are listeners or
// connections.
type loops struct {
	all   []*loop
	users int         // listeners; under the broker's lock
	close atomic.Bool // no listeners are left: loops end with their last connection
}

const (
	loopBuffer = 128 << 10
	eventsMax  = 256
	postedMax  = 256 // connections handed over by others that are attended to before those that can be read
)

// Acceptor returns what accepts plain TCP connections, or nil if Options say
// that there are no event loops.
func (b *Broker) Acceptor() listen.Acceptor {
	if b.opts.Loops < 0 {
		return nil
	}
	return b
}

// ServeTCP implements listen.Acceptor.
func (b *Broker) ServeTCP(ctx context.Context, ln *net.TCPListener, door listen.Door) error {
	g, err := b.joinLoops()
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	defer b.leaveLoops(g)
	fd, err := duplicate(ln)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	a := &acceptor{b: b, group: g, fd: fd, door: door, local: ln.Addr().(*net.TCPAddr).AddrPort().Addr().Unmap()}
	a.users.Add(len(g.all))
	for _, l := range g.all {
		l.call(func() { a.listen(l) })
	}
	<-ctx.Done()
	err = ln.Close()
	for _, l := range g.all {
		l.call(func() { a.leave(l) })
	}
	a.users.Wait()
	return errors.Join(err, unix.Close(fd))
}

// descriptor returns a descriptor of its own for the socket of c.
func descriptor(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := raw.Control(func(p uintptr) { fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return 0, e
	}
	return fd, err
}

func duplicate(ln *net.TCPListener) (int, error) {
	fd, err := descriptor(ln)
	if err != nil {
		return 0, err
	}
	// What is accepted inherits these.
	for _, o := range [][3]int{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
	} {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return 0, errors.Join(err, unix.Close(fd))
		}
	}
	return fd, nil
}

// joinLoops returns the event loops, started if there were none.
func (b *Broker) joinLoops() (*loops, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.loops == nil {
		n := b.opts.Loops
		if n == 0 {
			n = runtime.GOMAXPROCS(0)
		}
		g := &loops{}
		for range n {
			l, err := newLoop(b, g)
			if err != nil {
				for _, l := range g.all {
					l.free()
				}
				return nil, fmt.Errorf("event loop: %w", err)
			}
			g.all = append(g.all, l)
		}
		for _, l := range g.all {
			go l.run() // ends when there are neither listeners nor connections
		}
		b.loops = g
		b.admissions.open()
	}
	b.loops.users++
	return b.loops, nil
}

func (b *Broker) leaveLoops(g *loops) {
	b.mu.Lock()
	g.users--
	last := g.users == 0
	if last {
		g.close.Store(true)
		b.loops = nil
	}
	b.mu.Unlock()
	if last {
		b.admissions.close()
		for _, l := range g.all {
			l.call(func() {})
		}
	}
}

func newLoop(b *Broker, g *loops) (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	ev, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(err, unix.Close(ep))
	}
	if err := unix.SetNonblock(ep, true); err != nil { // so that the runtime polls it
		return nil, errors.Join(err, unix.Close(ev), unix.Close(ep))
	}
	file := os.NewFile(uintptr(ep), "epoll")
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, unix.Close(ev), file.Close())
	}
	l := &loop{file: file, raw: raw, b: b, group: g, epoll: ep, event: ev, buf: make([]byte, loopBuffer), acceptors: make(map[int]*acceptor)}
	l.round.pacing = &l.pacing
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, ev, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(ev)}); err != nil {
		l.free()
		return nil, err
	}
	return l, nil
}

func (l *loop) free() {
	unix.Close(l.event)
	l.file.Close()
}

// post has the loop attend to s. It does not block.
func (l *loop) post(s *socket) {
	l.mu.Lock()
	l.posted = append(l.posted, s)
	l.wake()
}

// call has the loop call f.
func (l *loop) call(f func()) {
	l.mu.Lock()
	l.calls = append(l.calls, f)
	l.wake()
}

// wake ends the loop's sleep, and unlocks it.
func (l *loop) wake() {
	asleep := l.asleep
	l.asleep = false
	l.mu.Unlock()
	if asleep {
		one := [8]byte{1}
		_, _ = sysWrite(l.event, one[:]) // it fails only if a wake-up is pending
	}
}

// run is the loop. It ends when there is nothing left to serve.
func (l *loop) run() {
	defer l.free()
	events := make([]unix.EpollEvent, eventsMax)
	for {
		calls, idle := l.takePosted()
		var n int
		if idle {
			if l.group.close.Load() && l.count.Load() == 0 {
				if l.retire() {
					return
				}
			}
			n = l.sleep(events)
		} else {
			n = sysEpollPoll(l.epoll, events)
		}
		l.round.now = l.b.clock.Instant()
		for _, f := range calls {
			f()
		}
		l.pacing.left = fanTurn
		l.attendPosted()
		for i := range n {
			l.dispatch(&events[i])
			if l.round.gathered >= roundBytes {
				l.round.end(l.b)
			}
		}
		l.round.end(l.b)
		l.pacing.goOn(&l.round)
	}
}

// retire reports that nothing has come that the loop would have to do.
func (l *loop) retire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.posted) == 0 && len(l.calls) == 0
}

// attendPosted attends to what others have handed over, or some of it.
func (l *loop) attendPosted() {
	for end := min(l.next+postedMax, len(l.waiting)); l.next < end; l.next++ {
		s := l.waiting[l.next]
		l.waiting[l.next] = nil
		s.attend(&l.round)
	}
}

// takePosted takes what others have handed over; idle if there is nothing to do.
func (l *loop) takePosted() (calls []func(), idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == len(l.waiting) { // what comes meanwhile waits for a turn of its own
		l.waiting, l.posted, l.next = l.posted, l.waiting[:0], 0
	}
	calls, l.calls = l.calls, nil
	return calls, len(l.waiting) == 0 && len(calls) == 0 && l.pacing.idle()
}

// sleep waits for events, or for a post.
func (l *loop) sleep(events []unix.EpollEvent) int {
	if n := sysEpollPoll(l.epoll, events); n > 0 {
		return n
	}
	runtime.Gosched() // whoever else wants the core goes first
	if n := sysEpollPoll(l.epoll, events); n > 0 {
		return n
	}
	l.mu.Lock()
	if len(l.posted) > 0 || len(l.calls) > 0 {
		l.mu.Unlock()
		return 0
	}
	l.asleep = true
	l.mu.Unlock()
	n := 0
	err := l.raw.Read(func(uintptr) bool {
		n = sysEpollPoll(l.epoll, events)
		return n > 0
	})
	l.mu.Lock()
	l.asleep = false
	l.mu.Unlock()
	if err != nil {
		return 0
	}
	return n
}

func (l *loop) dispatch(e *unix.EpollEvent) {
	fd := int(e.Fd)
	if fd == l.event {
		var buf [8]byte
		_, _ = sysRead(fd, buf[:])
		return
	}
	if fd >= len(l.conns) || l.conns[fd] == nil {
		if a := l.acceptors[fd]; a != nil {
			a.accept(l)
		}
		return
	}
	s := l.conns[fd]
	if e.Events&unix.EPOLLOUT != 0 {
		s.guarded(&l.round, func() { s.writable(&l.round) })
	}
	if e.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.readable = true
		if s.tls != nil {
			s.tls.dry = false
		}
		s.hup = s.hup || e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
		s.attend(&l.round)
	}
}

// cipherBuffer is what bytes of TLS are read into.
func (l *loop) cipherBuffer() []byte {
	if l.cipher == nil {
		l.cipher = make([]byte, loopBuffer)
	}
	return l.cipher
}

// adopt makes the loop the owner of s.
func (l *loop) adopt(s *socket) {
	if s.fd >= len(l.conns) {
		l.conns = append(l.conns, make([]*socket, s.fd+1-len(l.conns)+64)...)
	}
	l.conns[s.fd] = s
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(s.fd)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, s.fd, &e); err != nil {
		s.finish(&l.round, err)
	}
}

// drop forgets s and closes its descriptor.
func (l *loop) drop(s *socket) {
	l.conns[s.fd] = nil
	l.count.Add(-1)
	unix.Close(s.fd)
}
