package broker

import (
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// route hands m to every connected client with a matching subscription: once
// per client, at the highest QoS of the subscriptions that match
// [MQTT-3.3.4-2 permits it]. Messages of one publisher arrive in its order.
func (b *Broker) route(m *session.Message) {
	found := b.tree.Match(m.Topic, nil)
	b.metrics.published.WithLabelValues(qosLabel(m.QoS)).Inc()
	if len(found) == 0 {
		return
	}
	if len(found) == 1 {
		b.offer(found[0], m)
		return
	}
	best := make(map[*conn]grant, len(found))
	for _, g := range found {
		if g.noLocal && m.From == g.conn.name.id {
			continue
		}
		if have, ok := best[g.conn]; !ok || g.qos > have.qos {
			best[g.conn] = g
		}
	}
	for _, g := range best {
		b.offer(g, m)
	}
}

// grant is a subscription as the tree holds it.
type grant struct {
	conn    *conn
	qos     packet.QoS
	noLocal bool
}

func (b *Broker) offer(g grant, m *session.Message) {
	if g.noLocal && m.From == g.conn.name.id { // [MQTT-3.8.3-3]
		return
	}
	g.conn.deliver(m, g.qos)
}

func qosLabel(q packet.QoS) string {
	switch q {
	case packet.QoS0:
		return "0"
	case packet.QoS1:
		return "1"
	}
	return "2"
}
