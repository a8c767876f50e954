package broker

import (
	"sync/atomic"

	"rollcall/internal/mqtt/packet"
)

// A client that has not been let in costs next to nothing: what is held for it
// (bytes of a CONNECT that is not complete, and the CONNECT while it is judged)
// comes out of one budget for all of them. Most never touch it, since a CONNECT
// arrives whole and is judged at once.

// strangerBytes is what each may hold while there is room in the budget. More
// than that may only be held out of its first quarter, so that large ones, which
// are rare, do not keep the others out.
const strangerBytes = 64 << 10

type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) take(n int64, large bool) bool {
	limit := b.limit
	if large {
		limit /= 4
	}
	if b.used.Add(n) > limit {
		b.used.Add(-n)
		return false
	}
	return true
}

// loan is what a connection has of the budget: a client may have sent more while
// its CONNECT is judged.
type loan struct {
	rest    int // bytes that have arrived and are not handled
	connect int // the CONNECT that is being judged
}

func (l loan) size() int { return l.rest + l.connect }

// borrow makes n bytes what has arrived on c and is not handled, while it is not
// let in, and reports whether there is room. It is the owner's, and called without
// the lock.
func (c *conn) borrow(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.borrowLocked(loan{n, c.borrowed.connect})
}

// borrowConnect does the same for the CONNECT.
func (c *conn) borrowConnect(p *packet.Connect) bool {
	n := connectSize(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.borrowLocked(loan{c.borrowed.rest, n})
}

// repay ends the loan for good: the client is let in, or has gone, perhaps before
// its CONNECT was judged. The caller holds the lock.
func (c *conn) repay() {
	c.repaid = true
	c.borrowLocked(loan{})
}

func (c *conn) borrowLocked(l loan) bool {
	if c.repaid || c.s.Ended() {
		l = loan{}
	}
	more := l.size() - c.borrowed.size()
	if more > 0 && !c.b.strangers.take(int64(more), max(l.rest, l.connect) > strangerBytes) {
		return false
	}
	if more < 0 {
		c.b.strangers.used.Add(int64(more))
	}
	c.borrowed = l
	return true
}

// connectSize is about what a CONNECT takes in memory.
func connectSize(p *packet.Connect) int {
	n := 512 + len(p.ClientID) + len(p.UserName.Value) + len(p.Password) + len(p.AuthenticationData)
	for _, u := range p.UserProperties {
		n += 64 + len(u.Name) + len(u.Value)
	}
	if w := p.Will; w != nil {
		n += 256 + len(w.Topic) + len(w.Payload) + len(w.ContentType) + len(w.ResponseTopic) + len(w.CorrelationData)
		for _, u := range w.UserProperties {
			n += 64 + len(u.Name) + len(u.Value)
		}
	}
	return n
}
