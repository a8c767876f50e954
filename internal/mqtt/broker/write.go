package broker

import (
	"errors"
	"net"
	"os"
	"time"

	"rollcall/internal/mqtt/session"
)

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

// startWriter starts a writer unless one is at work or there is nothing to do.
// The caller holds the lock.
func (c *conn) startWriter() {
	if c.writing || len(c.out) == 0 && !c.shut {
		return
	}
	c.writing = true
	go c.write() // ends when out is empty, or by WriteTimeout
}

// flush writes on the caller's goroutine what no other is writing.
func (c *conn) flush() {
	c.mu.Lock()
	if c.writing || len(c.out) == 0 && !c.shut {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	c.write()
}

const (
	closeTimeout  = 5 * time.Second // for writing the last packets before a close
	lingerTimeout = time.Second     // for the client to close its side
)

// write writes until nothing is left. The caller has set writing.
func (c *conn) write() {
	var spare []byte
	for {
		c.mu.Lock()
		if len(c.out) == 0 && c.s.Waiting() {
			_, todo := c.stepLocked(session.Input{Kind: session.Drain})
			if len(todo) > 0 {
				c.mu.Unlock()
				c.perform(todo)
				c.mu.Lock()
			}
		}
		if len(c.out) == 0 {
			c.out = nil
			c.writing = false
			closing := c.shut
			c.mu.Unlock()
			if closing {
				c.goodbye()
			}
			return
		}
		buf := c.out
		c.out = spare[:0]
		timeout := c.b.opts.WriteTimeout
		if c.shut {
			timeout = min(timeout, closeTimeout)
		}
		c.mu.Unlock()

		err := c.nc.SetWriteDeadline(time.Now().Add(timeout))
		if err == nil {
			_, err = c.nc.Write(buf)
		}
		if err != nil {
			c.writeFailed(err)
			return
		}
		if spare = buf; cap(spare) > keepBytes {
			spare = nil
		}
	}
}

// goodbye closes our side of the connection; the reader closes it whole. It
// gives the client a second to close its own.
func (c *conn) goodbye() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.nc.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		c.nc.Close()
	}
}

func (c *conn) writeFailed(err error) {
	e := ending(err)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		e = lostByClient
		e.Evidence.Detail = "the client accepted no bytes for " + c.b.opts.WriteTimeout.String()
	} else if errors.Is(err, net.ErrClosed) {
		e = lostByClient
	}
	c.mu.Lock()
	c.gone = true
	c.out = nil
	c.writing = false
	c.mu.Unlock()
	c.step(session.Input{Kind: session.Lost, Ending: e})
	c.nc.Close() // the reader notices
}
