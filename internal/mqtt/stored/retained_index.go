package stored

import "sync/atomic"

// topicNode is one level of topic names. Its children are linked in the order in
// which they came, so that a walk can be interrupted; they are searched one by one
// while there are few.
type topicNode struct {
	name       string
	parent     *topicNode
	head, tail *topicNode            // children
	prev, next *topicNode            // siblings
	many       map[string]*topicNode // children once there were more than fewChildren, else nil
	topic      *retainedTopic        // of the name that ends here, nil if none
	pins       atomic.Int32          // walks that stand here: it must stay linked
}

// fewChildren is how many children are searched one by one.
const fewChildren = 8

func (n *topicNode) child(level string) *topicNode {
	if n.many != nil {
		return n.many[level]
	}
	for c := n.head; c != nil; c = c.next {
		if c.name == level {
			return c
		}
	}
	return nil
}

// grow returns the child of that name, made if need be.
func (n *topicNode) grow(level string) *topicNode {
	if c := n.child(level); c != nil {
		return c
	}
	c := &topicNode{name: level, parent: n, prev: n.tail}
	if n.tail == nil {
		n.head = c
	} else {
		n.tail.next = c
	}
	n.tail = c
	if n.many == nil && n.crowded() {
		n.many = make(map[string]*topicNode, fewChildren+1)
		for o := n.head; o != nil; o = o.next {
			n.many[o.name] = o
		}
	} else if n.many != nil {
		n.many[level] = c
	}
	return c
}

func (n *topicNode) crowded() bool {
	count := 0
	for c := n.head; c != nil; c = c.next {
		count++
	}
	return count > fewChildren
}

// cut removes the child c.
func (n *topicNode) cut(c *topicNode) {
	if c.prev == nil {
		n.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		n.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.prev, c.next, c.parent = nil, nil, nil
	if n.many != nil {
		if delete(n.many, c.name); len(n.many) == 0 {
			n.many = nil
		}
	}
}

// unused reports that nothing needs n: no topic ends at or below it, and no walk
// stands there.
func (n *topicNode) unused() bool { return n.topic == nil && n.head == nil && n.pins.Load() == 0 }
