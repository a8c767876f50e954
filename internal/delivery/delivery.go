// Package delivery takes events from the log to the destinations of their
// subscriptions. It owns all progress: what has been delivered, what waits for
// another attempt, what was given up and why.
//
// Its promise: an event that was stored with a subscription in its record
// reaches that subscription's destination at least once, or its dead-letter
// directory, or is counted as dropped with the reason. Nothing else happens to
// it, whatever crashes. Delivery is unordered; the first attempt is immediate.
// Subscriptions are independent of each other: each has its own bounded window
// of events in memory, and every subscription with work always has a worker,
// however many others hang.
//
// Where an event is. Per subscription and partition there is a cursor over the
// event log: everything up to it is settled, or has a retry record, or is given
// up. An event beyond the cursor is owned either by memory (it is held) or by
// the log on disk (the lane is behind and will read it); never by both. A lane
// that keeps up takes events from the commit's own notification; one that fell
// behind its window reads them from the log until it has caught up with
// the newest notification. An event whose attempt failed gets a retry record
// (keyed by due time), which is durable before memory lets go of it; when it is
// due it is read back. Cursors are written lazily, so a crash may repeat
// deliveries, and never loses one. After a crash, events which are beyond the
// cursor and have a retry record are left to the record.
//
// Changes of a subscription. Destination, schema, batching, limits and
// dead-lettering apply to pending events too, from their next attempt on; an
// answer of a destination that was replaced meanwhile counts only if it took the
// events. A
// changed filter applies to events accepted afterwards, because the matching
// subscriptions are part of a stored event. A paused subscription accumulates:
// attempts in flight end, no new one starts, times to live keep running and are
// judged when it is resumed. When a subscription is removed its pending events
// are counted as dropped (SubscriptionDeleted), its progress is deleted, and
// answers to attempts in flight are ignored.
package delivery

import (
	"context"
	"time"

	"rollcall/internal/event"
)

// Destination is where a subscription's events go. It is used from many
// goroutines at once.
type Destination interface {
	// Group returns a text that is equal for events which may share a request.
	Group(e *event.Event) string

	// Deliver makes one attempt and says what came of it. It returns within
	// the response time-out of the settings, or soon after ctx ends.
	Deliver(ctx context.Context, a Attempt) Result
}

// Attempt is one request to a destination.
type Attempt struct {
	Subscription string // resource name
	Schema       event.Schema
	Batch        bool           // several events may come in one request
	Events       []*event.Event // at least one; one only unless Batch
	Earlier      int            // attempts made before, of the first event
}

// RetryPolicy bounds how long an event is worth delivering. It is the
// retryPolicy of an event subscription.
type RetryPolicy struct {
	MaxAttempts int           // first delivery included; 1 to 30
	TTL         time.Duration // counted from acceptance; 1 minute to 24 hours
}

// Subscription is what delivery knows of an event subscription.
type Subscription struct {
	ID          uint64 // never reused
	Name        string // resource name
	Realm       string // whose events: the realm of the source's log
	Start       uint64 // no event at or below this commit index is for it
	Schema      event.Schema
	Destination Destination
	Retry       RetryPolicy
	Paused      bool

	Batch          bool // more than one event per request
	MaxEvents      int  // per request when Batch; at least 1
	PreferredBytes int  // soft ceiling of a batch

	// RatePerMinute is the number of requests that the destination allowed, 0
	// meaning no bound.
	RatePerMinute int

	// DeadLetter is the directory below the dead-letter root that takes events
	// which are given up. Empty: they are dropped.
	DeadLetter string
}
