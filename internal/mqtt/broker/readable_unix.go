//go:build unix

package broker

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"rollcall/internal/mqtt/transport"
)

// readable reports whether the system has bytes, or the end, of a connection
// that have not been read.
func readable(nc net.Conn) (yes bool) {
	transport.Control(nc, func(fd int) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(p, 0)
		}
		yes = n > 0
	})
	return yes
}
