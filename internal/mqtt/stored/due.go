package stored

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"rollcall/internal/store"
)

// DueKind says what is due.
type DueKind uint8

// The kinds. Their values are part of the keys.
const (
	SessionExpired DueKind = 1 // the session's state has expired
	WillDelayed    DueKind = 2 // the Will Delay Interval has passed
)

// DueItem is one thing that is due. Whoever owns the session's name looks at
// the state or Will again before acting: it may have changed meanwhile.
type DueItem struct {
	Kind    DueKind
	At      time.Time
	Realm   string
	Session string
	Epoch   uint64 // of the state that expires; 0 for a Will
}

// dueSlack and dueRescan keep looks at the due index off the deleted keys at
// its beginning. A look starts where the last one found the first key, but at
// least dueSlack in the past, for what is staged is mostly due later than now
// and committed soon; and once in dueRescan, say after the clock was set, at the
// beginning.
const (
	dueSlack  = time.Minute
	dueRescan = 10 * time.Minute
)

// dueFloor is where the looks at one partition start.
type dueFloor struct {
	mu        sync.Mutex
	at        uint64
	lowered   time.Time // when something was last staged that was due before at, or already
	rescanned time.Time
}

func (st *Store) stageDue(b *store.Batch, p uint8, at time.Time, kind DueKind, realm, name string, epoch uint64) {
	b.Put(dueKey(nil, p, at, kind, realm, name), binary.AppendUvarint([]byte{recordVersion}, epoch))
	f := &st.due[p]
	f.mu.Lock()
	now := st.clock.Steady()
	if ns := uint64(at.UnixNano()); ns <= f.at || at.Before(now) {
		f.at, f.lowered = min(ns, f.at), now
	}
	f.mu.Unlock()
}

// Due returns up to limit things that are due at now, the most urgent first.
// The same ones are returned again until a batch that changes them is durable.
// A look costs one seek per partition.
func (st *Store) Due(now time.Time, limit int) ([]DueItem, error) {
	snap := st.engine.Snapshot()
	defer snap.Close()
	var items []DueItem
	for p := range st.partitions {
		n := 0
		err := st.lookDue(snap, uint8(p), now, func(key, value []byte) (bool, error) {
			var it DueItem
			if err := it.decode(key, value); err != nil {
				st.setAside.Add(key, err)
				return true, nil
			}
			if st.isSetAside(&it) {
				return true, nil
			}
			if it.At.After(now) || n == limit {
				return false, nil
			}
			n++
			items = append(items, it)
			return true, nil
		})
		if err != nil {
			return nil, fmt.Errorf("read what is due: %w", err)
		}
	}
	slices.SortStableFunc(items, func(a, b DueItem) int { return cmp.Compare(a.At.UnixNano(), b.At.UnixNano()) })
	return items[:min(len(items), limit)], nil
}

// NextDue returns when the next thing is due, or the zero time if nothing is.
// It costs one seek per partition. Things staged later may be due earlier.
func (st *Store) NextDue() (time.Time, error) {
	snap := st.engine.Snapshot()
	defer snap.Close()
	var next time.Time
	for p := range st.partitions {
		err := st.lookDue(snap, uint8(p), st.clock.Steady(), func(key, _ []byte) (bool, error) {
			ns, _, ok := store.TakeUint64(key[2:])
			if !ok {
				st.setAside.Add(key, errRecord)
				return true, nil
			}
			if at := time.Unix(0, int64(ns)).UTC(); next.IsZero() || at.Before(next) {
				next = at
			}
			return false, nil
		})
		if err != nil {
			return time.Time{}, fmt.Errorf("read what is due: %w", err)
		}
	}
	return next, nil
}

// lookDue calls f for the keys of the due index in order until it returns
// false.
func (st *Store) lookDue(snap store.Snapshot, p uint8, now time.Time, f func(key, value []byte) (bool, error)) (err error) {
	floor := &st.due[p]
	floor.mu.Lock()
	if now.Sub(floor.rescanned).Abs() > dueRescan {
		floor.at, floor.rescanned = 0, now
	}
	from := floor.at
	floor.mu.Unlock()

	lower, upper := tableBounds(p, store.TableDue)
	it := snap.Iter(store.AppendUint64(lower, from), upper)
	defer func() { err = errors.Join(err, it.Err(), it.Close()) }()
	first := uint64(now.Add(-dueSlack).UnixNano())
	ok := it.Next()
	if ok {
		if at, _, whole := store.TakeUint64(it.Key()[2:]); whole {
			first = min(first, at)
		}
	}
	if it.Err() == nil {
		floor.mu.Lock()
		// What was staged lately may not be durable yet.
		if floor.at == from && now.Sub(floor.lowered).Abs() > dueSlack {
			floor.at = max(from, first)
		}
		floor.mu.Unlock()
	}
	for ; ok; ok = it.Next() {
		if more, err := f(it.Key(), it.Value()); !more || err != nil {
			return err
		}
	}
	return nil
}

// isSetAside reports whether what is due cannot be read: nobody could act on it,
// and what is due after it must not wait for that.
func (st *Store) isSetAside(i *DueItem) bool {
	if st.setAside.Empty() {
		return false
	}
	t := store.TableSessionState
	if i.Kind == WillDelayed {
		t = store.TableWill
	}
	return st.setAside.Has(nameKey(nil, st.Partition(i.Realm, i.Session), t, i.Realm, i.Session))
}

func (i *DueItem) decode(key, value []byte) error {
	if len(key) < 2 {
		return errRecord
	}
	ns, rest, ok := store.TakeUint64(key[2:])
	if !ok || len(rest) == 0 {
		return errRecord
	}
	i.At, i.Kind = time.Unix(0, int64(ns)).UTC(), DueKind(rest[0])
	if i.Realm, rest, ok = takeName(rest[1:]); !ok {
		return errRecord
	}
	if i.Session, rest, ok = takeName(rest); !ok || len(rest) != 0 {
		return errRecord
	}
	d, err := decode(value, "due entry")
	if err != nil {
		return err
	}
	i.Epoch = d.uint()
	return d.end("due entry")
}
