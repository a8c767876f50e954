//go:build unix

package broker

import (
	"errors"
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
	w := &rawReader{raw: raw}
	attempt := w.attempt
	return func() (*burst, int, error) { return w.wait(attempt) }
}

// rawReader is a TCP connection that is read without a buffer to wait with.
type rawReader struct {
	raw syscall.RawConn
	r   *burst
	n   int
	err error
}

func (w *rawReader) wait(attempt func(uintptr) bool) (*burst, int, error) {
	err := w.raw.Read(attempt)
	r, n := w.r, max(w.n, 0)
	if err == nil {
		err = w.err
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	w.r, w.n, w.err = nil, 0, nil
	return r, n, err
}

// attempt reads what is there. It reports false if nothing is.
func (w *rawReader) attempt(fd uintptr) bool {
	w.r = bursts.Get().(*burst)
	for {
		w.n, w.err = syscall.Read(int(fd), w.r.buf)
		if errors.Is(w.err, syscall.EINTR) {
			continue
		}
		if errors.Is(w.err, syscall.EAGAIN) {
			putBurst(w.r)
			w.r, w.n, w.err = nil, 0, nil
			return false
		}
		return true
	}
}
