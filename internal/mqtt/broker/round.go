package broker

import (
	"sync"

	"rollcall/internal/clock"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
)

// round is one turn of work by one goroutine: some packets are handled, and
// what they lead to is appended to the output of the connections concerned. At
// its end each touched connection is written to once, and what is to be stored
// is handed over. An event loop has one round after the other; whoever else
// steps a session takes one from the pool.
type round struct {
	now      clock.Instant
	reader   *conn   // whose goroutine this is, if it is a connection's
	dirty    []*conn // have output, to be written at the end
	gathered int     // bytes of messages appended
	fanned   int     // subscriptions that messages have matched
	// remote: this is not the place to write. Connections of event loops are
	// handed over to their loops, which write once for all that has gathered.
	remote bool

	scratch []*session.Message // of the packets being handled
	publish []*packet.Publish  // beside scratch
	used    int                // how many of them
	puback  packet.Puback
	pubrec  packet.Pubrec
	pubrel  packet.Pubrel
	pubcomp packet.Pubcomp

	pacing  *pacing         // of an event loop; nil: nobody waits for the goroutine
	fans    []*fan          // not in use
	store   *stored.Store   // of batches
	batches []*stored.Batch // by partition; nil: none yet
	pending []uint8         // partitions whose batches are not empty

	in, out [16]uint32 // packets by type
	byQoS   [3]uint32  // messages published
}

var rounds = sync.Pool{New: func() any { return new(round) }}

// begin returns a round for a goroutine that is no event loop.
func (b *Broker) begin() *round {
	r := rounds.Get().(*round)
	r.now = b.clock.Instant()
	return r
}

// done ends a round that begin returned.
func (b *Broker) done(r *round) {
	r.end(b)
	r.reader, r.remote = nil, false
	rounds.Put(r)
}

// end hands over what is to be stored, writes to every touched connection and
// counts what was done. The round can be used again.
func (r *round) end(b *Broker) {
	r.submit()
	r.gathered = 0
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

// submit hands over what the round has for the store.
func (r *round) submit() {
	for _, p := range r.pending {
		r.batches[p].Submit()
	}
	r.pending = r.pending[:0]
}

// batch returns the round's batch for a partition, which is submitted at the
// end of the round at the latest.
func (r *round) batch(b *Broker, partition uint8) *stored.Batch {
	if r.store != b.store { // the pool is shared with other brokers of the process
		r.store, r.batches = b.store, make([]*stored.Batch, b.partitions)
	}
	if r.batches[partition] == nil {
		r.batches[partition] = b.store.Begin(partition)
	}
	for _, p := range r.pending {
		if p == partition {
			return r.batches[partition]
		}
	}
	r.pending = append(r.pending, partition)
	return r.batches[partition]
}

// borrow returns a message for the session to fill.
func (r *round) borrow() *session.Message {
	if r.used == len(r.scratch) {
		r.scratch = append(r.scratch, new(session.Message))
		r.publish = append(r.publish, new(packet.Publish))
	}
	m := r.scratch[r.used]
	r.used++
	return m
}

// decode uses the round's own structs for the packets that come often.
func (r *round) decode(v packet.Version, frame []byte, in *session.Input) (err error) {
	in.Scratch = nil
	switch packet.TypeOf(frame[0]) {
	case packet.PUBLISH:
		in.Scratch = r.borrow()
		p := r.publish[r.used-1]
		in.Packet, err = p, p.Decode(v, frame)
	case packet.PUBACK:
		in.Packet, err = &r.puback, r.puback.Decode(v, frame)
	case packet.PUBREC:
		in.Packet, err = &r.pubrec, r.pubrec.Decode(v, frame)
	case packet.PUBREL:
		in.Packet, err = &r.pubrel, r.pubrel.Decode(v, frame)
	case packet.PUBCOMP:
		in.Packet, err = &r.pubcomp, r.pubcomp.Decode(v, frame)
	default:
		in.Packet, err = packet.Decode(v, frame)
	}
	return err
}

// giveBack forgets what was borrowed.
func (r *round) giveBack() {
	for _, m := range r.scratch[:r.used] {
		m.Reset()
	}
	for _, p := range r.publish[:r.used] {
		*p = packet.Publish{UserProperties: p.UserProperties[:0], SubscriptionIdentifiers: p.SubscriptionIdentifiers[:0]}
	}
	r.used = 0
}

// fansMax is how many fans a round keeps to use again.
const fansMax = 4

func (r *round) takeFan() *fan {
	n := len(r.fans)
	if n == 0 {
		return new(fan)
	}
	f := r.fans[n-1]
	r.fans = r.fans[:n-1]
	return f
}

func (r *round) putFan(f *fan) {
	f.clear()
	if len(r.fans) < fansMax {
		r.fans = append(r.fans, f)
	}
}

// roundBytes is how much a round gathers of messages before it writes them: they
// are in the processor's cache yet.
const roundBytes = 256 << 10
