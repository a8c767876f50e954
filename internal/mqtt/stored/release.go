package stored

import (
	"encoding/binary"
	"errors"

	"rollcall/internal/store"
)

// ErrSettled: the entry has been settled or moved before.
var ErrSettled = errors.New("stored: the entry is settled")

// Release records that PUBREC has come for an entry with the packet identifier
// id: its message is not needed any more, only the identifier, which is kept
// until Settle, in the same place of the queue. Done, which may be nil, is
// called once that is durable; PUBREL may leave then.
func (st *Store) Release(k SessionKey, ref Ref, id uint16, done func(error)) {
	b := store.NewBatch(store.Reserve)
	if st.reap.isDying(ref.sequence()) {
		st.commit(b, func(store.Result) { report(done, ErrSettled) })
		return
	}
	b.Put(queueKey(nil, k, ref), appendReleased(nil, id))
	st.commit(b, func(r store.Result) {
		st.metrics.outcome(r.Err)
		if r.Err == nil && ref.Message != 0 {
			st.dropped(ref.Partition, k.Realm, change{message: ref.message(), entry: ref.sequence()})
		}
		report(done, r.Err)
	})
}

// Complete forgets an inbound packet identifier: PUBREL has come. Done, which
// may be nil, is called once that is durable; PUBCOMP may leave then.
func (st *Store) Complete(k SessionKey, id uint16, done func(error)) {
	b := store.NewBatch(store.Reserve)
	b.Delete(inboundKey(nil, st.Partition(k.Realm, k.Name), k, id))
	st.submit(b, done)
}

// Inbound returns the packet identifiers of QoS 2 messages that the session
// has sent and not released, rising.
func (st *Store) Inbound(k SessionKey) (ids []uint16, err error) {
	prefix := epochKey(nil, st.Partition(k.Realm, k.Name), store.TableInbound, k)
	snap := st.engine.Snapshot()
	defer snap.Close()
	it := snap.Iter(prefix, store.PrefixEnd(prefix))
	defer func() { err = errors.Join(err, it.Err(), it.Close()) }()
	for it.Next() {
		id := it.Key()[len(prefix):]
		if len(id) != 2 {
			st.setAside.Add(it.Key(), errRecord)
			continue
		}
		ids = append(ids, binary.BigEndian.Uint16(id))
	}
	return ids, nil
}

// Move makes an entry e of from, as Pending returned it, an entry of another
// session of the same realm: a message of a shared subscription that its first
// receiver did not take. It becomes the newest of that session's queue. If from
// ends, its entries can be moved until the grace period has passed, unless a
// crash comes first; before the end is staged, in any case. Done is called like
// that of Add, for one target; with an error, also ErrSettled, the entry stays
// what it was.
func (st *Store) Move(from SessionKey, e *Entry, to *Target, done func(Receipt, error)) {
	b := store.NewBatch(store.Normal)
	refuse := func(err error) {
		st.commit(store.NewBatch(store.Normal), func(store.Result) {
			if done != nil {
				done(Receipt{}, err)
			}
		})
	}
	old := e.Ref
	if e.Released {
		refuse(ErrSettled)
		return
	}
	var value []byte
	if old.Message != 0 {
		value = appendEntry(nil, to, payloadThere, e.Size, expiresAt(e.Message))
		value = binary.AppendUvarint(value, old.Message)
		value = binary.AppendUvarint(value, uint64(old.MessageOrdinal))
	} else {
		message, err := appendMessage(nil, e.Message)
		if err != nil {
			refuse(err)
			return
		}
		value = append(appendEntry(nil, to, payloadInline, len(message), expiresAt(e.Message)), message...)
	}
	if !st.reap.hold(old.sequence()) {
		refuse(ErrSettled)
		return
	}
	// The entry may be gone all the same, if its session has ended and its
	// queue was deleted; then it must not come back.
	key := queueKey(nil, from, old)
	b.Require(key, store.Revision(old.Index))
	b.Delete(key)
	b.PutSequenced(epochKey(nil, old.Partition, store.TableQueue, SessionKey{from.Realm, to.Session, to.Epoch}), value)
	st.commit(b, func(r store.Result) {
		st.metrics.outcome(r.Err)
		ref := Ref{Index: r.Index, Message: old.Message, MessageOrdinal: old.MessageOrdinal, Partition: old.Partition}
		if r.Err == nil && old.Message != 0 {
			st.dropped(old.Partition, from.Realm,
				change{message: old.message(), entry: ref.sequence(), add: true},
				change{message: old.message(), entry: old.sequence()})
		}
		st.reap.unhold(old.sequence(), r.Err == nil)
		if errors.Is(r.Err, store.ErrConflict) {
			r.Err = ErrSettled
		}
		if done != nil {
			done(Receipt{first: ref}, r.Err)
		}
	})
}
