package broker

import "net"

// tinyWaiter waits for bytes with a buffer of 16 and moves them to a burst
// from the pool. TLS and WebSocket keep the rest of a record or frame
// themselves, so the next read finds it.
func tinyWaiter(nc net.Conn) func() (*burst, int, error) {
	tiny := make([]byte, 16)
	return func() (*burst, int, error) {
		n, err := nc.Read(tiny)
		if n == 0 {
			return nil, 0, err
		}
		r := bursts.Get().(*burst)
		return r, copy(r.buf, tiny[:n]), err
	}
}
