package presence

import (
	"errors"

	"rollcall/internal/store"
)

// A session's number must never be given out twice, also if the store has lost
// something. What bounds the numbers that were given out:
//
//   - A transition raises the number by one at most and is one commit, so a
//     state whose key may have been written n times since (store.LostWrites) is
//     behind by n numbers at most; and no number exceeds the commit index of the
//     record that it was written with.
//   - The history, the index of open sessions and a connection that holds the
//     session each know of a newest transition too.
//
// So what is known is taken from where it is newest, and what may be missing is
// skipped. A session that was open is ended by the number after what was
// skipped: the one that it had may have been ended before, with another event.

// load reads the state of a seat and what may have been lost of it.
func (l *Ledger) load(s *seat) error {
	key := sessionKey(s.partition, s.name.realm, s.name.session)
	value, rev, err := store.Get(l.engine, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	s.state, s.lost = &State{Realm: s.name.realm, Session: s.name.session}, 0
	known := rev // the revision of what is known
	sound := true
	if err == nil {
		if err := s.state.decode(value); err != nil {
			l.setAside.Add(key, err)
			s.state = &State{Realm: s.name.realm, Session: s.name.session, Number: uint64(rev), Kind: Disconnected}
			sound = false
		}
	}
	// Asked after the state was read: where a part of the store is set aside,
	// the mark comes before the hole.
	lost, err := l.lostWrites(key, rev)
	if err != nil {
		return err
	}
	if lost > 0 || !sound {
		newer, at, err := l.newestTransition(s)
		if err != nil {
			return err
		}
		if newer != nil && (at > known || !sound && at == known) {
			s.state, known = stateAfter(newer), at
		}
		if lost, err = l.lostWrites(key, known); err != nil {
			return err
		}
	}
	if h := s.holder; h != nil && h.open && (lost > 0 || !sound) && s.state.Number <= h.number {
		// Nobody knows better than who holds it.
		s.state.Number, s.state.Kind, s.state.Holder, lost = h.number, Connected, l.self, 0
	}
	s.rev, s.lost, s.known = rev, lost, true
	return nil
}

// lostWrites returns how many writes of a key after rev may have been lost.
func (l *Ledger) lostWrites(key []byte, rev store.Revision) (uint64, error) {
	snap := l.engine.Snapshot()
	defer snap.Close()
	return store.LostWrites(snap, key, rev)
}

// newestTransition returns the newest entry of a session's history that can be
// read, and its revision; nil if there is none.
func (l *Ledger) newestTransition(s *seat) (*Transition, store.Revision, error) {
	snap := l.engine.Snapshot()
	defer snap.Close()
	prefix := historyPrefix(s.partition, s.name.realm, s.name.session)
	it := snap.Iter(prefix, store.PrefixEnd(prefix))
	defer it.Close()
	for it.Prev() {
		t := Transition{Realm: s.name.realm, Session: s.name.session}
		if err := t.decodeEntry(it.Key()[len(prefix):], it.Value()); err != nil {
			l.setAside.Add(it.Key(), err)
			continue
		}
		return &t, it.Revision(), nil
	}
	return nil, 0, it.Err()
}

// stateAfter is the state that a transition left, as far as it tells.
func stateAfter(t *Transition) *State {
	s := &State{Realm: t.Realm, Session: t.Session}
	s.follow(t)
	return s
}

// adopt makes s open as an entry of the index of open sessions says, if the
// state is of before that: it was lost.
func (s *seat) adopt(holder Incarnation, number uint64) {
	if s.lost == 0 || number <= s.state.Number {
		return
	}
	s.lost -= min(s.lost, number-s.state.Number)
	s.state.Number, s.state.Kind, s.state.Holder = number, Connected, holder
}
