package stored

import "strings"

// topicNode is one level of topic names. Most have few children, so children
// are a slice until there are many.
type topicNode struct {
	name   string
	parent *topicNode
	few    []*topicNode          // children while there are at most fewChildren
	many   map[string]*topicNode // children once there were more, else nil
	topic  *retainedTopic        // of the name that ends here, nil if none
}

// fewChildren is how many children are searched one by one.
const fewChildren = 8

func (n *topicNode) child(level string) *topicNode {
	if n.many != nil {
		return n.many[level]
	}
	for _, c := range n.few {
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
	c := &topicNode{name: level, parent: n}
	switch {
	case n.many != nil:
		n.many[level] = c
	case len(n.few) < fewChildren:
		n.few = append(n.few, c)
	default:
		n.many = make(map[string]*topicNode, fewChildren+1)
		for _, f := range n.few {
			n.many[f.name] = f
		}
		n.many[level], n.few = c, nil
	}
	return c
}

// cut removes the child c.
func (n *topicNode) cut(c *topicNode) {
	if n.many != nil {
		if delete(n.many, c.name); len(n.many) == 0 {
			n.many = nil
		}
		return
	}
	for i, f := range n.few {
		if f == c {
			last := len(n.few) - 1
			n.few[i], n.few[last] = n.few[last], nil
			n.few = n.few[:last]
			break
		}
	}
	if len(n.few) == 0 {
		n.few = nil
	}
}

func (n *topicNode) unused() bool { return n.topic == nil && len(n.few) == 0 && n.many == nil }

// each calls f for every child.
func (n *topicNode) each(f func(*topicNode)) {
	for _, c := range n.few {
		f(c)
	}
	for _, c := range n.many {
		f(c)
	}
}

// match appends the topics below n that match what is left of a filter; more
// is false if no level is left. At the first level wildcards do not match names
// that begin with $ [MQTT-4.7.2-1].
func (n *topicNode) match(filter string, more, first bool, dst []*retainedTopic) []*retainedTopic {
	if !more {
		if n.topic != nil {
			dst = append(dst, n.topic)
		}
		return dst
	}
	level, rest, more := strings.Cut(filter, "/")
	switch level {
	case "#": // the parent level too, section 4.7.1.2
		return n.all(first, dst)
	case "+":
		n.each(func(c *topicNode) {
			if !first || !strings.HasPrefix(c.name, "$") {
				dst = c.match(rest, more, false, dst)
			}
		})
		return dst
	}
	if c := n.child(level); c != nil {
		return c.match(rest, more, false, dst)
	}
	return dst
}

// all appends the topics at and below n.
func (n *topicNode) all(first bool, dst []*retainedTopic) []*retainedTopic {
	if n.topic != nil {
		dst = append(dst, n.topic)
	}
	n.each(func(c *topicNode) {
		if !first || !strings.HasPrefix(c.name, "$") {
			dst = c.all(false, dst)
		}
	})
	return dst
}
