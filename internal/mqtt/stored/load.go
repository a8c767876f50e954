package stored

import (
	"bytes"
	"errors"
	"fmt"

	"rollcall/internal/store"
	"rollcall/internal/store/setaside"
)

// Load calls f for every stored session with its subscriptions, one at a time,
// until f returns an error, which it returns. Both are f's to read until it
// returns; the strings in them are f's to keep. It is for the start, before
// anything changes, and reads about half a million sessions a second.
func (st *Store) Load(f func(s *Session, subs []Subscription) error) error {
	snap := st.engine.Snapshot()
	defer snap.Close()
	l := loader{f: f, setAside: st.setAside}
	for p := range st.partitions {
		if err := l.partition(snap, uint8(p)); err != nil {
			return fmt.Errorf("load the sessions of partition %d: %w", p, err)
		}
	}
	return nil
}

type loader struct {
	f        func(*Session, []Subscription) error
	setAside *setaside.List
	session  Session
	subs     []Subscription
}

// partition walks states and subscriptions side by side: both are in the order
// of realm and name.
func (l *loader) partition(snap store.Snapshot, p uint8) (err error) {
	states := snap.Iter(tableBounds(p, store.TableSessionState))
	defer func() { err = errors.Join(err, states.Err(), states.Close()) }()
	filters := snap.Iter(tableBounds(p, store.TableFilter))
	defer func() { err = errors.Join(err, filters.Err(), filters.Close()) }()
	more := filters.Next()
	for states.Next() {
		name := states.Key()[2:]
		if err := l.state(name, states.Value()); err != nil {
			l.setAside.Add(states.Key(), err)
			l.session = Session{} // its client begins anew
			continue
		}
		l.subs = l.subs[:0]
		for ; more; more = filters.Next() {
			key := filters.Key()[2:]
			if len(key) < len(name) || !bytes.Equal(key[:len(name)], name) {
				if bytes.Compare(key, name) > 0 {
					break // of a later session
				}
				continue // left behind by a session that ended
			}
			if err := l.subscription(key[len(name):], filters.Value()); err != nil {
				l.setAside.Add(filters.Key(), err)
			}
		}
		if err := l.f(&l.session, l.subs); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) state(key, value []byte) error {
	old := l.session.Realm
	realm, rest, ok := takeRealm(key, old)
	if !ok {
		return errRecord
	}
	name, rest, ok := takeName(rest)
	if !ok || len(rest) != 0 {
		return errRecord
	}
	l.session = Session{Realm: realm, Name: name}
	return l.session.decode(value)
}

// takeRealm is takeName for what is mostly the same as before.
func takeRealm(key []byte, old string) (realm string, rest []byte, ok bool) {
	n := len(old)
	if n > 0 && len(key) > n+1 && string(key[:n]) == old && key[n] == 0 && key[n+1] == 1 {
		return old, key[n+2:], true
	}
	return takeName(key)
}

// subscription takes in one subscription unless it is of another epoch.
func (l *loader) subscription(key, value []byte) error {
	epoch, filter, ok := store.TakeUint64(key)
	if !ok {
		return errRecord
	}
	if epoch != l.session.Epoch {
		return nil
	}
	var s Subscription
	if err := s.decode(value); err != nil {
		return err
	}
	s.Filter = string(filter)
	l.subs = append(l.subs, s)
	return nil
}
