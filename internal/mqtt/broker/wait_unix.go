//go:build unix

package broker

import (
	"io"
	"net"
	"syscall"
)

// waiter returns a function that waits for bytes and reads them into a burst
// that it takes from the pool only then. The burst is nil if there were none.
func waiter(nc net.Conn) func() (*burst, int, error) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return tinyWaiter(nc)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return tinyWaiter(nc)
	}
	var (
		r       *burst
		n       int
		failure error
	)
	attempt := func(fd uintptr) bool {
		r = bursts.Get().(*burst)
		for {
			n, failure = syscall.Read(int(fd), r.buf)
			switch failure {
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				putBurst(r)
				r, n, failure = nil, 0, nil
				return false
			}
			return true
		}
	}
	return func() (*burst, int, error) {
		r, n, failure = nil, 0, nil
		if err := raw.Read(attempt); err != nil {
			return r, 0, err
		}
		if n <= 0 && failure == nil {
			failure = io.EOF
		}
		got := r
		r = nil
		return got, max(n, 0), failure
	}
}
