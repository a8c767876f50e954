package stored

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
)

// Cursor is a place in a session's queue: after the entry with that commit
// index and ordinal.
type Cursor struct {
	Index   uint64
	Ordinal uint16
}

// Page is a part of a session's queue.
type Page struct {
	Entries []Entry
	Cursor  Cursor // of the last entry; what to go on after
	More    bool   // there are further entries
	// Index is the commit index of the view that was read. Without More, every
	// entry with an index up to it has been returned, now or before.
	Index uint64
}

// Start is where this run begins in every queue: entries up to it are of
// earlier runs.
func (st *Store) Start() Cursor { return Cursor{Index: st.refs.start, Ordinal: math.MaxUint16} }

// Reading has Settled answer exactly for the entries of pages that are read
// until done is called, which must not take long.
func (st *Store) Reading() (done func()) { return st.reap.enter() }

// Settled reports whether an entry that was read has been settled since.
func (st *Store) Settled(ref Ref) bool { return st.reap.isDying(ref.sequence()) }

// Pending returns the entries of a session's queue after a cursor, nil meaning
// from the beginning, in the order of their commits: at least one if there is
// one, then up to maxMessages of them and up to maxBytes of messages. What has
// been settled is left out. A first page without More is all that there is, so
// that Survey need not be asked as well. It reads the store, at the cost of one seek per
// partition, and should not be called from an event loop.
func (st *Store) Pending(k SessionKey, after *Cursor, maxMessages, maxBytes int) (Page, error) {
	defer st.reap.enter()()
	snap := st.engine.Snapshot()
	defer snap.Close()
	page := Page{Index: snap.Index()}
	if after != nil {
		page.Cursor = *after
	}
	var r entryReader
	size := 0
	err := st.settledWalk(snap, k, after, func(p uint8, seq sequence, value []byte) (bool, error) {
		if st.reap.isDying(seq) {
			return true, nil
		}
		ref, err := r.read(p, seq, value)
		if err != nil {
			st.setAsideEntry(k, p, seq, err)
			return true, nil
		}
		if n := len(page.Entries); n > 0 && (n >= maxMessages || size+r.size > maxBytes) {
			page.More = true
			return false, nil
		}
		e := r.entry(ref)
		if !e.Released {
			m, err := st.message(snap, k.Realm, ref, r.inline)
			if errors.Is(err, store.ErrNotFound) {
				st.log.Error("a stored message is missing", "session", k.Name, "index", ref.Index)
				st.Settle(k, ref)
				return true, nil
			}
			if errors.Is(err, errRecord) {
				st.setAsideEntry(k, p, seq, err)
				return true, nil
			}
			if err != nil {
				return false, err
			}
			e.Message = m
		}
		size += r.size
		page.Entries = append(page.Entries, e)
		page.Cursor = ref.Cursor()
		return true, nil
	})
	if err != nil {
		return page, fmt.Errorf("read a queue: %w", err)
	}
	return page, nil
}

// message reads the message of an entry.
func (st *Store) message(snap store.Snapshot, realm string, ref Ref, inline []byte) (*session.Message, error) {
	if ref.Message == 0 {
		return decodeMessage(bytes.Clone(inline))
	}
	value, _, err := snap.Get(messageKey(nil, ref.Partition, realm, ref.message()))
	if err != nil {
		return nil, err
	}
	return decodeMessage(value)
}

// Waiting is what can be said of a queue entry without its message.
type Waiting struct {
	Ref      Ref
	PacketID uint16
	QoS      packet.QoS
	Released bool
	Size     int
	Expires  int64 // Unix nanoseconds; 0: never, or not known
}

// Survey calls f for the entries of a session's queue, in the order of their
// commits and without those that have been settled, until f returns false.
// Whoever allocates packet identifiers looks at all of them first. It reads the
// queue without shared messages, and should not be called from an event loop.
func (st *Store) Survey(k SessionKey, f func(w Waiting) bool) error {
	defer st.reap.enter()()
	snap := st.engine.Snapshot()
	defer snap.Close()
	var r entryReader
	err := st.settledWalk(snap, k, nil, func(p uint8, seq sequence, value []byte) (bool, error) {
		if st.reap.isDying(seq) {
			return true, nil
		}
		ref, err := r.read(p, seq, value)
		if err != nil {
			st.setAsideEntry(k, p, seq, err)
			return true, nil
		}
		return f(Waiting{Ref: ref, PacketID: r.id, QoS: packet.QoS(r.flags & entryQoS), Released: r.flags&entryReleased != 0,
			Size: r.size, Expires: r.expires}), nil
	})
	if err != nil {
		return fmt.Errorf("survey a queue: %w", err)
	}
	return nil
}

