package differential

import (
	"slices"
	"strings"

	"rollcall/internal/mqtt/packet"
)

// model is what a conversation has led to so far, as far as it matters for
// what is legal and comparable. It is the same for both brokers.
type model struct {
	clients [clients]client
}

// client is what the model knows of one.
type client struct {
	online  bool
	version packet.Version
	expiry  uint32 // as of now; 0: the session ends with the connection
	subs    []packet.Subscription
	aliases map[uint16]string
	window  uint16
	will    *message // of the connection, or waiting
	muted   bool
}

// legal reports whether a step can be taken now, is legal MQTT, and leads to
// what the two brokers can be compared in; see known.go.
func (m *model) legal(s *step) bool {
	c := &m.clients[s.client]
	if s.do == connect {
		return s.legalConnect(c)
	}
	if s.do == expire {
		return true
	}
	if !c.online {
		return false
	}
	switch s.do {
	case disconnect:
		if s.reset && s.withWill && c.will != nil && c.will.delay > 0 {
			return false // known: delayedWill
		}
		return !(s.reset || s.withWill) || c.version == packet.V5
	case subscribe:
		if c.muted { // known: once
			return false
		}
		for _, sub := range s.subs {
			shared := strings.HasPrefix(sub.Filter, "$share/")
			if shared && (c.version != packet.V5 || c.expiry > 0 || c.muted || sub.NoLocal) {
				return false
			}
			if sub.NoLocal && sub.RetainHandling != 2 { // known: ownRetained
				return false
			}
			if slices.ContainsFunc(c.subs, func(o packet.Subscription) bool {
				return o.Filter == sub.Filter && (o.NoLocal != sub.NoLocal || o.RetainAsPublished != sub.RetainAsPublished)
			}) { // known: replaced
				return false
			}
			if c.version != packet.V5 && (sub.NoLocal || sub.RetainAsPublished || sub.RetainHandling > 0) {
				return false
			}
		}
		return s.id == 0 || c.version == packet.V5
	case publish:
		if m.blocked() && slices.ContainsFunc(s.messages, func(p message) bool { return (p.qos == packet.QoS2) != (s.messages[0].qos == packet.QoS2) }) {
			return false // known: order
		}
		for i := range s.messages {
			p := &s.messages[i]
			if p.retain && slices.ContainsFunc(s.messages[:i], func(o message) bool { return o.retain && o.topic == p.topic && o.qos != p.qos }) {
				return false // known: order
			}
			if c.version != packet.V5 && (p.expiry > 0 || p.alias > 0 || p.props) {
				return false
			}
		}
	case mute:
		if c.window < 65535 && slices.ContainsFunc(topics, func(topic string) bool { return c.overlaps(topic) > 1 }) { // known: once
			return false
		}
		return !c.muted && !slices.ContainsFunc(c.subs, func(s packet.Subscription) bool { return strings.HasPrefix(s.Filter, "$share/") })
	}
	return true
}

// blocked reports whether it matters which message comes first because a window
// will not open again.
func (m *model) blocked() bool {
	return slices.ContainsFunc(m.clients[:], func(c client) bool { return c.muted && c.window < 65535 })
}

func (s *step) legalConnect(c *client) bool {
	if s.version != packet.V5 && (s.expiry > 0 && s.clean || s.will != nil && (s.will.delay > 0 || s.will.expiry > 0 || s.will.props)) {
		return false
	}
	if c.online && c.will != nil && c.expiry > 0 && !s.clean {
		return false // known: takeOverWill
	}
	if s.clean && c.expiry > 0 && c.will != nil && c.will.delay > 0 {
		return false // known: delayedWill
	}
	return true
}

// take notes what the step does.
func (m *model) take(s *step) {
	c := &m.clients[s.client]
	switch s.do {
	case connect:
		if s.clean || c.expiry == 0 {
			c.subs = nil
		}
		c.online, c.version, c.expiry, c.will, c.muted, c.window = true, s.version, s.expiry, s.will, false, s.window
		c.aliases = make(map[uint16]string)
		if s.version != packet.V5 {
			c.expiry = 0
			if !s.clean {
				c.expiry = 1<<32 - 1
			}
		}
	case disconnect, drop:
		if s.reset {
			c.expiry = 0
		}
		if c.online = false; s.do == disconnect && !s.withWill {
			c.will = nil
		}
	case subscribe:
		for _, sub := range s.subs {
			c.subs = slices.DeleteFunc(c.subs, func(o packet.Subscription) bool { return o.Filter == sub.Filter })
			c.subs = append(c.subs, sub)
		}
	case unsubscribe:
		for _, sub := range s.subs {
			c.subs = slices.DeleteFunc(c.subs, func(o packet.Subscription) bool { return o.Filter == sub.Filter })
		}
	case mute:
		c.muted = true
	case publish:
		for i := range s.messages {
			if p := &s.messages[i]; p.alias > 0 {
				c.aliases[p.alias] = p.topic
			}
		}
	}
}

// overlaps reports for how many of its subscriptions a client gets a topic.
func (c *client) overlaps(topic string) (n int) {
	for _, sub := range c.subs {
		if !strings.HasPrefix(sub.Filter, "$share/") && matches(sub.Filter, topic) {
			n++
		}
	}
	return n
}

// matches is topic matching as 4.7 tells it, written down once more.
func matches(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		switch {
		case level == "#":
			return true
		case i >= len(t):
			return false
		case level != "+" && level != t[i]:
			return false
		}
	}
	return len(f) == len(t)
}
