package presence

import (
	"container/heap"
	"context"
	"errors"

	"rollcall/internal/store"
)

// ErrUnknownSession: no session of that name was ever connected.
var ErrUnknownSession = errors.New("presence: no such session")

// Show returns where a session stands.
func (l *Ledger) Show(realm, session string) (State, error) {
	st := State{Realm: realm, Session: session}
	value, _, err := store.Get(l.engine, sessionKey(l.partition(realm, session), realm, session))
	if errors.Is(err, store.ErrNotFound) {
		return st, ErrUnknownSession
	}
	if err != nil {
		return st, err
	}
	return st, st.decode(value)
}

// Query selects sessions.
type Query struct {
	Realm string
	After string // sessions whose names come after this one, in byte order
	Limit int    // at most so many; at least 1
	Open  bool   // only those that are connected
}

// List returns sessions in the order of their names, and whether there are
// more. It reads one snapshot.
func (l *Ledger) List(ctx context.Context, q Query) (found []State, more bool, err error) {
	snap := l.engine.Snapshot()
	defer snap.Close()
	var h cursors
	defer func() {
		for _, c := range h {
			c.it.Close()
		}
	}()
	for p := range l.engine.Partitions() {
		prefix := store.AppendKey(nil, uint8(p), store.TableSession, q.Realm)
		lower := prefix
		if q.After != "" {
			lower = append(sessionKey(uint8(p), q.Realm, q.After), 0)
		}
		c := &cursor{it: snap.Iter(lower, store.PrefixEnd(prefix)), skip: len(prefix)}
		ok, err := c.next()
		if err != nil || !ok {
			c.it.Close()
			if err != nil {
				return nil, false, err
			}
			continue
		}
		h = append(h, c)
	}
	heap.Init(&h)
	for len(h) > 0 {
		if err := context.Cause(ctx); err != nil {
			return nil, false, err
		}
		c := h[0]
		st := State{Realm: q.Realm, Session: c.session}
		if err := st.decode(c.it.Value()); err != nil {
			l.setAside.Add(c.it.Key(), err)
		} else if !q.Open || st.Open() {
			if len(found) == q.Limit {
				return found, true, nil
			}
			found = append(found, st)
		}
		ok, err := c.next()
		if err != nil {
			return nil, false, err
		}
		if ok {
			heap.Fix(&h, 0)
		} else {
			c.it.Close()
			heap.Pop(&h)
		}
	}
	return found, false, nil
}

// cursor walks the sessions of one partition; cursors is a heap of them, the
// next name first.
type cursor struct {
	it      store.Iterator
	skip    int
	session string
}

func (c *cursor) next() (bool, error) {
	if !c.it.Next() {
		return false, c.it.Err()
	}
	// A key that is none sorts as the last one did, and has no state that can
	// be read.
	if s, _, ok := store.TakeString(c.it.Key()[c.skip:]); ok {
		c.session = s
	}
	return true, nil
}

type cursors []*cursor

func (h cursors) Len() int           { return len(h) }
func (h cursors) Less(i, j int) bool { return h[i].session < h[j].session }
func (h cursors) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *cursors) Push(x any)        { *h = append(*h, x.(*cursor)) }
func (h *cursors) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// Page selects part of a session's history.
type Page struct {
	From   uint64 // first number, inclusive; with Newest the last
	Limit  int    // at most so many transitions; at least 1
	Newest bool   // newest first
}

// History returns transitions of a session by number, and whether there are
// more. Retention may have deleted old ones.
func (l *Ledger) History(realm, session string, pg Page) (ts []Transition, more bool, err error) {
	p := l.partition(realm, session)
	prefix := historyPrefix(p, realm, session)
	lower, upper := prefix, store.PrefixEnd(prefix)
	switch {
	case pg.Newest && pg.From > 0:
		upper = store.PrefixEnd(store.AppendUint64(append([]byte(nil), prefix...), pg.From))
	case !pg.Newest:
		lower = store.AppendUint64(append([]byte(nil), prefix...), pg.From)
	}
	snap := l.engine.Snapshot()
	defer snap.Close()
	it := snap.Iter(lower, upper)
	defer it.Close()
	step := it.Next
	if pg.Newest {
		step = it.Prev
	}
	for step() {
		if len(ts) == pg.Limit {
			return ts, true, nil
		}
		t := Transition{Realm: realm, Session: session}
		if err := t.decodeEntry(it.Key()[len(prefix):], it.Value()); err != nil {
			l.setAside.Add(it.Key(), err)
			continue
		}
		ts = append(ts, t)
	}
	return ts, false, it.Err()
}
