package broker

import (
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
// match [MQTT-3.3.4-2]. It is the owner's, so messages of one publisher arrive
// in its order.
func (c *conn) route(r *round, m *session.Message) {
	r.byQoS[m.QoS]++
	f := &r.fan
	f.found = c.tree.Match(m.Topic, f.found[:0])
	for _, g := range f.receivers(m.From) {
		g.conn.deliver(r, m, g.qos)
	}
	f.clear()
}

// fanout is what routing one message needs. It is used again.
type fanout struct {
	found []grant
	seen  map[*conn]int // where in found, when there are many
}

const (
	searchMax = 8       // receivers up to which they are searched one by one
	foundMax  = 1 << 14 // larger ones are not kept
)

func (f *fanout) clear() {
	if cap(f.found) > foundMax {
		*f = fanout{}
		return
	}
	clear(f.found) // no connection is kept alive
	clear(f.seen)
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
			if f.seen == nil {
				f.seen = make(map[*conn]int)
			}
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
