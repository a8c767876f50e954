package topic

import "bytes"

// cut splits rest after its first level; more is false if that was the last.
func cut(rest []byte) (level, tail []byte, more bool) {
	if i := bytes.IndexByte(rest, '/'); i >= 0 {
		return rest[:i], rest[i+1:], true
	}
	return rest, nil, false
}

// node is one level of one or more filters. Most nodes have one child or
// none, so children are a slice until there are many. Nodes know their parent:
// whoever holds the last node of a filter can prune it without a walk.
type node[K comparable, V any] struct {
	name   string // the level, a part of the filter it came with
	parent *node[K, V]
	few    []*node[K, V]          // children while there are at most fewMax
	many   map[string]*node[K, V] // children once there were more, else nil
	plus   *node[K, V]            // the child "+"
	hash   *node[K, V]            // the child "#"
	subs   *list[K, V]            // of the filters that end here, nil if none
}

// fewMax is how many children are searched one by one.
const fewMax = 8

// child returns the child of that name, not a wildcard, or nil.
func (n *node[K, V]) child(level []byte) *node[K, V] {
	if n.many != nil {
		return n.many[string(level)]
	}
	for _, c := range n.few {
		if c.name == string(level) {
			return c
		}
	}
	return nil
}

// grow returns the child of that name, wildcards included, made if need be.
func (n *node[K, V]) grow(level string) *node[K, V] {
	switch level {
	case "+":
		if n.plus == nil {
			n.plus = &node[K, V]{name: level, parent: n}
		}
		return n.plus
	case "#":
		if n.hash == nil {
			n.hash = &node[K, V]{name: level, parent: n}
		}
		return n.hash
	}
	if n.many != nil {
		c := n.many[level]
		if c == nil {
			c = &node[K, V]{name: level, parent: n}
			n.many[level] = c
		}
		return c
	}
	for _, c := range n.few {
		if c.name == level {
			return c
		}
	}
	c := &node[K, V]{name: level, parent: n}
	if len(n.few) < fewMax {
		n.few = append(n.few, c)
		return c
	}
	n.many = make(map[string]*node[K, V], fewMax+1)
	for _, f := range n.few {
		n.many[f.name] = f
	}
	n.many[level], n.few = c, nil
	return c
}

// cut removes the child c.
func (n *node[K, V]) cut(c *node[K, V]) {
	switch {
	case n.plus == c:
		n.plus = nil
	case n.hash == c:
		n.hash = nil
	case n.many != nil:
		delete(n.many, c.name)
		if len(n.many) == 0 {
			n.many = nil
		}
	default:
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
}

// unused reports whether neither a filter ends here nor one leads through.
func (n *node[K, V]) unused() bool {
	return n.subs == nil && n.plus == nil && n.hash == nil && len(n.few) == 0 && len(n.many) == 0
}

// match appends the matches below n for the levels in rest; more is false if
// there is no level left, which is not the same as an empty one.
func (n *node[K, V]) match(rest []byte, more bool, dst []V) []V {
	for {
		if n.hash != nil { // matches n itself too
			dst = n.hash.collect(dst)
		}
		if !more {
			return n.collect(dst)
		}
		var level []byte
		level, rest, more = cut(rest)
		next := n.child(level)
		switch {
		case n.plus == nil && next == nil:
			return dst
		case next == nil:
			n = n.plus
		case n.plus == nil:
			n = next
		default:
			dst = n.plus.match(rest, more, dst)
			n = next
		}
	}
}

func (n *node[K, V]) collect(dst []V) []V {
	if n.subs == nil {
		return dst
	}
	for i := range n.subs.entries {
		dst = append(dst, n.subs.entries[i].value)
	}
	return dst
}
