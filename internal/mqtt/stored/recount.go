package stored

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"rollcall/internal/store"
)

// recountPace is how many keys are read between two rests, each as long as
// reading them took.
const recountPace = 4096

// recount finds out which entries of earlier runs refer to which messages, and
// deletes messages that none does: those that a crash left behind.
func (st *Store) recount(ctx context.Context) (failed error) {
	for p := range st.partitions {
		err := st.recountPartition(ctx, uint8(p))
		if err == nil {
			continue
		}
		st.refs.abandon(uint8(p))
		if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
			return err
		}
		failed = errors.Join(failed, fmt.Errorf("count the stored messages of partition %d: %w", p, err))
	}
	return failed
}

func (st *Store) recountPartition(ctx context.Context, p uint8) error {
	st.refs.begin(p)
	snap := st.engine.Snapshot() // after begin: what it does not show is told to finish
	defer snap.Close()
	found := make(map[sequence]holders)
	var r entryReader
	unreadable := false // an entry: which message it refers to is not known
	err := st.scan(ctx, snap, p, store.TableQueue, func(key, value []byte) error {
		index, ordinal, ok := store.Sequence(key)
		if !ok {
			unreadable = true
			st.setAside.Add(key, errRecord)
			return nil
		}
		ref, err := r.read(p, sequence{index, ordinal}, value)
		if err != nil {
			unreadable = true
			st.setAside.Add(key, err)
			return nil
		}
		if m := ref.message(); m.index != 0 && m.index <= st.refs.start {
			h := found[m]
			h.add(m, ref.sequence())
			found[m] = h
		}
		return nil
	})
	if err != nil {
		return err
	}
	if unreadable {
		st.refs.abandon(p)
		return nil
	}
	realms := make(map[sequence]string)
	realm := ""
	var prefix []byte
	err = st.scan(ctx, snap, p, store.TableMessage, func(key, _ []byte) error {
		index, ordinal, ok := store.Sequence(key)
		if !ok {
			st.setAside.Add(key, errRecord)
			return nil
		}
		if prefix == nil || !bytes.HasPrefix(key, prefix) {
			if realm, _, ok = takeName(key[2:]); !ok {
				st.setAside.Add(key, errRecord)
				return nil
			}
			prefix = store.AppendKey(nil, p, store.TableMessage, realm)
		}
		m := sequence{index, ordinal}
		if index > st.refs.start {
			return nil
		}
		if _, held := found[m]; held {
			realms[m] = realm
			return nil
		}
		st.reap.addMessages(p, realm, []sequence{m})
		st.metrics.orphans.Inc()
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range st.refs.finish(p, found) {
		st.reap.addMessages(p, realms[m], []sequence{m})
	}
	return nil
}

// scan calls f for all keys of a table in a partition, not faster than leaves
// half of the time to others.
func (st *Store) scan(ctx context.Context, snap store.Snapshot, p uint8, t store.Table, f func(key, value []byte) error) (err error) {
	it := snap.Iter(tableBounds(p, t))
	defer func() { err = errors.Join(err, it.Err(), it.Close()) }()
	begun := st.clock.Monotonic()
	for n := 1; it.Next(); n++ {
		if err := f(it.Key(), it.Value()); err != nil {
			return err
		}
		if n%recountPace == 0 {
			if !st.wait(ctx, min(st.clock.Monotonic()-begun, time.Second)) {
				return context.Cause(ctx)
			}
			begun = st.clock.Monotonic()
		}
	}
	return nil
}
