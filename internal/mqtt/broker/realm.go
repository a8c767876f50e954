package broker

import (
	"sync"
	"sync/atomic"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/mqtt/topic"
)

// realm is a name space of sessions and topics.
type realm struct {
	name string
	tree *topic.Tree[holder, grant]

	removals    atomic.Uint64 // UNSUBSCRIBEs' filters, but those of shared subscriptions
	memberBytes atomic.Int64  // that members of shared subscriptions take

	mu     sync.Mutex
	boxes  map[string]*box         // stored sessions by name
	newest map[string]*conn        // the last to be accepted, by session name; see takeover.go
	wills  map[string]*stored.Will // as they are stored, by session name
	groups map[string]*group       // shared subscriptions by filter, "$share/" included
	// publishing counts, by session name, the Wills that are due and that
	// somebody publishes and then removes from the store.
	publishing map[string]int
	// replaced are, by session name, the keys of Wills that a newer connection's
	// has replaced in the store, oldest first, as far as somebody publishes them
	// and then removes them. See replacedKey.
	replaced map[string][]string
}

// holder is who holds a subscription in the tree: a connection whose session
// ends with it, a stored session, or the group of a shared subscription.
type holder interface{ holds() }

func (*conn) holds()  {}
func (*box) holds()   {}
func (*group) holds() {}

// grant is a subscription as the tree holds it. One of conn, box and group is
// set.
type grant struct {
	conn        *conn
	box         *box
	group       *group
	id          uint32 // Subscription Identifier; 0: none
	qos         packet.QoS
	noLocal     bool
	asPublished bool // RETAIN is passed on
}

// unsubscribed is which of its realm's removals the last of the holder's was.
func (g grant) unsubscribed() *atomic.Uint64 {
	if g.box != nil {
		return &g.box.unsubscribed
	}
	return &g.conn.unsubscribed
}

func (g grant) is(h grant) bool { return g.conn == h.conn && g.box == h.box && g.group == h.group }

func newRealm(name string) *realm {
	return &realm{name: name, tree: topic.NewTree[holder, grant](), boxes: make(map[string]*box), newest: make(map[string]*conn), groups: make(map[string]*group), wills: make(map[string]*stored.Will),
		publishing: make(map[string]int), replaced: make(map[string][]string)}
}

// box returns the stored session of that name, or nil.
func (rl *realm) box(name string) *box {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	return rl.boxes[name]
}

// install makes bx the stored session of its name.
func (rl *realm) install(bx *box) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	rl.boxes[bx.name] = bx
}

// uninstall forgets bx unless another has its name.
func (rl *realm) uninstall(bx *box) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	if rl.boxes[bx.name] == bx {
		delete(rl.boxes, bx.name)
	}
}

// subscribe gives h the subscription g to a filter that has been checked.
func (rl *realm) subscribe(h holder, filter string, g grant) {
	_, inner, shared, _ := topic.ParseShared(filter) // it has been checked
	if !shared {
		rl.tree.Subscribe(filter, h, g)
		return
	}
	rl.mu.Lock()
	defer rl.mu.Unlock()
	grp := rl.groups[filter]
	if grp == nil {
		grp = &group{filter: filter}
		rl.groups[filter] = grp
		rl.tree.Subscribe(inner, grp, grant{group: grp})
	}
	if grp.join(g) {
		rl.memberBytes.Add(int64(topic.Weight(filter)))
	}
}

// unsubscribe removes what subscribe gave.
func (rl *realm) unsubscribe(h holder, filter string, g grant) {
	_, inner, shared, _ := topic.ParseShared(filter)
	if !shared {
		rl.tree.Unsubscribe(filter, h)
		g.unsubscribed().Store(rl.removals.Add(1))
		return
	}
	rl.mu.Lock()
	defer rl.mu.Unlock()
	grp := rl.groups[filter]
	if grp == nil {
		return
	}
	left, empty := grp.leave(g)
	if left {
		rl.memberBytes.Add(-int64(topic.Weight(filter)))
	}
	if empty {
		delete(rl.groups, filter)
		rl.tree.Unsubscribe(inner, grp)
	}
}

// removeAll removes all subscriptions of h, whose shared ones are given.
func (rl *realm) removeAll(h holder, shared filters, g grant) {
	rl.tree.RemoveAll(h)
	for f := range shared {
		rl.unsubscribe(h, f, g)
	}
}
