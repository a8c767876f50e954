//go:build unix

package broker

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// readable reports whether the system has bytes, or the end, of a connection
// that have not been read.
func readable(nc net.Conn) (yes bool) {
	c, ok := transport(nc).(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		for err == unix.EINTR {
			n, err = unix.Poll(p, 0)
		}
		yes = n > 0
	})
	return err == nil && yes
}
