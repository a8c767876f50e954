package stored

import "strings"

// A walk finds the retained topics that match a filter, some at a time. It holds
// no lock in between, and no more memory than the levels of the filter and of the
// topics take: the nodes that it stands on are pinned, so that they stay where
// they are, whatever comes and goes meanwhile.
type walk struct {
	r     *retained
	realm string
	stack []walkFrame
	loose []*topicNode // not pinned any more, and perhaps unused
}

// walkFrame is a node whose children are being visited.
type walkFrame struct {
	n     *topicNode // pinned
	rest  string     // of the filter, for the children
	more  bool       // there is a rest
	all   bool       // everything below n matches
	first bool       // n is the root: wildcards do not match names that begin with $ [MQTT-4.7.2-1]
	begun bool
	next  *topicNode // child to be visited next, pinned; nil: none
}

// How much is done under one lock, and how many topics are found at once: whoever
// publishes waits for no more.
const (
	walkSteps  = 512
	walkTopics = 64
	walkersMax = 4 // that hold the lock at once
)

// newWalk begins a walk for a filter, which is legal and of no shared
// subscription. It must be closed.
func (r *retained) newWalk(realm, filter string) *walk {
	w := &walk{r: r, realm: realm}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if root := r.realms[realm]; root != nil {
		w.push(walkFrame{n: root, rest: filter, more: true, first: true})
	}
	return w
}

// next appends some topics to dst, none only if there are no more.
func (w *walk) next(dst []*retainedTopic) []*retainedTopic {
	n := len(dst)
	for len(w.stack) > 0 && len(dst) == n {
		w.r.walkers <- struct{}{}
		dst = w.some(dst)
		<-w.r.walkers
		w.prune()
	}
	return dst
}

func (w *walk) some(dst []*retainedTopic) []*retainedTopic {
	w.r.mu.RLock()
	defer w.r.mu.RUnlock()
	n := len(dst)
	for range walkSteps {
		if len(w.stack) == 0 || len(dst)-n >= walkTopics {
			break
		}
		if t := w.step(); t != nil {
			dst = append(dst, t)
		}
	}
	return dst
}

// close ends the walk.
func (w *walk) close() {
	w.r.mu.RLock()
	for len(w.stack) > 0 {
		w.pop()
	}
	w.r.mu.RUnlock()
	w.prune()
}

// step goes one node on, and returns its topic if that matches.
func (w *walk) step() *retainedTopic {
	f := &w.stack[len(w.stack)-1]
	if !f.begun {
		return w.begin(f)
	}
	c := f.next
	if c == nil {
		w.pop()
		return nil
	}
	f.next = c.next
	if f.next != nil {
		f.next.pins.Add(1)
	}
	if !f.first || !strings.HasPrefix(c.name, "$") {
		w.push(walkFrame{n: c, rest: f.rest, more: f.more, all: f.all})
	}
	w.unpin(c)
	return nil
}

// begin visits the node of the newest frame.
func (w *walk) begin(f *walkFrame) *retainedTopic {
	f.begun = true
	n := f.n
	if !f.all && !f.more {
		t := n.topic
		w.pop()
		return t
	}
	if !f.all {
		level, rest, more := strings.Cut(f.rest, "/")
		switch level {
		case "#": // the parent level too, section 4.7.1.2
			f.all = true
		case "+":
			f.rest, f.more = rest, more
		default:
			c := n.child(level)
			if c != nil {
				c.pins.Add(1)
			}
			w.pop()
			if c != nil {
				w.push(walkFrame{n: c, rest: rest, more: more})
				w.unpin(c)
			}
			return nil
		}
	}
	if f.next = n.head; f.next != nil {
		f.next.pins.Add(1)
	}
	if f.all {
		return n.topic
	}
	return nil
}

func (w *walk) push(f walkFrame) {
	f.n.pins.Add(1)
	w.stack = append(w.stack, f)
}

func (w *walk) pop() {
	f := w.stack[len(w.stack)-1]
	w.stack[len(w.stack)-1] = walkFrame{}
	w.stack = w.stack[:len(w.stack)-1]
	w.unpin(f.n)
	if f.next != nil {
		w.unpin(f.next)
	}
}

func (w *walk) unpin(n *topicNode) {
	if n.pins.Add(-1) == 0 && n.topic == nil && n.head == nil {
		w.loose = append(w.loose, n)
	}
}

// prune unlinks what was kept only for the walk.
func (w *walk) prune() {
	if len(w.loose) == 0 {
		return
	}
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	for _, n := range w.loose {
		w.r.pruneNode(w.realm, n)
	}
	clear(w.loose)
	w.loose = w.loose[:0]
}

// pruneNode unlinks n, and what is above it, as far as it is unused. The caller
// holds mu.
func (r *retained) pruneNode(realm string, n *topicNode) {
	for n.parent != nil && n.unused() {
		parent := n.parent
		parent.cut(n)
		n = parent
	}
	if n.unused() && r.realms[realm] == n {
		delete(r.realms, realm)
	}
}
