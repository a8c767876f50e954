package broker

import (
	"sync"
	"time"

	"rollcall/internal/mqtt/packet"
)

// round is one turn of work by one goroutine: some packets are handled, and
// what they lead to is appended to the output of the connections concerned.
// At its end each touched connection is written to once. An event loop has one
// round after the other; whoever else steps a session takes one from the pool.
type round struct {
	now     time.Time
	reader  *conn   // whose goroutine this is, if it is a connection's
	dirty   []*conn // have output, to be written at the end
	publish packet.Publish
	puback  packet.Puback
	fan     fanout

	in, out [16]uint32 // packets by type
	byQoS   [3]uint32  // messages published
}

var rounds = sync.Pool{New: func() any { return new(round) }}

// begin returns a round for a goroutine that is no event loop.
func (b *Broker) begin() *round {
	r := rounds.Get().(*round)
	r.now = b.opts.Clock.Now()
	return r
}

// done ends a round that begin returned.
func (b *Broker) done(r *round) {
	r.end(b)
	r.reader = nil
	r.publish = packet.Publish{}
	rounds.Put(r)
}

// end writes to every touched connection and counts what was done. The round
// can be used again.
func (r *round) end(b *Broker) {
	for len(r.dirty) > 0 { // writing can lead to more
		dirty := r.dirty
		r.dirty = nil
		for i, c := range dirty {
			dirty[i] = nil
			c.push(r)
		}
		if r.dirty == nil {
			r.dirty = dirty[:0]
			break
		}
	}
	m := b.metrics
	for t := range r.in {
		if n := r.in[t]; n > 0 {
			m.in[t].Add(float64(n))
			r.in[t] = 0
		}
		if n := r.out[t]; n > 0 {
			m.out[t].Add(float64(n))
			r.out[t] = 0
		}
	}
	for q := range r.byQoS {
		if n := r.byQoS[q]; n > 0 {
			m.byQoS[q].Add(float64(n))
			r.byQoS[q] = 0
		}
	}
}

// push writes what waits for the connection, guarded: the round goes on.
func (c *conn) push(r *round) {
	defer c.guard(r)
	c.link.push(r)
}

// touch has the round write to c at its end. The caller holds c's lock.
func (r *round) touch(c *conn) {
	if c.out != nil && !c.dirty && !c.writing {
		c.dirty = true
		r.dirty = append(r.dirty, c)
	}
}
