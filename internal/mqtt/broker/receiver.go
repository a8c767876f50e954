package broker

import (
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// receiver is one client that a message goes to.
type receiver struct {
	conn   *conn
	box    *box
	group  *group // the shared subscription that it comes by
	found  int    // how many of its subscriptions match
	ended  bool   // there are too many
	first  int    // its subscription identifiers in fan.ids
	n      int
	qos    packet.QoS
	retain bool
}

// share is the filter of the shared subscription that it comes by, or "".
func (t *receiver) share() string {
	if t.group == nil {
		return ""
	}
	return t.group.filter
}

// note has the client's connection, if there is one, note that a retained
// message comes to it now.
func (t *receiver) note(m *session.Message) {
	c := t.conn
	if c == nil {
		c = t.box.online()
	}
	if c != nil {
		c.note(m)
	}
}

const (
	searchMax = 8       // receivers up to which they are searched one by one
	foundMax  = 1 << 14 // larger ones are not kept
)

func (f *fan) idsOf(t *receiver) []uint32 { return f.ids[t.first : t.first+t.n] }

// clear forgets everything but the memory that is used again.
func (f *fan) clear() {
	if cap(f.found) > foundMax {
		*f = fan{}
		return
	}
	clear(f.found) // no connection is kept alive
	clear(f.to)
	clear(f.seen)
	*f = fan{found: f.found[:0], to: f.to[:0], ids: f.ids[:0], seen: f.seen}
}

// collect makes receivers of the next subscriptions found: those of one client
// are merged, and clients that do not want their own messages [MQTT-3.8.3-3] are
// left out. A shared subscription is one of its own (4.8.2).
func (f *fan) collect(budget int) (cost int) {
	m := f.message
	for ; f.at < len(f.found) && cost < budget; f.at++ {
		g := &f.found[f.at]
		f.withID = f.withID || g.id != 0
		cost++
		if g.group != nil {
			f.groups++
			f.to = append(f.to, receiver{group: g.group})
			n, ok := f.choose(&f.to[len(f.to)-1])
			if cost += n; !ok {
				f.groups--
				f.to = f.to[:len(f.to)-1]
			}
			continue
		}
		if g.noLocal && m.From == g.name() {
			continue
		}
		if t := f.find(g); t != nil {
			t.found++
			t.qos = max(t.qos, g.qos)
			t.retain = t.retain || m.Retain && g.asPublished
			continue
		}
		if len(f.found) > searchMax {
			if f.seen == nil {
				f.seen = make(map[holder]int)
			}
			f.seen[g.holder()] = len(f.to)
		}
		f.to = append(f.to, receiver{conn: g.conn, box: g.box, found: 1, qos: g.qos, retain: m.Retain && g.asPublished})
		if m.Retain { // it is retained by now, and may be found before it comes as it was published
			f.to[len(f.to)-1].note(m)
		}
	}
	return cost
}

// choose finds the member of t's group that the message goes to, and returns
// what that cost.
func (f *fan) choose(t *receiver) (cost int, ok bool) {
	member, asked, ok := t.group.choose(f.message.QoS, grant{})
	if !ok {
		return asked, false
	}
	t.conn, t.box, t.qos, t.retain = member.conn, member.box, member.qos, f.message.Retain && member.asPublished
	t.first, t.n = len(f.ids), 0
	if member.id != 0 {
		f.ids = append(f.ids, member.id)
		t.n = 1
	}
	return asked, true
}

// Each receiver is given the identifiers of all its subscriptions that match
// [MQTT-3.3.4-3] to [MQTT-3.3.4-5]: countIDs says how many, makeRoom where they
// go, fillIDs which.

func (f *fan) countIDs(budget int) (cost int) {
	for ; f.at < len(f.found) && cost < budget; f.at++ {
		cost++
		if t := f.wantsID(&f.found[f.at]); t != nil {
			t.n++
		}
	}
	return cost
}

func (f *fan) makeRoom() {
	for i := range f.to {
		if t := &f.to[i]; t.group == nil {
			t.first = len(f.ids)
			f.ids = append(f.ids, make([]uint32, t.n)...)
			t.n = 0
		}
	}
}

func (f *fan) fillIDs(budget int) (cost int) {
	for ; f.at < len(f.found) && cost < budget; f.at++ {
		cost++
		if g := &f.found[f.at]; g.id != 0 {
			if t := f.wantsID(g); t != nil {
				f.ids[t.first+t.n] = g.id
				t.n++
			}
		}
	}
	return cost
}

func (f *fan) wantsID(g *grant) *receiver {
	if g.group != nil || g.id == 0 || g.noLocal && f.message.From == g.name() {
		return nil
	}
	return f.find(g)
}

func (g *grant) name() string {
	if g.box != nil {
		return g.box.name
	}
	return g.conn.name.id
}

func (g *grant) holder() holder {
	if g.box != nil {
		return g.box
	}
	return g.conn
}

func (f *fan) find(g *grant) *receiver {
	if len(f.found) > searchMax {
		if i, ok := f.seen[g.holder()]; ok {
			return &f.to[i]
		}
		return nil
	}
	for i := range f.to {
		if f.to[i].conn == g.conn && f.to[i].box == g.box && f.to[i].group == nil {
			return &f.to[i]
		}
	}
	return nil
}