// setAsideEntry passes over an entry of a queue that cannot be read. It stays
// where it is, and takes no room in the session's count.
func (st *Store) setAsideEntry(k SessionKey, p uint8, seq sequence, err error) {
	st.setAside.Add(queueKey(nil, k, Ref{Index: seq.index, Ordinal: seq.ordinal, Partition: p}), err)
}

// visit is given the entries of a queue in order, until it returns false. What
// it is given is valid until it returns.
type visit func(p uint8, seq sequence, value []byte) (more bool, err error)

// settledWalk is walk for those who must not see entries of earlier runs that
// others have replaced.
func (st *Store) settledWalk(snap store.Snapshot, k SessionKey, after *Cursor, f visit) (err error) {
	heads, err := st.heads(snap, k, after)
	defer func() { err = errors.Join(err, closeHeads(heads)) }()
	if err != nil {
		return err
	}
	for i := range heads {
		if after == nil && heads[i].seq.index <= st.refs.start {
			if err := st.settleReplaced(snap, k); err != nil {
				return err
			}
			break
		}
	}
	return merge(heads, f)
}

// settleReplaced settles entries of earlier runs whose packet identifiers
// newer ones have, so that they must have been acknowledged: an identifier is
// given again only after that. In this run, settled entries are known.
func (st *Store) settleReplaced(snap store.Snapshot, k SessionKey) error {
	var holder map[uint16]Ref
	var r entryReader
	return st.walk(snap, k, nil, func(p uint8, seq sequence, value []byte) (bool, error) {
		if seq.index > st.refs.start {
			return false, nil
		}
		if st.reap.isDying(seq) {
			return true, nil
		}
		ref, err := r.read(p, seq, value)
		if err != nil {
			st.setAsideEntry(k, p, seq, err)
			return true, nil
		}
		if r.id == 0 {
			return true, nil
		}
		if holder == nil {
			holder = make(map[uint16]Ref)
		}
		if older, ok := holder[r.id]; ok {
			st.Settle(k, older)
		}
		holder[r.id] = ref
		return true, nil
	})
}

// walk visits the entries of a session's queue after a cursor.
func (st *Store) walk(snap store.Snapshot, k SessionKey, after *Cursor, f visit) (err error) {
	heads, err := st.heads(snap, k, after)
	defer func() { err = errors.Join(err, closeHeads(heads)) }()
	if err != nil {
		return err
	}
	return merge(heads, f)
}

// head is the next entry of a session's queue in one partition.
type head struct {
	it        store.Iterator
	partition uint8
	seq       sequence // index 0: there is none
}

// merge visits what heads lead to in the order of commits.
func merge(heads []head, f visit) error {
	for {
		first := -1
		for i := range heads {
			if h := &heads[i]; h.seq.index != 0 && (first < 0 || h.seq.before(heads[first].seq)) {
				first = i
			}
		}
		if first < 0 {
			return nil
		}
		h := &heads[first]
		if more, err := f(h.partition, h.seq, h.it.Value()); !more || err != nil {
			return err
		}
		h.next(h.it.Next())
	}
}

func closeHeads(heads []head) (err error) {
	for i := range heads {
		err = errors.Join(err, heads[i].it.Err(), heads[i].it.Close())
	}
	return err
}

// next takes in where the iterator stands.
func (h *head) next(ok bool) {
	h.seq = sequence{}
	if ok {
		h.seq.index, h.seq.ordinal, _ = store.Sequence(h.it.Key())
	}
}

// heads finds the partitions that have entries, with one iterator for all of
// them, and opens one for each that does.
func (st *Store) heads(snap store.Snapshot, k SessionKey, after *Cursor) (heads []head, err error) {
	prefix := epochKey(make([]byte, 0, 96), 0, store.TableQueue, k)
	n := len(prefix)
	from := prefix
	if after != nil {
		from = append(appendSequence(prefix, sequence{after.Index, after.Ordinal}), 0)
	}
	probe := snap.Iter(nil, nil)
	defer func() { err = errors.Join(err, probe.Err(), probe.Close()) }()
	ok := true
	for p := 0; p < st.partitions && ok; p++ {
		from[0] = uint8(p)
		if p == 0 || bytes.Compare(probe.Key(), from) < 0 {
			ok = probe.SeekGE(from)
		}
		if !ok || !bytes.HasPrefix(probe.Key(), from[:n]) {
			continue
		}
		lower := bytes.Clone(from)
		h := head{it: snap.Iter(lower, store.PrefixEnd(lower[:n])), partition: uint8(p)}
		h.next(h.it.Next())
		heads = append(heads, h)
	}
	return heads, nil
}
