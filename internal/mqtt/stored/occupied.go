package stored

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"rollcall/internal/store"
)

// Occupied calls f for the sessions that have entries in their queues, or inbound
// packet identifiers, once or more for each, as of now. It costs a seek for each
// session and partition, and leaves half of the time to others.
func (st *Store) Occupied(ctx context.Context, f func(SessionKey)) error {
	snap := st.engine.Snapshot()
	defer snap.Close()
	for p := range st.partitions {
		for _, t := range []store.Table{store.TableQueue, store.TableInbound} {
			if err := st.occupied(ctx, snap, uint8(p), t, f); err != nil {
				return fmt.Errorf("look for queues of partition %d: %w", p, err)
			}
		}
	}
	return nil
}

func (st *Store) occupied(ctx context.Context, snap store.Snapshot, p uint8, t store.Table, f func(SessionKey)) (err error) {
	it := snap.Iter(tableBounds(p, t))
	defer func() { err = errors.Join(err, it.Err(), it.Close()) }()
	begun := st.clock.Monotonic()
	realm := ""
	ok := it.Next()
	for n := 1; ok; n++ {
		key := it.Key()
		name, rest, good := takeRealm(key[2:], realm)
		if !good {
			return errRecord
		}
		realm = name
		k := SessionKey{Realm: realm}
		if k.Name, rest, good = takeName(rest); !good {
			return errRecord
		}
		if k.Epoch, rest, good = store.TakeUint64(rest); !good {
			return errRecord
		}
		f(k)
		ok = it.SeekGE(store.PrefixEnd(bytes.Clone(key[:len(key)-len(rest)])))
		if n%recountPace == 0 {
			if !st.wait(ctx, min(st.clock.Monotonic()-begun, time.Second)) {
				return context.Cause(ctx)
			}
			begun = st.clock.Monotonic()
		}
	}
	return nil
}
