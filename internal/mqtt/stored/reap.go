package stored

import (
	"errors"
	"sync"
	"time"

	"rollcall/internal/store"
)

// How deletes are gathered: up to reapKeys of a partition, for up to reapDelay.
const (
	reapKeys  = 1000
	reapDelay = 50 * time.Millisecond
	reapRetry = time.Second // after a failure
)

// reaper deletes what was settled, in the background. An entry counts as gone
// from Settle on, for all who read a queue afterwards.
type reaper struct {
	st   *Store
	wake chan struct{} // holds one token while something waits for a flush

	mu    sync.Mutex
	lists []reapList // by partition
	dying map[sequence]struct{}
	left  int // settled and not durably deleted

	// A reader who began before a delete was durable may still see the entry,
	// so it stays in dying until those readers are done: readers count
	// themselves under the parity of their time, which moves on once there is
	// none of the other.
	parity  int
	readers [2]int
	graves  [2][]sequence
}

type reapList struct {
	items []reapItem
	spare []reapItem
	busy  bool          // a batch is under way
	again time.Duration // not before, monotonic; 0: at once
}

// reapItem is a queue entry, or a message record if session has only a realm
// and ref only a message.
type reapItem struct {
	session SessionKey
	ref     Ref
}

func (i *reapItem) isMessage() bool { return i.ref.Index == 0 }

func newReaper(st *Store) *reaper {
	return &reaper{st: st, wake: make(chan struct{}, 1), lists: make([]reapList, st.partitions), dying: make(map[sequence]struct{})}
}

// Settle says that the session is done with an entry. It is deleted in the
// background, within about 50 ms, while Run runs; it is gone for readers at
// once. Settling an entry again does nothing. It does not block.
func (st *Store) Settle(k SessionKey, ref Ref) {
	if ref.Index == 0 {
		return // of nothing
	}
	r := st.reap
	r.mu.Lock()
	seq := ref.sequence()
	if _, twice := r.dying[seq]; twice {
		r.mu.Unlock()
		return
	}
	r.dying[seq] = struct{}{}
	r.add(reapItem{k, ref})
	r.mu.Unlock()
}

// add puts an item into its list. The caller holds mu.
func (r *reaper) add(i reapItem) {
	p := i.ref.Partition
	l := &r.lists[p]
	l.items = append(l.items, i)
	r.left++
	if len(l.items) >= reapKeys && !l.busy && l.again == 0 {
		r.flush(p)
		return
	}
	r.kick()
}

// addMessages lists message records that nothing refers to any more.
func (r *reaper) addMessages(p uint8, realm string, dead []sequence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range dead {
		r.add(reapItem{SessionKey{Realm: realm}, Ref{Message: m.index, MessageOrdinal: m.ordinal, Partition: p}})
	}
}

// hold keeps readers from seeing an entry that a batch under way deletes. It
// reports false if the entry is settled already.
func (r *reaper) hold(seq sequence) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, settled := r.dying[seq]; settled {
		return false
	}
	r.dying[seq] = struct{}{}
	return true
}

// unhold ends what hold began: the entry is there (gone false) or durably
// deleted.
func (r *reaper) unhold(seq sequence, gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !gone {
		delete(r.dying, seq)
		return
	}
	r.graves[r.parity] = append(r.graves[r.parity], seq)
	r.age()
}

func (r *reaper) isDying(seq sequence) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, dying := r.dying[seq]
	return dying
}

// enter is called before a snapshot is taken, and the result after it is
// closed.
func (r *reaper) enter() (leave func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	parity := r.parity
	r.readers[parity]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.readers[parity]--
		r.age()
	}
}

// age forgets what no reader can see any more. The caller holds mu.
func (r *reaper) age() {
	for range 2 {
		other := 1 - r.parity
		if r.readers[other] > 0 {
			return
		}
		for _, seq := range r.graves[other] {
			delete(r.dying, seq)
		}
		r.graves[other] = r.graves[other][:0]
		r.parity = other
	}
}

// flushAll submits what has gathered and may be tried now, and returns how
// long to wait before there is more to try, 0 if nothing waits.
func (r *reaper) flushAll(final bool) time.Duration {
	now := r.st.clock.Monotonic()
	r.mu.Lock()
	defer r.mu.Unlock()
	var wait time.Duration
	for p := range r.lists {
		l := &r.lists[p]
		if rest := l.again - now; rest > 0 && rest <= reapRetry && !final {
			wait = max(wait, rest)
			continue
		}
		l.again = 0
		if len(l.items) > 0 && !l.busy {
			r.flush(uint8(p))
		}
	}
	return wait
}

// flush submits the first items of a list. The caller holds mu.
func (r *reaper) flush(p uint8) {
	l := &r.lists[p]
	items := l.items
	if len(items) > reapKeys {
		l.items = append(l.spare[:0], items[reapKeys:]...)
		items = items[:reapKeys]
	} else {
		l.items = l.spare[:0]
	}
	l.spare, l.busy = nil, true
	b := store.NewBatch(store.Reserve)
	var key []byte
	for i := range items {
		if it := &items[i]; it.isMessage() {
			key = messageKey(key[:0], p, it.session.Realm, it.ref.message())
		} else {
			key = queueKey(key[:0], it.session, it.ref)
		}
		b.Delete(key)
	}
	r.st.commit(b, func(res store.Result) { r.flushed(p, items, res) })
}

// flushed takes in the outcome of a flush.
func (r *reaper) flushed(p uint8, items []reapItem, res store.Result) {
	r.st.metrics.outcome(res.Err)
	if res.Err == nil {
		r.bury(p, items)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l := &r.lists[p]
	l.busy = false
	switch {
	case res.Err == nil || errors.Is(res.Err, store.ErrClosed):
		r.left -= len(items)
		for i := range items {
			if !items[i].isMessage() {
				r.graves[r.parity] = append(r.graves[r.parity], items[i].ref.sequence())
			}
		}
		r.age()
	default: // deleting again does no harm
		l.items = append(l.items, items...)
		l.again = r.st.clock.Monotonic() + reapRetry
	}
	clear(items)
	if cap(items) <= 4*reapKeys {
		l.spare = items[:0]
	}
	if len(l.items) >= reapKeys && l.again == 0 {
		r.flush(p)
	}
	r.kick() // for those that have gathered, and for pass
}

func (r *reaper) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// bury draws the consequences of deletes that are durable.
func (r *reaper) bury(p uint8, items []reapItem) {
	entries := 0
	for i := range items {
		it := &items[i]
		if it.isMessage() {
			continue
		}
		entries++
		if it.ref.Message == 0 {
			continue
		}
		r.st.dropped(p, it.session.Realm, change{message: it.ref.message(), entry: it.ref.sequence()})
	}
	r.st.metrics.settled.Add(float64(entries))
}

// dropped applies durable changes of who refers to messages of a realm.
func (st *Store) dropped(p uint8, realm string, changes ...change) {
	if dead := st.refs.apply(p, changes, nil); len(dead) > 0 {
		st.reap.addMessages(p, realm, dead)
	}
}

// backlog is how many settled keys are not durably deleted.
func (r *reaper) backlog() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left
}

// pass submits everything that waits and waits for one round of outcomes. It
// reports whether to go on: whether something waits that did not fail.
func (r *reaper) pass() bool {
	r.flushAll(true)
	for r.busy() {
		<-r.wake
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.lists {
		if l := &r.lists[p]; len(l.items) > 0 && l.again == 0 {
			return true
		}
	}
	return false
}

func (r *reaper) busy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.lists {
		if r.lists[p].busy {
			return true
		}
	}
	return false
}
