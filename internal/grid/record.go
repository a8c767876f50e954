package grid

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/delivery"
	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/filter"
	"rollcall/internal/store"
)

// The key spaces of this package, in partition 0:
//
//	subscription  0 ‖ TableSub ‖ realm ‖ name in lower case
//	              a record as JSON with its version; deleted with the resource
//	counter       0 ‖ TableCounter ‖ "grid" ‖ "subscription"
//	              the last id given out, 8 bytes; never deleted
//
// The event log is described in package delivery.
func subscriptionKey(k entryKey) []byte {
	return store.AppendString(store.AppendKey(nil, store.Config, store.TableSub, k.realm), k.name)
}

func counterKey() []byte {
	return store.AppendString(store.AppendKey(nil, store.Config, store.TableCounter, "grid"), "subscription")
}

// entryKey names a subscription: names differ in more than case.
type entryKey struct{ realm, name string }

func keyOf(realm, name string) entryKey { return entryKey{realm, strings.ToLower(name)} }

const recordVersion = 1

// record is a subscription as it is stored. It is immutable once committed.
type record struct {
	Version    int         `json:"v"`
	ID         uint64      `json:"id"`
	Name       string      `json:"name"`
	Source     Source      `json:"source"`
	State      State       `json:"state"`
	Wanted     Properties  `json:"wanted"`           // as asked for
	Active     *Properties `json:"active,omitempty"` // in effect; nil: never yet
	Rate       int         `json:"rate,omitempty"`   // requests per minute that the endpoint allows
	Start      uint64      `json:"start,omitempty"`  // no event at or below this index is for it
	Token      string      `json:"token,omitempty"`  // hash of the secret in the validation URL
	Deadline   time.Time   `json:"deadline"`         // of the confirmation
	Narration  []Step      `json:"narration,omitempty"`
	FailedCode string      `json:"failedCode,omitempty"`
	FailedText string      `json:"failedText,omitempty"`
	Created    time.Time   `json:"created"`
	Updated    time.Time   `json:"updated"`
}

func (r *record) key() entryKey { return keyOf(r.Source.Realm, r.Name) }

func (r *record) encode() ([]byte, error) {
	r.Version = recordVersion
	return json.Marshal(r)
}

func decodeRecord(data []byte) (*record, error) {
	r := new(record)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("event subscription: %w", err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("event subscription %q: version %d is unknown", r.Name, r.Version)
	}
	return r, nil
}

// maxSteps bounds a narration; the oldest steps go first.
const maxSteps = 50

func (r *record) tell(now time.Time, text string) {
	steps := r.Narration[max(0, len(r.Narration)-maxSteps+1):]
	r.Narration = append(slices.Clone(steps), Step{event.Time{Time: now}, text})
}

func (r *record) fail(now time.Time, text string) {
	r.State = Failed
	r.Token, r.Deadline = "", time.Time{}
	r.FailedCode, r.FailedText = "Url validation", text
	r.tell(now, "Failed.")
}

func (r *record) view(rev store.Revision) Subscription {
	s := Subscription{
		ID: r.ID, Name: r.Name, Source: r.Source, State: r.State, Properties: r.Wanted,
		Created: r.Created, Updated: r.Updated, Revision: rev,
		Narration: slices.Clone(r.Narration), Matching: r.Active != nil,
	}
	if r.State == Failed {
		s.Failure = &fault.Error{Code: fault.Code(r.FailedCode), Message: r.FailedText}
	}
	return s
}

// entry is a subscription in memory. The grid's lock guards it.
type entry struct {
	rec     *record
	rev     store.Revision
	live    []Step        // the record's narration and what was not stored since
	changed chan struct{} // closed at the next change
	timer   clock.Timer   // deadline or expiration
	queue   *delivery.Queue
	matcher *filter.Matcher

	target Properties           // what destination was made for
	dest   delivery.Destination // nil: not made yet
}

// install makes a committed record the one in effect, unless a newer one is.
func (g *Grid) install(rec *record, rev store.Revision) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := rec.key()
	e := g.entries[k]
	if e == nil {
		e = &entry{changed: make(chan struct{})}
		g.entries[k] = e
	}
	if rev <= e.rev {
		return
	}
	e.rec, e.rev, e.live = rec, rev, rec.Narration
	if rec.Active != nil {
		if err := g.activate(e); err != nil {
			// Rules can have become stricter since it was accepted.
			g.log.Error("an event subscription cannot be delivered to", "subscription", rec.Name, "err", err)
		}
	}
	g.arm(e)
	g.rebuild(rec.Source.Realm)
	e.notify()
}

// activate puts the properties in effect into the dispatcher.
func (g *Grid) activate(e *entry) error {
	rec, p := e.rec, e.rec.Active
	var err error
	// The same destination stays the same, because a new one is healthy.
	if e.dest == nil || !sameTarget(e.target, *p) {
		e.dest, err = g.destination(*p)
		e.target = *p
	}
	dest := e.dest
	s := delivery.Subscription{
		ID: rec.ID, Name: rec.Name, Realm: rec.Source.Realm, Start: rec.Start, Schema: p.Schema,
		Destination: dest, Retry: p.Retry, Paused: rec.Wanted.Paused || dest == nil,
		Batch: p.Destination.batching(), MaxEvents: max(1, p.Destination.MaxEventsPerBatch),
		PreferredBytes: p.Destination.preferredKB() << 10, RatePerMinute: rec.Rate, DeadLetter: p.DeadLetterDirectory,
	}
	e.queue = g.dispatcher.Put(s)
	e.matcher = p.Filter.Compile()
	return err
}

func sameTarget(a, b Properties) bool {
	return a.Destination.EndpointURL == b.Destination.EndpointURL && a.Schema == b.Schema &&
		slices.Equal(a.Destination.Attributes, b.Destination.Attributes)
}

// notify wakes those who watch. The grid is locked.
func (e *entry) notify() {
	close(e.changed)
	e.changed = make(chan struct{})
}

func nextID(value []byte) uint64 {
	if len(value) != 8 {
		return 1
	}
	return binary.BigEndian.Uint64(value) + 1
}

func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func randomToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	return hex.EncodeToString(b[:])
}
