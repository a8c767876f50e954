package stored

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/store"
)

// Surveyor is Survey and Inbound for many sessions, one after the other: it keeps
// its iterators, which mostly stand where the next session begins if the sessions
// come in the order of their names. It sees one moment, and keeps space from being
// reclaimed until Close, which is to come soon. It is for one goroutine.
type Surveyor struct {
	st       *Store
	snap     store.Snapshot
	reading  func()
	queues   []standing // by partition
	inbounds []standing

	heads  []head // used again
	found  []Waiting
	gone   []bool         // of found: an earlier run had settled it
	holder map[uint16]int // where in found
}

// standing is an iterator over one table of one partition.
type standing struct {
	it   store.Iterator // nil: not open
	ok   bool           // it stands at a key, else after the last
	from []byte         // no key is between this and where it stands
}

// Surveyor returns a Surveyor of what is durable now.
func (st *Store) Surveyor() *Surveyor {
	return &Surveyor{st: st, reading: st.reap.enter(), snap: st.engine.Snapshot(),
		queues: make([]standing, st.partitions), inbounds: make([]standing, st.partitions)}
}

// Close releases what the Surveyor holds.
func (s *Surveyor) Close() (err error) {
	for _, of := range [][]standing{s.queues, s.inbounds} {
		for i := range of {
			if it := of[i].it; it != nil {
				err = errors.Join(err, it.Err(), it.Close())
			}
		}
	}
	s.snap.Close()
	s.reading()
	return err
}

// at has the iterator stand at the first key from prefix on, and reports whether
// that begins with it.
func (w *standing) at(snap store.Snapshot, p uint8, t store.Table, prefix []byte) (bool, error) {
	there := w.it != nil && bytes.Compare(w.from, prefix) <= 0 && (!w.ok || bytes.Compare(prefix, w.it.Key()) <= 0)
	if w.it == nil {
		w.it = snap.Iter(tableBounds(p, t))
	}
	if !there {
		w.ok = w.it.SeekGE(prefix)
	}
	w.from = append(w.from[:0], prefix...)
	return w.ok && bytes.HasPrefix(w.it.Key(), prefix), w.it.Err()
}

// Survey is Store.Survey, for all entries.
func (s *Surveyor) Survey(k SessionKey, f func(w Waiting)) error {
	prefix := epochKey(make([]byte, 0, 96), 0, store.TableQueue, k)
	s.heads, s.found, s.gone = s.heads[:0], s.found[:0], s.gone[:0]
	clear(s.holder)
	for p := range s.queues {
		prefix[0] = uint8(p)
		w := &s.queues[p]
		has, err := w.at(s.snap, uint8(p), store.TableQueue, prefix)
		if err != nil {
			return fmt.Errorf("survey a queue: %w", err)
		}
		if has {
			h := head{it: &within{Iterator: w.it, at: w, prefix: bytes.Clone(prefix)}, partition: uint8(p)}
			h.next(true)
			s.heads = append(s.heads, h)
		}
	}
	if err := merge(s.heads, func(p uint8, seq sequence, value []byte) (bool, error) {
		s.take(k, p, seq, value)
		return true, nil
	}); err != nil {
		return fmt.Errorf("survey a queue: %w", err)
	}
	for i := range s.queues {
		if w := &s.queues[i]; w.it != nil && w.it.Err() != nil {
			return fmt.Errorf("survey a queue: %w", w.it.Err())
		}
	}
	for i := range s.found {
		if !s.gone[i] {
			f(s.found[i])
		}
	}
	return nil
}

// within is an iterator that ends where a prefix does. It stands on the key after
// it then.
type within struct {
	store.Iterator
	at     *standing
	prefix []byte
}

func (w *within) Next() bool {
	w.at.ok = w.Iterator.Next()
	return w.at.ok && bytes.HasPrefix(w.Key(), w.prefix)
}

// take takes in one entry, unless it has been settled. Of entries of earlier runs
// with the same packet identifier the older must have been, see settleReplaced.
func (s *Surveyor) take(k SessionKey, p uint8, seq sequence, value []byte) {
	if s.st.reap.isDying(seq) {
		return
	}
	var r entryReader
	ref, err := r.read(p, seq, value)
	if err != nil {
		s.st.setAsideEntry(k, p, seq, err)
		return
	}
	if r.id != 0 && seq.index <= s.st.refs.start {
		if older, ok := s.holder[r.id]; ok {
			s.st.Settle(k, s.found[older].Ref)
			s.gone[older] = true
		}
		if s.holder == nil {
			s.holder = make(map[uint16]int)
		}
		s.holder[r.id] = len(s.found)
	}
	s.found = append(s.found, Waiting{Ref: ref, PacketID: r.id, QoS: packet.QoS(r.flags & entryQoS), Released: r.flags&entryReleased != 0,
		Size: r.size, Expires: r.expires})
	s.gone = append(s.gone, false)
}

// Inbound is Store.Inbound.
func (s *Surveyor) Inbound(k SessionKey) (ids []uint16, err error) {
	p := s.st.Partition(k.Realm, k.Name)
	prefix := epochKey(nil, p, store.TableInbound, k)
	w := &s.inbounds[p]
	has, err := w.at(s.snap, p, store.TableInbound, prefix)
	for ; has; has = w.ok && bytes.HasPrefix(w.it.Key(), prefix) {
		if id := w.it.Key()[len(prefix):]; len(id) == 2 {
			ids = append(ids, binary.BigEndian.Uint16(id))
		} else {
			s.st.setAside.Add(w.it.Key(), errRecord)
		}
		w.ok = w.it.Next()
	}
	if err == nil {
		err = w.it.Err()
	}
	return ids, err
}
