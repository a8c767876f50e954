package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// stream is what the portable engine keeps for a connection.
type stream struct {
	nc      net.Conn
	writing bool   // a goroutine is writing
	spare   []byte // the buffer that is not being written
}

// portable serves any net.Conn: a goroutine reads each connection, and another
// writes while there is something to be written. All that a connection was
// given while a write was under way leaves with the next one.
type portable struct {
	shard   *shard
	conns   []*conn
	done    chan struct{}
	once    sync.Once
	writers sync.WaitGroup
}

func newPortable(s *shard) *portable { return &portable{shard: s, done: make(chan struct{})} }

func (e *portable) add(c *conn, nc net.Conn) error {
	c.wire.nc = nc
	e.conns = append(e.conns, c)
	return nil
}

func (e *portable) run() {
	var readers sync.WaitGroup
	for _, c := range e.conns {
		readers.Go(func() { e.read(c) })
	}
	t := time.NewTimer(0)
	defer t.Stop()
	for running := true; running; {
		select {
		case <-t.C:
			var next int64
			e.round(func() error {
				next = e.shard.tick(e.shard.now())
				return nil
			})
			t.Reset(time.Duration(next - e.shard.now()))
		case <-e.done:
			running = false
		}
	}
	e.close()
	readers.Wait()
	e.writers.Wait()
}

func (e *portable) close() {
	for _, c := range e.conns {
		_ = c.wire.nc.Close() // the load is over
	}
}

func (e *portable) stop() { e.once.Do(func() { close(e.done) }) }

// round runs f under the shard's lock and has what it queued written.
func (e *portable) round(f func() error) {
	s := e.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := f(); err != nil {
		s.fail(err)
	}
	for _, c := range s.touched {
		c.dirty = false
		if !c.wire.writing {
			c.wire.writing = true
			e.writers.Go(func() { e.write(c) })
		}
	}
	s.touched = s.touched[:0]
	s.endRound()
}

func (e *portable) read(c *conn) {
	buf := make([]byte, 16<<10)
	var n int
	var err error
	handle := func() error { return c.feed(buf[:n]) }
	if len(c.rest) > 0 {
		e.round(handle) // what was read ahead
	}
	for {
		n, err = c.wire.nc.Read(buf)
		if n > 0 {
			e.round(handle)
		}
		if err != nil {
			e.ended(c, err)
			return
		}
	}
}

// write writes until there is nothing more.
func (e *portable) write(c *conn) {
	s := e.shard
	for {
		s.mu.Lock()
		if len(c.out) == 0 {
			c.wire.writing = false
			s.mu.Unlock()
			return
		}
		b := c.out
		c.out, c.wire.spare = c.wire.spare[:0], b
		s.mu.Unlock()
		if _, err := c.wire.nc.Write(b); err != nil {
			e.ended(c, err)
			return
		}
	}
}

// ended reports that a connection has ended, unless we end all of them.
func (e *portable) ended(c *conn, err error) {
	select {
	case <-e.done:
	default:
		if errors.Is(err, io.EOF) {
			err = errors.New("the broker closed the connection")
		}
		e.shard.fail(fmt.Errorf("%s: %w", c.name, err))
	}
}
