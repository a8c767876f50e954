package broker

import (
	"sync"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// grant is a subscription as the tree holds it.
type grant struct {
	conn    *conn
	qos     packet.QoS
	noLocal bool
}

// route hands m, which c publishes, to every connected client with a matching
// subscription: once per client, at the highest QoS of the subscriptions that
// match [MQTT-3.3.4-2]. It is the reader's, so messages of one publisher arrive
// in its order.
func (c *conn) route(m *session.Message) {
	c.b.metrics.byQoS[m.QoS].Inc()
	f := fanouts.Get().(*fanout)
	defer f.put()
	f.found = c.tree.Match(m.Topic, f.found[:0])
	for _, g := range f.receivers(m.From) {
		g.conn.deliver(m, g.qos, g.conn == c)
	}
}

// fanout is what routing one message needs.
type fanout struct {
	found []grant
	seen  map[*conn]int // where in found, when there are many
}

var fanouts = sync.Pool{New: func() any { return &fanout{seen: make(map[*conn]int)} }}

const (
	searchMax = 8       // receivers up to which they are searched one by one
	foundMax  = 1 << 14 // larger ones are not kept in the pool
)

func (f *fanout) put() {
	if cap(f.found) > foundMax {
		return
	}
	clear(f.found[:cap(f.found)]) // a pool holds no connections
	clear(f.seen)
	fanouts.Put(f)
}

// receivers merges the grants of each client into one and leaves out those
// that do not want their own messages [MQTT-3.8.3-3].
func (f *fanout) receivers(from string) []grant {
	kept := f.found[:0]
	for _, g := range f.found {
		if g.noLocal && from == g.conn.name.id {
			continue
		}
		if i := f.find(kept, g.conn); i >= 0 {
			kept[i].qos = max(kept[i].qos, g.qos)
			continue
		}
		if len(f.found) > searchMax {
			f.seen[g.conn] = len(kept)
		}
		kept = append(kept, g)
	}
	return kept
}

func (f *fanout) find(kept []grant, c *conn) int {
	if len(f.found) > searchMax {
		if i, ok := f.seen[c]; ok {
			return i
		}
		return -1
	}
	for i := range kept {
		if kept[i].conn == c {
			return i
		}
	}
	return -1
}
