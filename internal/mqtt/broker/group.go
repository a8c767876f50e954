package broker

import (
	"slices"
	"sync"

	"rollcall/internal/mqtt/packet"
)

// group is a shared subscription: of the clients that hold it, each message
// goes to one (4.8.2), in turns among those that can take it at once.
type group struct {
	filter string // "$share/" included

	mu      sync.Mutex
	members []grant
	next    int
}

// join adds a member, or replaces its subscription.
func (g *group) join(m grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.members {
		if g.members[i].is(m) {
			g.members[i] = m
			return
		}
	}
	g.members = append(g.members, m)
}

// leave removes a member and reports whether none is left.
func (g *group) leave(m grant) (empty bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.IndexFunc(g.members, m.is); i >= 0 {
		g.members = slices.Delete(g.members, i, i+1)
		if i < g.next {
			g.next--
		}
	}
	return len(g.members) == 0
}

// choose returns the member that a message of that QoS goes to: the next one
// that can be sent it now; else one that is connected; else, unless it would be
// lost, one that is stored. Without is left out.
func (g *group) choose(qos packet.QoS, without grant) (grant, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	online, stored := -1, -1
	n := len(g.members)
	for k := range n {
		i := (g.next + k) % n
		m := g.members[i]
		if m.is(without) && (without.conn != nil || without.box != nil) {
			continue
		}
		switch m.readiness(min(qos, m.qos)) {
		case ready:
			g.next = i + 1
			return m, true
		case slow:
			if online < 0 {
				online = i
			}
		case asleep:
			if stored < 0 && min(qos, m.qos) > packet.QoS0 {
				stored = i
			}
		}
	}
	i := online
	if i < 0 {
		i = stored
	}
	if i < 0 {
		return grant{}, false
	}
	g.next = i + 1
	return g.members[i], true
}

// readiness says how soon a client can take a message.
type readiness uint8

const (
	ready  readiness = iota // at once
	slow                    // when it has read or acknowledged others
	asleep                  // when it comes back
	away                    // never
)

func (g grant) readiness(qos packet.QoS) readiness {
	if g.box != nil {
		return g.box.readiness(qos)
	}
	return g.conn.readiness(qos)
}

func (c *conn) readiness(qos packet.QoS) readiness {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.s.Online():
		return away
	case c.behind() || qos > packet.QoS0 && c.s.Room() == 0:
		return slow
	}
	return ready
}
