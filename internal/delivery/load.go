package delivery

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"rollcall/internal/event"
	"rollcall/internal/store"
)

// load reads the progress of all subscriptions, deletes that of removed ones,
// and lets the queues work.
func (d *Dispatcher) load() error {
	d.mu.Lock()
	queues := make(map[uint64]*Queue, len(d.queues))
	for id, q := range d.queues {
		queues[id] = q
	}
	d.mu.Unlock()
	snap := d.engine.Snapshot()
	defer snap.Close()
	l := loader{d: d, snap: snap, queues: queues, orphans: map[orphan]bool{}}
	for p := range d.engine.Partitions() {
		if err := l.partition(uint8(p)); err != nil {
			return fmt.Errorf("load progress of deliveries, partition %d: %w", p, err)
		}
	}
	if err := l.tallies(); err != nil {
		return fmt.Errorf("load counts of deliveries: %w", err)
	}
	for o := range l.orphans {
		if d.keepOrphans.Load() {
			break // they may be of a subscription that cannot be read
		}
		d.erase(o.realm, o.id)
	}
	d.mu.Lock()
	d.loaded = true
	started := d.all() // also those put meanwhile
	sources := make([]*Source, 0, len(d.sources))
	for _, s := range d.sources {
		sources = append(sources, s)
	}
	d.mu.Unlock()
	for _, s := range sources { // also those whose log was empty
		for _, p := range s.logs {
			if d.events.restored(p) {
				continue
			}
			low, _, err := l.segments(p, 0)
			if err != nil {
				return fmt.Errorf("load the size of the event log: %w", err)
			}
			d.events.restore(p, low, nil)
			d.events.begin(p, 0)
		}
	}
	d.events.loaded()
	for _, q := range started {
		q.start()
	}
	close(d.ready)
	return nil
}

type orphan struct {
	realm string
	id    uint64
}

type loader struct {
	d       *Dispatcher
	snap    store.Snapshot
	queues  map[uint64]*Queue
	orphans map[orphan]bool
}

func (l *loader) partition(p uint8) error {
	cursors := map[uint64]cursorRecord{}
	if err := l.cursors(p, cursors); err != nil {
		return err
	}
	tails, err := l.tails(p)
	if err != nil {
		return err
	}
	logs := map[string]*logCount{}
	for realm, tail := range tails {
		if logs[realm], err = l.count(p, realm, tail, cursors); err != nil {
			return err
		}
	}
	for id, q := range l.queues {
		q.resume(p, cursors[id], logs[q.source.realm], l.snap.Index())
	}
	if err := l.retries(p); err != nil {
		return err
	}
	for _, q := range l.queues {
		q.countCut(p)
	}
	return nil
}

// countCut counts as dropped what retention took just before the server ended,
// too late to be counted then. What is left of those events is a retry record,
// if there is one.
func (q *Queue) countCut(p uint8) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[p]
	if l == nil {
		return
	}
	for pos := range l.skip {
		if pos <= l.cutTo { // it is not in the log any more
			delete(l.skip, pos)
			l.cut = max(1, l.cut) - 1
		}
	}
	if l.cut > 0 {
		q.drop(RetentionExceeded, l.cut)
		l.cut = 0
		l.seen = max(l.seen, l.cutTo) // so that it is written that they are counted
		l.dirty = true
	}
}

// resume sets a lane to its durable progress. The log is nil if it is empty; it
// was counted up to the commit index known.
func (q *Queue) resume(p uint8, c cursorRecord, log *logCount, known uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counted = int(p) + 1
	start := endOf(q.sub.Start)
	if c == (cursorRecord{}) && (log == nil || log.tail <= start) && q.lanes[p] == nil {
		return
	}
	l := q.lane(p)
	l.written = c
	l.seen = max(c.position, start)
	for k := range l.shelf {
		l.shelf[k].from.due = c.low[k]
	}
	if log != nil {
		l.unread, l.unreadSince = log.of[q.sub.ID], log.oldest[q.sub.ID]
		l.offered = max(l.offered, log.tail)
		l.cut, l.cutTo = log.cut[q.sub.ID], log.low
	}
	for _, early := range l.early {
		if early > endOf(known) {
			l.leave(unixNano(q.d.steady.Steady()))
		}
	}
	l.early = nil
	q.setBehind(l, max(l.offered, l.notified) > l.seen)
}

// logCount is how many events of each subscription the log has that its cursor
// has not passed.
type logCount struct {
	tail   position          // newest event of the log
	low    position          // retention has deleted everything up to here
	of     map[uint64]uint64 // by subscription
	oldest map[uint64]int64  // the first of them was accepted then or later
	cut    map[uint64]uint64 // that retention took since the cursor was written
}

