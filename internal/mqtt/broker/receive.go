package broker

import (
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// verdict says how receive came to stop.
type verdict uint8

const (
	starved verdict = iota // the rest is not a whole packet
	more                   // there may be more packets in the rest
	held                   // nothing may be handled now; the owner will be roused
	over                   // the session has ended
)

// How many packets are handled under one lock: few of a connection that is new,
// one where messages match many subscriptions, so that others have their turn.
const (
	batchMax   = 64
	batchFirst = 8
	batchWide  = 512 // subscriptions matched by a batch from which on the next is of one packet
)

// adapt sets the size of the next batch after one that has matched so many
// subscriptions.
func (c *conn) adapt(matched int) {
	switch {
	case matched >= batchWide:
		c.batch = 1
	case c.batch == 0:
		c.batch = batchFirst * 2
	default:
		c.batch = min(batchMax, c.batch*2)
	}
}

func (c *conn) batchSize() int {
	if c.batch == 0 {
		return batchFirst
	}
	return int(c.batch)
}

// receive acts on whole packets at the beginning of data: decode and step all
// of them, then perform what follows. It returns how many bytes it took.
func (c *conn) receive(r *round, data []byte) (used int, v verdict) {
	a := takeActions()
	before := r.fanned
	used, v = c.take(r, data, a)
	c.perform(r, a)
	c.adapt(r.fanned - before)
	a.put()
	r.giveBack()
	return used, v
}

func (c *conn) take(r *round, data []byte, a *actions) (used int, v verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = true
	in := session.Input{Kind: session.Received, Congested: c.behind()}
	plain := true
	for range c.batchSize() {
		switch {
		case c.s.Ended():
			return used, over
		case c.frozen || c.s.Paused() || len(c.fans) > 0 || c.owes():
			return used, held
		}
		n, err := packet.Frame(data[used:], c.b.cfg.MaximumPacketSize)
		if err == nil && n == 0 {
			return used, starved
		}
		// What is to be performed goes before anything that the next packet leads
		// to. QoS 0 and 1 lead to nothing but more of the same, unless the client
		// hears its own messages: the session keeps its acknowledgements in order.
		if len(a.list) > 0 && (c.listens || !plain || !isPlain(data[used])) {
			return used, more
		}
		plain = isPlain(data[used])
		if err == nil {
			in.Frame = data[used : used+n]
			err = r.decode(c.s.Version(), in.Frame, &in)
		}
		if len(a.list) > 0 && c.s.Owed() > 0 && (err != nil || isDubious(in.Packet)) {
			return used, more // whatever ends the session comes after what is owed
		}
		if err != nil {
			in.Kind, in.Text, in.Err = session.Garbled, packet.TypeOf(data[used]).String(), packet.BlameClient(data[used], err)
		} else {
			r.in[in.Packet.Type()&15]++
		}
		c.stepLocked(r, in, a)
		if in.Kind == session.Garbled {
			return used, over
		}
		used += n
		c.caught += n
	}
	return used, more
}

// isDubious reports whether the session may refuse a packet, and end.
func isDubious(p packet.Packet) bool {
	m, ok := p.(*packet.Publish)
	return !ok || m.Retain || m.TopicAlias != 0 || len(m.Topic) == 0 || m.Topic[0] == '$'
}

// isPlain reports whether a packet that begins so is a PUBLISH with QoS 0 or 1.
func isPlain(first byte) bool { return first&0xf4 == byte(packet.PUBLISH)<<4 }
