package broker

import (
	"slices"
	"time"
)

// expiring adds up the messages of a queue that expire, by when they do, so that
// it can be said at any time how much has expired, without looking at the queue:
// what has counts no longer [MQTT-3.3.2-5], although it is still stored.
type expiring struct {
	spans []expirySpan // in the order of time, apart
}

// expirySpan is some messages that expire from first to last.
type expirySpan struct {
	first, last int64 // Unix nanoseconds
	messages    int
	bytes       int64
}

// spansMax bounds how finely it is known. Beyond it the two spans are made one
// that are nearest to each other, in relation to how far they are away; its
// messages count until the last of them has expired. Where all messages live
// equally long that is at most a fortieth of their life too long, where they
// differ a fifth of the longest.
const spansMax = 48

// at returns the span that at is in, or where it would be.
func (x *expiring) at(at int64) (i int, in bool) {
	return slices.BinarySearchFunc(x.spans, at, func(s expirySpan, at int64) int {
		switch {
		case s.last < at:
			return -1
		case s.first > at:
			return 1
		}
		return 0
	})
}

// add notes a message that expires at a time.
func (x *expiring) add(at int64, size int, now time.Time) {
	if at == 0 {
		return
	}
	i, in := x.at(at)
	if !in {
		x.spans = slices.Insert(x.spans, i, expirySpan{first: at, last: at})
	}
	x.spans[i].messages++
	x.spans[i].bytes += int64(size)
	if len(x.spans) > spansMax {
		x.merge(now.UnixNano())
	}
}

// merge makes one span of two.
func (x *expiring) merge(now int64) {
	best, least := 0, 0.0
	for i := range len(x.spans) - 1 {
		to := x.spans[i+1].last
		gap := float64(to-x.spans[i].first) / float64(max(to-now, int64(time.Second)))
		if to <= now { // both have expired
			gap = 0
		}
		if i == 0 || gap < least {
			best, least = i, gap
		}
	}
	a, b := &x.spans[best], x.spans[best+1]
	a.last = b.last
	a.messages += b.messages
	a.bytes += b.bytes
	x.spans = slices.Delete(x.spans, best+1, best+2)
}

// remove undoes add.
func (x *expiring) remove(at int64, size int) {
	if at == 0 {
		return
	}
	i, in := x.at(at)
	if !in {
		return
	}
	s := &x.spans[i]
	s.messages--
	s.bytes -= int64(size)
	if s.messages == 0 {
		x.spans = slices.Delete(x.spans, i, i+1)
	}
	if len(x.spans) == 0 {
		x.spans = nil
	}
}

// expired returns how much has expired at now.
func (x *expiring) expired(now time.Time) (messages int, bytes int64) {
	ns := now.UnixNano()
	for i := range x.spans {
		s := &x.spans[i]
		if s.last > ns {
			break
		}
		messages += s.messages
		bytes += s.bytes
	}
	return messages, bytes
}
