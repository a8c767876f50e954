package presence

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rollcall/internal/store"
)

// Retention bounds the ledger's history. A session's newest state and number
// are kept for ever, whatever it says: about 100 bytes a name.
type Retention struct {
	Age      time.Duration // oldest transition kept; default 30 days, at least 1 minute
	Bytes    int64         // of all transitions together; default 1 GiB, at least 1 MiB
	Interval time.Duration // between two looks; default 1 minute
}

func (r Retention) withDefaults() Retention {
	if r.Age == 0 {
		r.Age = 30 * 24 * time.Hour
	}
	if r.Bytes == 0 {
		r.Bytes = 1 << 30
	}
	if r.Interval == 0 {
		r.Interval = time.Minute
	}
	return r
}

func (r Retention) validate() error {
	switch {
	case r.Age < time.Minute:
		return fmt.Errorf("presence: retention age %s is shorter than 1 minute", r.Age)
	case r.Bytes < 1<<20:
		return fmt.Errorf("presence: retention of %d bytes is less than 1 MiB", r.Bytes)
	case r.Interval < 0:
		return fmt.Errorf("presence: retention interval %s is negative", r.Interval)
	}
	return nil
}

// retain measures the ledger once and then deletes what Retention does not
// keep, oldest first, until ctx ends.
func (l *Ledger) retain(ctx context.Context) error {
	sizes, err := l.measure(ctx)
	for err != nil && ctx.Err() == nil {
		l.log.Error("cannot measure the ledger", "err", err)
		if l.wait(ctx, l.retention.Interval) {
			sizes, err = l.measure(ctx)
		}
	}
	for l.wait(ctx, l.retention.Interval) {
		if err := l.Trim(ctx, sizes); err != nil && ctx.Err() == nil {
			l.log.Warn("retention of the ledger is behind", "err", err)
		}
	}
	return nil
}

// Sizes are the bytes of history in each partition, as of an index, kept up to
// date by Trim.
type Sizes struct {
	bytes []int64
	index uint64 // transitions after it are not counted yet
}

// measure adds up the timeline.
func (l *Ledger) measure(ctx context.Context) (*Sizes, error) {
	sizes := &Sizes{bytes: make([]int64, l.engine.Partitions())}
	return sizes, l.count(ctx, sizes)
}

// count adds what was committed after sizes.index.
func (l *Ledger) count(ctx context.Context, sizes *Sizes) error {
	snap := l.engine.Snapshot()
	defer snap.Close()
	for p := range sizes.bytes {
		realms, err := realms(snap, uint8(p))
		if err != nil {
			return err
		}
		for _, realm := range realms {
			prefix := timelinePrefix(uint8(p), realm)
			from := store.SequencedKey(prefix, sizes.index+1, 0)
			it := snap.Iter(from, store.PrefixEnd(prefix))
			for it.Next() && ctx.Err() == nil {
				var m mark
				if err := m.decode(it.Value()); err != nil {
					l.setAside.Add(it.Key(), err)
					m.size = int64(len(it.Key()) + len(it.Value()))
				}
				sizes.bytes[p] += m.size
			}
			err := errors.Join(it.Err(), it.Close(), context.Cause(ctx))
			if err != nil {
				return err
			}
		}
	}
	sizes.index = snap.Index()
	return nil
}

// realms lists the realms that have a timeline in partition p.
func realms(snap store.Snapshot, p uint8) ([]string, error) {
	lower := []byte{p, byte(store.TableTimeline)}
	it := snap.Iter(lower, store.PrefixEnd(lower))
	defer it.Close()
	var all []string
	for ok := it.Next(); ok; {
		realm, _, whole := store.TakeString(it.Key()[2:])
		if !whole { // no realm that anybody could have written to
			ok = it.Next()
			continue
		}
		all = append(all, realm)
		ok = it.SeekGE(store.PrefixEnd(timelinePrefix(p, realm)))
	}
	return all, it.Err()
}

// trimBatch bounds the transitions that one batch deletes.
const trimBatch = 500

// trimLook bounds the transitions that are looked at for a batch.
const trimLook = 20 * trimBatch

// Trim deletes the transitions that are older than Retention.Age, and as many
// of the oldest as it takes to fit Retention.Bytes.
func (l *Ledger) Trim(ctx context.Context, sizes *Sizes) error {
	if err := l.count(ctx, sizes); err != nil {
		return err
	}
	share := l.retention.Bytes / int64(len(sizes.bytes))
	now := l.clock.Steady()
	snap := l.engine.Snapshot()
	defer func() { snap.Close() }() // the newest
	for p := range sizes.bytes {
		names, err := realms(snap, uint8(p))
		if err != nil {
			return err
		}
		for _, realm := range names {
			for more := true; more; {
				var freed int64
				freed, more, err = l.trimOnce(ctx, snap, uint8(p), realm, now, sizes.bytes[p]-share)
				sizes.bytes[p] -= freed
				if err != nil {
					return err
				}
				if more { // see what the batch left
					snap.Close()
					snap = l.engine.Snapshot()
				}
			}
		}
	}
	return nil
}

// trimOnce deletes one batch of the oldest transitions of a realm in p, those
// older than Retention.Age at now or among the oldest excess bytes, and reports
// whether there may be more.
//
// Transitions are stamped by the wall clock, which may have been wrong for a
// while. Their order is right. So none is younger than one that was stored after
// it, which is what a stamp in the future comes to; and none that a clock set
// back has stamped is older than those before it, which are deleted first.
func (l *Ledger) trimOnce(ctx context.Context, snap store.Snapshot, p uint8, realm string, now time.Time, excess int64) (freed int64, more bool, err error) {
	prefix := timelinePrefix(p, realm)
	it := snap.Iter(prefix, store.PrefixEnd(prefix))
	defer it.Close()
	b := store.NewBatch(store.Reserve)
	n, seen := 0, 0
	var last []byte
	var unsure []mark // of an unknown time, or one in the future: as old as what comes next, at least
	for ; n < trimBatch && seen < trimLook && it.Next(); seen++ {
		var m mark
		err := m.decode(it.Value())
		if err != nil { // the history that it names stays
			l.setAside.Add(it.Key(), err)
			m = mark{size: int64(len(it.Key()) + len(it.Value()))}
		}
		unknown := err != nil || m.time.After(now)
		if freed >= excess && (unknown || l.clock.Age(m.time) <= l.retention.Age) {
			if !unknown {
				break
			}
			unsure = append(unsure, m)
			continue
		}
		for _, m := range append(unsure, m) {
			if m.session != "" {
				b.Delete(historyKey(p, realm, m.session, m.number, m.kind))
			}
			freed += m.size
			n++
		}
		unsure = unsure[:0]
		last = append(last[:0], it.Key()...)
	}
	if err := it.Err(); err != nil || n == 0 {
		return 0, false, err
	}
	b.DeleteRange(prefix, append(last, 0)) // rising keys: nothing writes there any more
	if _, err := store.Commit(ctx, l.engine, b); err != nil {
		return 0, false, err
	}
	l.metrics.trimmed.Add(float64(n))
	return freed, n >= trimBatch, nil
}
