package broker

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rollcall/internal/mqtt/listen"
)

// acceptor is a listening socket. Every loop waits for it, one is woken for a
// connection, and the loop with the fewest connections gets it.
type acceptor struct {
	b     *Broker
	group *loops
	fd    int
	door  listen.Door
	local netip.Addr
	users sync.WaitGroup // loops
}

const (
	acceptMax   = 64                     // connections accepted in one turn
	acceptPause = 100 * time.Millisecond // when there are no descriptors left
)

// listen has l wait for connections.
func (a *acceptor) listen(l *loop) {
	l.acceptors[a.fd] = a
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLEXCLUSIVE, Fd: int32(a.fd)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, a.fd, &e); err != nil {
		a.door.Paused(err)
	}
}

// leave ends that.
func (a *acceptor) leave(l *loop) {
	a.mute(l)
	delete(l.acceptors, a.fd)
	a.users.Done()
}

func (a *acceptor) mute(l *loop) {
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, a.fd, nil) // it fails only if that has been done
}

// accept accepts what waits.
func (a *acceptor) accept(l *loop) {
	for range acceptMax {
		fd, from, err := unix.Accept4(a.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			a.door.Resumed()
			a.welcome(l, fd, from)
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
		default: // no descriptors, no memory
			a.door.Paused(err)
			a.mute(l)
			a.b.opts.Clock.AfterFunc(acceptPause, func() {
				l.call(func() {
					if l.acceptors[a.fd] == a {
						a.listen(l)
					}
				})
			})
			return
		}
	}
}

func (a *acceptor) welcome(l *loop, fd int, from unix.Sockaddr) {
	if !a.door.Admit() {
		unix.Close(fd)
		return
	}
	remote := address(from)
	s := &socket{fd: fd, done: a.door.Leave, loop: a.group.least(l)}
	info := a.door.Info(remote.String(), a.loopback(fd, remote))
	if !s.init(a.b, s, info) {
		s.loop.count.Add(-1)
		s.loop.call(func() {}) // it may have nothing left to serve
		unix.Close(fd)
		a.door.Leave()
		return
	}
	if s.loop == l {
		s.attend(&l.round)
		return
	}
	s.mu.Lock()
	s.post()
	s.mu.Unlock()
}

// least returns the loop with the fewest connections, first if it is one of
// them, for one more.
func (g *loops) least(first *loop) *loop {
	for _, l := range g.all {
		if l.count.Load() < first.count.Load() {
			first = l
		}
	}
	first.count.Add(1)
	return first
}

// anyLoop returns the loop with the fewest connections, for one more, or nil.
// No loop ends that has one.
func (b *Broker) anyLoop() *loop {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.loops == nil {
		return nil
	}
	return b.loops.least(b.loops.all[0])
}

// Hold implements listen.Acceptor.
func (b *Broker) Hold() (release func(), err error) {
	g, err := b.joinLoops()
	if err != nil {
		return nil, err
	}
	return func() { b.leaveLoops(g) }, nil
}

// ServeTLS implements listen.Acceptor.
func (b *Broker) ServeTLS(raw net.Conn, tc *tls.Conn, swap func(net.Conn), info listen.Info, done func()) bool {
	tcp, ok := raw.(*net.TCPConn)
	if !ok {
		return false
	}
	fd, err := descriptor(tcp)
	if err != nil {
		return false
	}
	l := b.anyLoop()
	if l == nil { // they have ended with the listeners
		unix.Close(fd)
		return false
	}
	s := &socket{fd: fd, done: done, loop: l, readable: true}
	s.tls = &secure{tls: tc, local: raw.LocalAddr(), remote: raw.RemoteAddr()}
	swap(s.tls)
	raw.Close() // the descriptor is ours, and another
	if !s.init(b, s, info) {
		s.loop.count.Add(-1)
		s.loop.call(func() {}) // it may have nothing left to serve
		unix.Close(fd)
		done()
		return true
	}
	s.mu.Lock()
	s.post()
	s.mu.Unlock()
	return true
}

// loopback reports whether both ends are on loopback.
func (a *acceptor) loopback(fd int, remote netip.AddrPort) bool {
	if !remote.Addr().IsLoopback() {
		return false
	}
	if a.local.IsLoopback() {
		return true
	}
	sa, err := unix.Getsockname(fd)
	return err == nil && address(sa).Addr().IsLoopback()
}

func address(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
