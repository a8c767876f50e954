package broker

import (
	"sync"

	"rollcall/internal/mqtt/packet"
)

// group is a shared subscription: of the clients that hold it, each message
// goes to one (4.8.2), in turns among those that can take it at once.
type group struct {
	filter string // "$share/" included

	mu      sync.Mutex
	members []grant
	places  map[holder]int // of members
	next    int
}

// join adds a member, or replaces its subscription. It reports whether it is
// new.
func (g *group) join(m grant) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := m.holder()
	if i, ok := g.places[h]; ok {
		g.members[i] = m
		return false
	}
	if g.places == nil {
		g.places = make(map[holder]int)
	}
	g.places[h] = len(g.members)
	g.members = append(g.members, m)
	return true
}

// leave removes a member. It reports whether it was one, and whether none is
// left.
func (g *group) leave(m grant) (left, empty bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := m.holder()
	i, ok := g.places[h]
	if ok {
		last := len(g.members) - 1
		g.members[i] = g.members[last]
		g.places[g.members[i].holder()] = i
		g.members[last] = grant{}
		g.members = g.members[:last]
		delete(g.places, h)
		if g.next > last {
			g.next = 0
		}
	}
	return ok, len(g.members) == 0
}

// has reports whether m's holder is a member.
func (g *group) has(m grant) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.places[m.holder()]
	return ok
}

// chooseMax is how many members are asked for one that is ready. The next
// message goes on where this one ended.
const chooseMax = 1024

// choose returns the member that a message of that QoS goes to: the next one
// that can be sent it now; else one that is connected; else, unless it would be
// lost, one that is stored. Without is left out. Asked is how many it has asked.
func (g *group) choose(qos packet.QoS, without grant) (member grant, asked int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	online, stored := -1, -1
	n := len(g.members)
	for asked < min(n, chooseMax) {
		i := (g.next + asked) % n
		asked++
		m := g.members[i]
		if m.is(without) && (without.conn != nil || without.box != nil) {
			continue
		}
		switch m.readiness(min(qos, m.qos)) {
		case ready:
			g.next = i + 1
			return m, asked, true
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
	switch {
	case n > chooseMax: // one that is ready may be further on
		g.next = (g.next + chooseMax) % n
	case i >= 0:
		g.next = i + 1
	}
	if i < 0 {
		return grant{}, asked, false
	}
	return g.members[i], asked, true
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
