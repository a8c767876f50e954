package bench

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hasLoop says whether this system has the event loop.
const hasLoop = true

// wire is what engines keep for a connection.
type wire struct {
	stream
	fd    int   // of the event loop
	index int32 // in the loop's connections
	armed bool  // the loop waits until fd can be written
}

// loop serves plain TCP by one thread over epoll: it reads all that is ready,
// handles it, and then writes once for each connection that was given
// something. It allocates nothing once its buffers have grown.
type loop struct {
	shard   *shard
	ep      int
	timer   int // timerfd
	wake    int // eventfd: stop
	conns   []*conn
	buf     []byte
	stopped atomic.Bool
}

const (
	timerEvent = -1
	wakeEvent  = -2
	readSize   = 256 << 10
	// shrinkAt bounds the buffer that a connection keeps.
	shrinkAt = 1 << 20
)

func newLoop(s *shard) (engine, error) {
	l := &loop{shard: s, ep: -1, timer: -1, wake: -1, buf: make([]byte, readSize)}
	var err error
	if l.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if l.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err == nil {
		err = unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, l.timer, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: timerEvent})
	}
	if err == nil {
		l.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	}
	if err == nil {
		err = unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, l.wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeEvent})
	}
	if err != nil {
		l.close()
		return nil, fmt.Errorf("set up an event loop: %w", err)
	}
	return l, nil
}

// add takes the socket out of the runtime's poller: a duplicate of its
// descriptor lives on.
func (l *loop) add(c *conn, nc net.Conn) error {
	t, ok := nc.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("%s: an event loop cannot serve %T", c.name, nc)
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	fd := -1
	var dup error
	if err = raw.Control(func(old uintptr) { fd, dup = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err == nil {
		err = dup
	}
	if err == nil {
		err = nc.Close()
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err == nil {
		err = unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(len(l.conns))})
	}
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd) // the first error says more
		}
		return fmt.Errorf("%s: %w", c.name, err)
	}
	c.wire.fd, c.wire.index = fd, int32(len(l.conns))
	l.conns = append(l.conns, c)
	return nil
}

func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer l.close()
	for _, c := range l.conns {
		if len(c.rest) > 0 { // what was read ahead
			if err := c.feed(nil); err != nil {
				l.shard.fail(fmt.Errorf("%s: %w", c.name, err))
				return
			}
		}
	}
	err := l.tick()
	events := make([]unix.EpollEvent, 512)
	for err == nil && !l.stopped.Load() {
		n, werr := unix.EpollWait(l.ep, events, -1)
		if werr != nil {
			if !errors.Is(werr, unix.EINTR) {
				err = fmt.Errorf("epoll_wait: %w", werr)
			}
			continue
		}
		due := false
		for i := 0; i < n && err == nil; i++ {
			switch ev := &events[i]; ev.Fd {
			case wakeEvent:
			case timerEvent:
				due = true
			default:
				err = l.ready(l.conns[ev.Fd], ev.Events)
			}
		}
		if err == nil {
			err = l.flush()
		}
		if due && err == nil {
			err = l.tick()
		}
		l.shard.endRound()
	}
	if err != nil && !l.stopped.Load() {
		l.shard.fail(err)
	}
}

// tick does what is due and sets the timer for what is next.
func (l *loop) tick() error {
	s := l.shard
	next := s.tick(s.now())
	if err := l.flush(); err != nil {
		return err
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(next-s.now(), 1))}
	return unix.TimerfdSettime(l.timer, 0, &spec, nil) // setting it takes the expiry back too
}

// ready serves a connection that has something to read or can be written.
func (l *loop) ready(c *conn, events uint32) error {
	if events&unix.EPOLLOUT != 0 {
		c.queue()
	}
	if events&^unix.EPOLLOUT == 0 {
		return nil
	}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(c.wire.fd), uintptr(unsafe.Pointer(&l.buf[0])), readSize)
		switch {
		case errno == unix.EAGAIN:
			return nil
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return fmt.Errorf("%s: read: %w", c.name, errno)
		case n == 0:
			return fmt.Errorf("%s: the broker closed the connection", c.name)
		}
		if err := c.feed(l.buf[:n]); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if n < readSize {
			return nil // level-triggered: what comes meanwhile is told again
		}
	}
}

// flush writes what the round has queued.
func (l *loop) flush() error {
	touched := l.shard.touched
	for _, c := range touched {
		c.dirty = false
		if err := l.write(c); err != nil {
			return fmt.Errorf("%s: write: %w", c.name, err)
		}
	}
	l.shard.touched = touched[:0]
	return nil
}

// write writes c.out as far as the socket takes it; the rest waits for
// EPOLLOUT.
func (l *loop) write(c *conn) error {
	at := 0
	for at < len(c.out) {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(c.wire.fd), uintptr(unsafe.Pointer(&c.out[at])), uintptr(len(c.out)-at))
		if errno == unix.EINTR {
			continue
		}
		if errno == unix.EAGAIN {
			break
		}
		if errno != 0 {
			return errno
		}
		at += int(n)
	}
	left := len(c.out) - at
	if left == 0 && cap(c.out) > shrinkAt {
		c.out = nil
	} else {
		c.out = slices.Delete(c.out, 0, at)
	}
	if armed := left > 0; armed != c.wire.armed {
		c.wire.armed = armed
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.wire.index}
		if armed {
			ev.Events |= unix.EPOLLOUT
		}
		return unix.EpollCtl(l.ep, unix.EPOLL_CTL_MOD, c.wire.fd, &ev)
	}
	return nil
}

func (l *loop) stop() {
	l.stopped.Store(true)
	one := [8]byte{7: 1}
	_, _ = unix.Write(l.wake, one[:]) // full means that it is awake
}

func (l *loop) close() {
	for _, c := range l.conns {
		_ = unix.Close(c.wire.fd) // the load is over
	}
	for _, fd := range []int{l.ep, l.timer, l.wake} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
