// Package setaside is the one policy for stored items that cannot be read: a
// record of a version that is unknown, or one that is cut short. Such an item is
// left where it is, for a version that can read it or for a person; it is
// counted, logged once for its table and reason, and passed over, so that
// everything else goes on. Only what cannot be right without it stops, and says
// so itself.
//
// It is not for errors of the engine: those are of no one item, and a range
// that the disk has damaged is set aside by the engine.
package setaside

import (
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/event"
	"rollcall/internal/store"
)

// Bounds of what a List remembers.
const (
	maxSeen  = 1 << 16 // items that are counted once however often they are met
	maxItems = 256     // items that are listed
)

// Item is an unreadable item.
type Item struct {
	Table  string     `json:"table"`
	Key    []byte     `json:"key"`
	Reason string     `json:"reason"`
	First  event.Time `json:"first"` // when it was first met in this run
}

// List is what was set aside since the process started. Its methods may be
// called concurrently, and on a nil List, which only forgets.
type List struct {
	log  *slog.Logger
	now  func() time.Time
	seed maphash.Seed

	mu     sync.Mutex
	counts map[store.Table]uint64
	seen   map[uint64]struct{}
	logged map[string]struct{}
	items  []Item

	total atomic.Uint64
}

// New returns an empty list that logs to log.
func New(log *slog.Logger) *List {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &List{
		log: log, now: time.Now, seed: maphash.MakeSeed(), counts: make(map[store.Table]uint64),
		seen: make(map[uint64]struct{}), logged: make(map[string]struct{}),
	}
}

// Add sets an item aside because of err.
func (l *List) Add(key []byte, err error) {
	if l == nil {
		return
	}
	table := store.TableOf(key)
	l.mu.Lock()
	defer l.mu.Unlock()
	id := maphash.Bytes(l.seed, key)
	if _, again := l.seen[id]; again {
		return
	}
	if len(l.seen) < maxSeen {
		l.seen[id] = struct{}{}
	}
	l.counts[table]++
	l.total.Add(1)
	if len(l.items) < maxItems {
		l.items = append(l.items, Item{table.String(), append([]byte(nil), key...), err.Error(), event.Time{Time: l.now().UTC()}})
	}
	reason := table.String() + ": " + err.Error()
	if _, again := l.logged[reason]; again || len(l.logged) >= maxItems {
		return
	}
	l.logged[reason] = struct{}{}
	l.log.Error("a stored item cannot be read and is passed over; others of its kind are counted and not logged",
		"table", table.String(), "key", fmt.Sprintf("%x", key), "err", err.Error())
}

// Item reports whether err is of one item, and sets that aside if so. It is
// false for errors that the engine gave: these end the loop, which is tried
// again later.
func (l *List) Item(key []byte, err error) bool {
	if engine(err) {
		return false
	}
	l.Add(key, err)
	return true
}

// engine reports whether err is one of the engine's.
func engine(err error) bool {
	for _, e := range []error{store.ErrDamaged, store.ErrClosed, store.ErrUnknown, store.ErrFull, store.ErrConflict} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Has reports whether an item was set aside.
func (l *List) Has(key []byte) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.seen[maphash.Bytes(l.seed, key)]
	return ok
}

// Empty reports whether nothing was set aside: mostly so, and quick to ask.
func (l *List) Empty() bool { return l == nil || l.total.Load() == 0 }

// Items lists what was set aside, at most 256 items.
func (l *List) Items() []Item {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Item(nil), l.items...)
}

// Counts returns how many items of each table were set aside.
func (l *List) Counts() map[string]uint64 {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	m := make(map[string]uint64, len(l.counts))
	for t, n := range l.counts {
		m[t.String()] = n
	}
	return m
}

var desc = prometheus.NewDesc("rollcall_store_set_aside_total",
	"Stored items that could not be read and were passed over, by table.", []string{"table"}, nil)

// Describe implements prometheus.Collector.
func (l *List) Describe(ch chan<- *prometheus.Desc) { ch <- desc }

// Collect implements prometheus.Collector.
func (l *List) Collect(ch chan<- prometheus.Metric) {
	for table, n := range l.Counts() {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), table)
	}
}