// count counts the log of one source beyond the cursors of its subscriptions.
// A cursor says how much there was when it was written, so that only what came
// later is read, unless retention has overtaken it since.
func (l *loader) count(p uint8, realm string, tail position, cursors map[uint64]cursorRecord) (*logCount, error) {
	c := &logCount{tail: tail, of: map[uint64]uint64{}, oldest: map[uint64]int64{}, cut: map[uint64]uint64{}}
	source := l.d.Source(realm)
	prefix, log := source.Prefix(p), source.logs[p]
	low, segments, err := l.segments(log, tail)
	if err != nil {
		return nil, err
	}
	sealed := low
	if n := len(segments); n > 0 {
		sealed = segments[n-1].end
	}
	c.low = low
	var latest int64 // when the last event was accepted
	l.d.events.restore(log, low, segments)
	from := map[uint64]position{} // what is counted already
	begin := min(tail, sealed)
	for id, q := range l.queues {
		if q.source.realm != realm {
			continue
		}
		at := endOf(q.sub.Start)
		if cursor, ok := cursors[id]; ok {
			at = max(at, cursor.position)
			switch {
			case cursor.counted <= at:
			case cursor.beyond == 0 || low <= cursor.position:
				at, c.of[id] = cursor.counted, cursor.beyond
			default:
				c.cut[id] = cursor.beyond
			}
		}
		from[id] = at
		begin = min(begin, at)
	}
	it := l.snap.Iter(eventKey(prefix, begin+1), store.PrefixEnd(prefix))
	defer it.Close()
	for begin < tail && it.Next() {
		pos, ok := eventPosition(it.Key())
		if !ok {
			continue
		}
		g := grown{pos: pos, bytes: int64(len(it.Key()) + len(it.Value()))}
		// What cannot be read counts for nobody.
		stored, err := eachSubscription(it.Value(), func(id uint64) {
			g.of = append(g.of, id)
			if at, ours := from[id]; ours && pos > at {
				c.of[id]++
				if pos <= cursors[id].counted && c.cut[id] > 0 {
					c.cut[id]--
				}
			}
		})
		if pos <= sealed {
			continue
		}
		g.accepted = latest // an event that cannot be read is as old as its neighbours
		if err == nil {
			if e, err := event.Decode(stored); err == nil {
				g.accepted = unixNano(e.Accepted)
			}
		}
		latest = g.accepted
		l.d.events.recover(log, g)
	}
	if err := it.Err(); err != nil {
		return nil, err
	}
	l.d.events.begin(log, tail)
	for id, n := range c.of {
		if n > 0 {
			if err := l.age(prefix, max(cursors[id].position, endOf(l.queues[id].sub.Start)), id, c); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// segments reads the account of a log as far as it is stored: up to where it
// has been deleted, and the segments without a gap after that. What is not
// stored is counted.
func (l *loader) segments(p *logPart, tail position) (low position, segments []*segment, err error) {
	it := l.snap.Iter(p.prefix, store.PrefixEnd(p.prefix))
	defer it.Close()
	for it.Next() {
		if bytes.Equal(it.Key(), logKey(p.prefix, 0)) {
			if v := it.Value(); len(v) == 9 && v[0] == recordVersion {
				low = position(binary.BigEndian.Uint64(v[1:]))
			}
			continue
		}
		if tail == 0 { // the log is empty
			break
		}
		s, err := decodeSegment(p, it.Key(), it.Value())
		next := low + 1
		if n := len(segments); n > 0 {
			next = segments[n-1].end + 1
		}
		if err != nil || s.end >= next && s.begin != next || s.end > tail {
			l.d.log.Warn("the account of an event log is incomplete; the rest is counted anew", "partition", p.partition, "err", err)
			break
		}
		if s.end >= next {
			segments = append(segments, s)
		}
	}
	return low, segments, it.Err()
}

// age finds out when the first event of a subscription beyond its cursor was
// accepted. If that is far away, that of the nearest event will do.
func (l *loader) age(prefix []byte, cursor position, id uint64, c *logCount) error {
	it := l.snap.Iter(eventKey(prefix, cursor+1), store.PrefixEnd(prefix))
	defer it.Close()
	for n := 0; it.Next() && n < examine; n++ {
		mine, err := recordHas(it.Value(), id)
		if err != nil || n > 0 && !mine {
			continue
		}
		if e, err := recordEvent(it.Value()); err == nil {
			c.oldest[id] = unixNano(e.Accepted)
		}
		if mine {
			break
		}
	}
	return it.Err()
}

func (l *loader) cursors(p uint8, into map[uint64]cursorRecord) error {
	prefix := []byte{p, byte(store.TableCursor)}
	it := l.snap.Iter(prefix, store.PrefixEnd(prefix))
	defer it.Close()
	for it.Next() {
		realm, rest, ok := store.TakeString(it.Key()[2:])
		id, rest, ok2 := store.TakeUint64(rest)
		if !ok || !ok2 || len(rest) > 0 {
			l.d.setAside.Add(it.Key(), errRecord)
			continue
		}
		if l.queues[id] == nil {
			l.orphans[orphan{realm, id}] = true
			continue
		}
		c, err := decodeCursor(it.Value())
		if err != nil { // from the beginning: again rather than never
			l.d.setAside.Add(it.Key(), err)
			continue
		}
		into[id] = c
	}
	return it.Err()
}

// tails finds the sources that have events in a partition, and the newest of
// each.
func (l *loader) tails(p uint8) (map[string]position, error) {
	prefix := []byte{p, byte(store.TableEvent)}
	end := store.PrefixEnd(prefix)
	tails := map[string]position{}
	for from := prefix; from != nil; {
		it := l.snap.Iter(from, end)
		if !it.Next() {
			err := it.Err()
			_ = it.Close() // its error is err
			return tails, err
		}
		realm, _, ok := store.TakeString(it.Key()[2:])
		_ = it.Close() // nothing was written through it
		if !ok {       // no source that anybody could have written to
			l.d.setAside.Add(it.Key(), errRecord)
			from = append(bytes.Clone(it.Key()), 0)
			continue
		}
		source := l.d.Source(realm)
		from = store.PrefixEnd(source.Prefix(p))
		it = l.snap.Iter(source.Prefix(p), from)
		if it.Prev() {
			tails[realm], _ = eventPosition(it.Key())
		}
		err := it.Err()
		_ = it.Close() // its error is err
		if err != nil {
			return nil, err
		}
	}
	return tails, nil
}

// retries reads what is on the shelves: how much, when the first is due, and
// which events beyond the cursor are not the log's to deliver.
func (l *loader) retries(p uint8) error {
	prefix := []byte{p, byte(store.TableRetry)}
	it := l.snap.Iter(prefix, store.PrefixEnd(prefix))
	defer it.Close()
	ok := it.Next()
	for ok {
		realm, rest, fine := store.TakeString(it.Key()[2:])
		id, _, fine2 := store.TakeUint64(rest)
		if !fine || !fine2 {
			l.d.setAside.Add(it.Key(), errRecord)
			ok = it.Next()
			continue
		}
		q := l.queues[id]
		own := retryPrefix(p, realm, id)
		next := store.PrefixEnd(own)
		if q == nil {
			l.orphans[orphan{realm, id}] = true
			ok = next != nil && it.SeekGE(next)
			continue
		}
		for k := range shelfKind(shelves) {
			if err := q.resumeShelf(it, p, own, k); err != nil {
				return err
			}
		}
		ok = next != nil && it.SeekGE(next)
	}
	return it.Err()
}

// resumeShelf reads one shelf, from its low-water mark on. The queue is not
// locked meanwhile, because notifications arrive already.
func (q *Queue) resumeShelf(it store.Iterator, p uint8, own []byte, k shelfKind) error {
	q.mu.Lock()
	l := q.lane(p)
	low, seen := l.shelf[k].from.due, l.seen
	q.mu.Unlock()
	var (
		s     shelf
		last  int64
		skip  []position
		found ages
	)
	for ok := it.SeekGE(retryKey(own, k, low, 0)); ok && bytes.HasPrefix(it.Key(), own); ok = it.Next() {
		kind, due, pos, fine := retrySuffix(it.Key()[len(own):])
		if !fine {
			q.d.setAside.Add(it.Key(), errRecord)
			continue
		}
		if kind != k {
			break
		}
		if s.count == 0 {
			s.next, s.from = due, place{due, pos}
		}
		if rec, err := decodeRetry(k, due, it.Value()); err == nil {
			found.add(rec.accepted)
		}
		s.count++
		last = due
		if pos > seen {
			skip = append(skip, pos)
		}
	}
	if err := it.Err(); err != nil || s.count == 0 {
		return err
	}
	q.d.reach(last)
	q.mu.Lock()
	defer q.mu.Unlock()
	l.shelf[k] = s
	q.ages.merge(found)
	if q.due[k] == 0 || s.next < q.due[k] {
		q.due[k] = s.next
	}
	if k == dying {
		q.buryAt = time.Unix(0, max(last, q.buryAt.UnixNano()))
	}
	for _, pos := range skip {
		if l.skip == nil {
			l.skip = make(map[position]struct{})
		}
		l.skip[pos] = struct{}{}
	}
	return nil
}

func (l *loader) tallies() error {
	prefix := []byte{store.Config, byte(store.TableTally)}
	it := l.snap.Iter(prefix, store.PrefixEnd(prefix))
	defer it.Close()
	for it.Next() {
		realm, rest, ok := store.TakeString(it.Key()[2:])
		id, _, ok2 := store.TakeUint64(rest)
		if !ok || !ok2 {
			l.d.setAside.Add(it.Key(), errRecord)
			continue
		}
		q := l.queues[id]
		if q == nil {
			l.orphans[orphan{realm, id}] = true
			continue
		}
		q.mu.Lock()
		err := q.tally.add(it.Value())
		q.mu.Unlock()
		if err != nil {
			l.d.setAside.Add(it.Key(), err)
		}
	}
	return it.Err()
}
