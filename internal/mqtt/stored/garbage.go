package stored

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rollcall/internal/store"
)

// tombstone says that a session state has ended and its queue may go.
type tombstone struct {
	key SessionKey
	at  time.Time
}

func (t tombstone) append(dst []byte) []byte {
	dst = appendText(append(dst, recordVersion), t.key.Realm)
	dst = appendText(dst, t.key.Name)
	return appendTime(store.AppendUint64(dst, t.key.Epoch), t.at)
}

func (t *tombstone) decode(value []byte) error {
	d, err := decode(value, "tombstone")
	if err != nil {
		return err
	}
	t.key.Realm, t.key.Name = d.str(), d.str()
	if len(d.buf) >= 8 {
		t.key.Epoch, d.buf, _ = store.TakeUint64(d.buf)
	} else {
		d.fail()
	}
	t.at = d.time()
	return d.end("tombstone")
}

// How garbage is collected.
const (
	garbagePage    = 500    // tombstones looked at from one view
	garbageBacklog = 10_000 // keys that may wait to be deleted before more are looked for
	garbagePoints  = 100    // keys beside the queue of one session that are deleted one by one
)

// collector deletes what ended sessions left. It is for one goroutine.
type collector struct {
	st   *Store
	from []uint64 // by partition: commit index before which there are no tombstones
}

func newCollector(st *Store) *collector {
	return &collector{st, make([]uint64, st.partitions)}
}

// collect works off tombstones that are old enough, once each. One that
// something is found for stays for the next time, and is deleted when nothing
// is.
func (c *collector) collect(ctx context.Context) error {
	for p := range c.from {
		from, clean := c.from[p], true
		for {
			begun := c.st.clock.Monotonic()
			next, none, err := c.page(ctx, uint8(p), from)
			if err != nil {
				return fmt.Errorf("collect garbage: %w", err)
			}
			if next == from {
				break
			}
			from, clean = next, clean && none
			if clean {
				c.from[p] = from
			}
			// Others get half of the time.
			if !c.st.wait(ctx, min(c.st.clock.Monotonic()-begun, time.Second)) {
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// page looks at tombstones from a commit index on. It returns where to go on,
// from itself if there is nothing to do, and whether it left no tombstone
// before that.
func (c *collector) page(ctx context.Context, p uint8, from uint64) (next uint64, clean bool, err error) {
	snap := c.st.engine.Snapshot()
	defer snap.Close()
	prefix := garbagePrefix(p)
	it := snap.Iter(store.SequencedKey(prefix, from, 0), store.PrefixEnd(prefix))
	defer func() { err = errors.Join(err, it.Err(), it.Close()) }()
	b := store.NewBatch(store.Reserve)
	next, clean = from, true
	now, deleted := c.st.clock.Steady(), 0
	for n := 0; it.Next(); n++ {
		index, _, _ := store.Sequence(it.Key())
		if n >= garbagePage && index >= next { // all of one commit, or none of it
			break
		}
		var t tombstone
		if err := t.decode(it.Value()); err != nil {
			c.st.setAside.Add(it.Key(), err)
			next = index + 1
			continue
		}
		// One from the future is the clock's mistake, and not young.
		if age := now.Sub(t.at); age >= 0 && age < c.st.grace {
			if index < next {
				clean = false // in a commit that was begun
			}
			break
		}
		found, err := c.bury(ctx, snap, b, p, t.key)
		if err != nil {
			return from, false, err
		}
		if found {
			clean = false
		} else {
			b.Delete(it.Key())
			deleted++
		}
		next = index + 1
	}
	if b.Len() == 0 {
		return next, clean, nil
	}
	if _, err = store.Commit(ctx, c.st.engine, b); err == nil {
		c.st.metrics.collected.Add(float64(deleted))
	}
	return next, clean, err
}

// bury settles what is left in the queues of k and deletes what is left beside
// its state. It reports whether there was anything in the queues.
func (c *collector) bury(ctx context.Context, snap store.Snapshot, b *store.Batch, p uint8, k SessionKey) (found bool, err error) {
	for _, t := range []store.Table{store.TableFilter, store.TableInbound} {
		if err := c.clear(snap, b, epochKey(nil, p, t, k)); err != nil {
			return false, err
		}
	}
	var r entryReader
	n := 0
	err = c.st.walk(snap, k, nil, func(p uint8, seq sequence, value []byte) (bool, error) {
		found = true
		ref, err := r.read(p, seq, value)
		if err != nil {
			// Nobody will read it any more: it goes with the others.
			ref = Ref{Index: seq.index, Ordinal: seq.ordinal, Partition: p}
		}
		c.st.Settle(k, ref)
		n++
		// The rest another time: the view is not kept for long.
		return n < garbageBacklog && ctx.Err() == nil && c.st.reap.backlog() < 2*garbageBacklog, nil
	})
	return found, err
}

// clear deletes the keys with a prefix that nothing writes to any more.
func (c *collector) clear(snap store.Snapshot, b *store.Batch, prefix []byte) (err error) {
	end := store.PrefixEnd(prefix)
	it := snap.Iter(prefix, end)
	defer func() { err = errors.Join(err, it.Err(), it.Close()) }()
	for n := 0; it.Next(); n++ {
		if n == garbagePoints {
			b.DeleteRange(prefix, end)
			return nil
		}
		b.Delete(it.Key())
	}
	return nil
}
