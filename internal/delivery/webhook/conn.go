package webhook

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"rollcall/internal/clock"
)

// Idle connections are given up before the receiver does it, because a request
// that crosses its FIN has to be made again.
const (
	idleLimit     = 4 * time.Second  // less than what receivers keep them for by default: 5 s and more
	longestIdle   = 90 * time.Second // whatever a receiver says
	idleMargin    = time.Second      // before what it says
	idleMarginMin = 2                // at least one part of so many is used of a short time
)

// conn is a connection to a receiver, below TLS. It gives up when it was idle
// for long enough, and it keeps what the receiver says readable when it does
// not read on.
type conn struct {
	net.Conn
	clock clock.Clock

	mu     sync.Mutex
	failed bool          // writing has failed
	uses   int           // requests under way
	idle   time.Duration // since when there are none, by the monotonic reading
	limit  time.Duration // how long it may be idle; 0: for as long as the transport wants
	armed  bool          // a timer will look at it
	closed bool
}

// Write never fails. A receiver that has seen enough of a request answers it,
// closes, and what is still being sent is met with a reset; the answer (413,
// say) is there to be read all the same. So the error is left to the next Read:
// if there is no answer, that fails too.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	failed := c.failed
	c.mu.Unlock()
	if failed {
		return len(p), nil
	}
	if _, err := c.Conn.Write(p); err != nil {
		c.mu.Lock()
		c.failed = true
		closed := c.closed
		c.mu.Unlock()
		if closed { // by us
			return 0, err
		}
	}
	return len(p), nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	return c.Conn.Close()
}

// begin notes that a request uses the connection.
func (c *conn) begin() {
	c.mu.Lock()
	c.uses++
	c.mu.Unlock()
}

// end notes that a request has been answered.
func (c *conn) end(limit time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uses--
	c.idle, c.limit = c.clock.Monotonic(), limit
	if c.uses == 0 && limit > 0 && !c.armed && !c.closed {
		c.arm(limit)
	}
}

func (c *conn) arm(d time.Duration) {
	c.armed = true
	c.clock.AfterFunc(d, c.look)
}

// look closes the connection if it has been idle for long enough.
func (c *conn) look() {
	c.mu.Lock()
	c.armed = false
	rest := c.limit - (c.clock.Monotonic() - c.idle)
	switch {
	case c.closed || c.uses > 0: // whoever uses it arms the timer at the end
	case rest > 0:
		c.arm(rest)
	default:
		c.mu.Unlock()
		_ = c.Close() // the transport sees that when it reads
		return
	}
	c.mu.Unlock()
}

// idleFor is how long a connection may be idle after an answer.
func idleFor(proto int, h http.Header) time.Duration {
	if proto != 1 { // HTTP/2 says goodbye
		return 0
	}
	for _, one := range h.Values("Keep-Alive") {
		for part := range strings.SplitSeq(one, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			if !strings.EqualFold(name, "timeout") {
				continue
			}
			n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil {
				break
			}
			said := min(time.Duration(n)*time.Second, longestIdle)
			return max(said-idleMargin, said/idleMarginMin, time.Millisecond)
		}
	}
	return idleLimit
}

// dial makes connections of ours.
func dial(c clock.Clock, dial func(ctx context.Context, network, address string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		inner, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &conn{Conn: inner, clock: c}, nil
	}
}

// ours returns the connection of ours below one that the transport has.
func ours(c net.Conn) *conn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	mine, _ := c.(*conn)
	return mine
}
