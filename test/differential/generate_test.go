package differential

import (
	"fmt"
	"math/rand/v2"

	"rollcall/internal/mqtt/packet"
)

// generator makes a random legal conversation.
type generator struct {
	r       *rand.Rand
	m       model
	n       int // messages made
	qos     [clients]packet.QoS
	windows [clients]uint16
	keeps   [clients]bool // the client has sessions that outlive connections
	share   bool          // there are shared subscriptions
	slow    bool          // messages expire, and that is waited for
}

var (
	topics  = []string{"a", "b", "a/b", "a/c", "a/b/c", "b/c", ""}
	filters = []string{"a", "b", "a/b", "a/+", "+/b", "a/#", "+", "+/+", "#", "a/b/c", "+/+/c", "b/#", "/", "+/"}
	pools   = []string{"s/x/u/v", "s/y/u/v", "s/x/u/w"}
	shares  = []string{"s/x/u/v", "s/+/u/v", "s/#"}
)

func generate(seed uint64, slow bool) conversation {
	g := &generator{r: rand.New(rand.NewPCG(seed, 1))}
	g.slow = slow && g.one(2)
	g.share = g.one(3)
	for i := range clients {
		g.qos[i] = packet.QoS(g.r.IntN(3))
		g.keeps[i] = g.one(2)
		g.windows[i] = []uint16{1, 2, 5, 65535, 65535}[g.r.IntN(5)]
		if g.slow { // known: expiredBlocks
			g.windows[i] = 65535
		}
	}
	var c conversation
	for i := range clients {
		c = g.add(c, g.connect(i))
		c = g.add(c, g.subscribe(i))
	}
	for tries, want := 0, 15+g.r.IntN(30); len(c) < want && tries < 1000; tries++ {
		c = g.add(c, g.step(g.r.IntN(clients)))
	}
	for i := range clients { // whoever is away may have something waiting
		if !g.m.clients[i].online || g.m.clients[i].muted {
			s := g.connect(i)
			s.clean = false
			c = g.add(c, s)
		}
	}
	return c
}

// one is true once in n times.
func (g *generator) one(n int) bool { return g.r.IntN(n) == 0 }

func (g *generator) add(c conversation, s step) conversation {
	if !g.m.legal(&s) {
		return c
	}
	g.m.take(&s)
	return append(c, s)
}

func (g *generator) step(i int) step {
	c := &g.m.clients[i]
	if !c.online && g.one(3) {
		return g.connect(i)
	}
	switch n := g.r.IntN(100); {
	case n < 4:
		return g.connect(i)
	case n < 9:
		s := step{client: i, do: disconnect}
		if c.version == packet.V5 {
			s.reset, s.withWill = g.one(6), g.one(4)
		}
		return s
	case n < 15:
		return step{client: i, do: drop}
	case n < 30:
		return g.subscribe(i)
	case n < 36:
		return g.unsubscribe(i)
	case n < 40:
		return step{client: i, do: mute, half: g.one(2)}
	case n < 41 && g.slow && g.one(3):
		return step{client: i, do: expire}
	}
	s := step{client: i, do: publish}
	for more := true; more && len(s.messages) < 8; more = g.one(3) {
		s.messages = append(s.messages, g.message(c))
	}
	return s
}

func (g *generator) connect(i int) step {
	s := step{client: i, do: connect, version: packet.V311, clean: g.one(6), window: 65535}
	if g.one(2) {
		s.version = packet.V5
		s.window = g.windows[i]
		if g.one(3) {
			s.aliases = uint16(g.r.IntN(4))
		}
		if g.keeps[i] && !g.one(6) {
			s.expiry = 7200
		}
	} else {
		s.clean = s.clean || !g.keeps[i]
	}
	if g.one(3) {
		w := g.message(nil)
		w.payload = "will-" + w.payload
		if s.version == packet.V5 && s.expiry > 0 && g.one(2) {
			w.delay = 3600
		}
		s.will = &w
	}
	return s
}

func (g *generator) subscribe(i int) step {
	c := &g.m.clients[i]
	s := step{client: i, do: subscribe}
	v5 := c.version == packet.V5
	if v5 && g.one(3) {
		s.id = uint32(1 + g.r.IntN(200))
	}
	if g.share && v5 && c.expiry == 0 && g.one(3) {
		s.id = 0
		s.subs = []packet.Subscription{{Filter: fmt.Sprintf("$share/g%d/%s", g.r.IntN(2), shares[g.r.IntN(len(shares))]), QoS: packet.QoS1}}
		return s
	}
	seen := map[string]bool{}
	for more := true; more; more = g.one(2) {
		f := filters[g.r.IntN(len(filters))]
		if seen[f] || g.share && f == "#" {
			continue
		}
		seen[f] = true
		sub := packet.Subscription{Filter: f, QoS: g.qos[i]}
		if v5 && g.one(2) {
			sub.NoLocal, sub.RetainAsPublished, sub.RetainHandling = g.one(3), g.one(2), uint8(g.r.IntN(3))
			if sub.NoLocal {
				sub.RetainHandling = 2
			}
		}
		s.subs = append(s.subs, sub)
	}
	if len(s.subs) == 0 {
		s.subs = []packet.Subscription{{Filter: "a/#", QoS: g.qos[i]}}
	}
	return s
}

func (g *generator) unsubscribe(i int) step {
	s := step{client: i, do: unsubscribe}
	subs := g.m.clients[i].subs
	for more := true; more; more = g.one(3) {
		f := filters[g.r.IntN(len(filters))]
		if len(subs) > 0 && !g.one(4) {
			f = subs[g.r.IntN(len(subs))].Filter
		}
		s.subs = append(s.subs, packet.Subscription{Filter: f})
	}
	return s
}

// message makes one; c is nil for a Will.
func (g *generator) message(c *client) message {
	g.n++
	m := message{topic: topics[g.r.IntN(len(topics))], payload: fmt.Sprintf("m%d", g.n), qos: packet.QoS(g.r.IntN(3)), retain: g.one(4)}
	if g.share && c != nil && g.one(3) { // known: takenOver
		m.topic = pools[g.r.IntN(len(pools))]
		m.retain = false
	}
	if c == nil {
		return m
	}
	if m.retain && g.one(4) {
		m.payload = ""
	}
	if c.version == packet.V5 {
		m.props = g.one(4) && m.payload != ""
		switch {
		case m.payload == "":
		case g.one(4):
			m.expiry = 3600
		case g.slow && g.one(4):
			m.expiry = 1
		}
		if g.one(4) {
			m.alias = uint16(1 + g.r.IntN(5))
		}
	}
	return m
}
