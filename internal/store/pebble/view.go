package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	pebbledb "github.com/cockroachdb/pebble/v2"

	"rollcall/internal/store"
)

// Pebble shows a batch to readers as soon as it is in memory, before its log
// record is synced. So no reader of ours ever asks Pebble for its present
// state. The committer takes a Pebble snapshot right after each group, before
// the next; it is kept back until the group's sync is done and then published
// as the view that Snapshot hands out. One group is followed by at most one
// other before it is published, so there are three snapshots of ours at a
// time, plus those that readers hold. A snapshot costs a lock and a list
// element, which is small beside a group's sync; making it on demand instead
// would have to wait for the sync under way.

// views holds the published view and counts who uses one.
type views struct {
	mu      sync.Mutex
	current *view // nil once closed
	users   int
	idle    chan struct{} // closed when closed and without users

	// cuts are the spans that were taken out of the store and put back without
	// what was damaged. A view from before one would show a hole in it.
	cuts     []cut // guarded by mu
	cutCount atomic.Int64

	// frozen means that the engine has failed: snapshots are not given back,
	// for a parked goroutine may hold the lock that this takes.
	frozen atomic.Bool
}

type cut struct{ lower, upper []byte }

// noteCut makes reads of a span fail in all views that there are, which is done
// before it is cut.
func (vs *views) noteCut(lower, upper []byte) {
	vs.mu.Lock()
	vs.cuts = append(vs.cuts, cut{lower, upper})
	vs.mu.Unlock()
	vs.cutCount.Add(1)
}

var errCut = fmt.Errorf("%w: a damaged part was set aside since; read again", store.ErrDamaged)

// hole returns an error if v is from before a cut of keys in [lower, upper). It
// is asked after Pebble's state of the moment has been taken.
func (vs *views) hole(v *view, lower, upper []byte) error {
	n := vs.cutCount.Load()
	if n == v.cuts {
		return nil
	}
	vs.mu.Lock()
	defer vs.mu.Unlock()
	for _, c := range vs.cuts[v.cuts:] {
		if (upper == nil || bytes.Compare(c.lower, upper) < 0) && (c.upper == nil || bytes.Compare(lower, c.upper) < 0) {
			return errCut
		}
	}
	return nil
}

// view is a Pebble snapshot of which everything is durable.
type view struct {
	snap  *pebbledb.Snapshot
	index uint64
	cuts  int64 // that it is from after
	refs  int   // of views.current and of users; guarded by views.mu
}

// publish makes a view the current one.
func (vs *views) publish(v *view) {
	v.refs = 1
	vs.mu.Lock()
	old := vs.current
	vs.current = v
	last := old != nil && old.unref()
	vs.mu.Unlock()
	if last {
		vs.drop(old)
	}
}

func (vs *views) drop(v *view) {
	if !vs.frozen.Load() {
		_ = v.snap.Close() // it has no errors
	}
}

// acquire returns the current view, or nil if the engine is closed.
func (vs *views) acquire() *view {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if vs.current != nil {
		vs.current.refs++
		vs.users++
	}
	return vs.current
}

// release gives back what acquire returned.
func (vs *views) release(v *view) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if v.unref() {
		vs.mu.Unlock()
		vs.drop(v)
		vs.mu.Lock()
	}
	// Only now may the engine be closed. There is one last user after
	// closing, for nobody becomes one any more.
	vs.users--
	if vs.current == nil && vs.users == 0 {
		close(vs.idle)
	}
}

func (v *view) unref() bool {
	v.refs--
	return v.refs == 0
}

// snapshot is one reader's hold on a view. It implements store.Snapshot.
type snapshot struct {
	views  *views
	view   *view // nil if the engine was closed
	closed atomic.Bool
}

var errSnapshotClosed = fmt.Errorf("%w: this snapshot is", store.ErrClosed)

func (s *snapshot) err() error {
	switch {
	case s.view == nil:
		return store.ErrClosed
	case s.closed.Load():
		return errSnapshotClosed
	}
	return nil
}

func (s *snapshot) Index() uint64 {
	if s.view == nil {
		return 0
	}
	return s.view.index
}

// Close is idempotent.
func (s *snapshot) Close() {
	if s.view != nil && !s.closed.Swap(true) {
		s.views.release(s.view)
	}
}

func (s *snapshot) Get(key []byte) ([]byte, store.Revision, error) {
	if err := s.err(); err != nil {
		return nil, 0, err
	}
	if bytes.Compare(key, firstKey) < 0 {
		return nil, 0, store.ErrNotFound
	}
	stored, closer, err := s.view.snap.Get(key)
	if err == nil {
		defer closer.Close()
	}
	if err == nil || errors.Is(err, pebbledb.ErrNotFound) {
		if hole := s.views.hole(s.view, key, append(bytes.Clone(key), 0)); hole != nil {
			return nil, 0, hole
		}
	}
	if errors.Is(err, pebbledb.ErrNotFound) {
		return nil, 0, store.ErrNotFound
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read a key: %w", damaged(err))
	}
	rev, value, err := splitValue(stored)
	return bytes.Clone(value), rev, err
}

func (s *snapshot) Iter(lower, upper []byte) store.Iterator {
	if err := s.err(); err != nil {
		return &iterator{err: err}
	}
	if bytes.Compare(lower, firstKey) < 0 {
		lower = firstKey
	}
	if upper != nil && bytes.Compare(lower, upper) >= 0 {
		return &iterator{} // empty
	}
	it, err := s.view.snap.NewIter(&pebbledb.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return &iterator{err: fmt.Errorf("read a range: %w", damaged(err))}
	}
	if hole := s.views.hole(s.view, lower, upper); hole != nil {
		return &iterator{err: errors.Join(hole, it.Close())}
	}
	return &iterator{it: it}
}

// damaged marks what Pebble calls a corruption as store.ErrDamaged, and what the
// disk did not answer as itself.
func damaged(err error) error {
	if err != nil && pebbledb.IsCorruptionError(err) {
		return fmt.Errorf("%w: %w", store.ErrDamaged, err)
	}
	return err
}

// iterator implements store.Iterator. Without a Pebble iterator it is empty.
type iterator struct {
	it     *pebbledb.Iterator
	placed bool
	value  []byte
	rev    store.Revision
	err    error
}

func (i *iterator) Next() bool {
	switch {
	case i.it == nil || i.err != nil:
		return false
	case i.placed:
		return i.load(i.it.Next())
	}
	i.placed = true
	return i.load(i.it.First())
}

func (i *iterator) Prev() bool {
	switch {
	case i.it == nil || i.err != nil:
		return false
	case i.placed:
		return i.load(i.it.Prev())
	}
	i.placed = true
	return i.load(i.it.Last())
}

func (i *iterator) SeekGE(key []byte) bool {
	if i.it == nil || i.err != nil {
		return false
	}
	i.placed = true
	return i.load(i.it.SeekGE(key))
}

func (i *iterator) load(ok bool) bool {
	i.value, i.rev = nil, 0
	if !ok {
		return false
	}
	stored, err := i.it.ValueAndErr()
	if err == nil {
		i.rev, i.value, err = splitValue(stored)
	}
	if err != nil {
		i.err = fmt.Errorf("read a range: %w", damaged(err))
	}
	return err == nil
}

func (i *iterator) Key() []byte              { return i.it.Key() }
func (i *iterator) Value() []byte            { return i.value }
func (i *iterator) Revision() store.Revision { return i.rev }

func (i *iterator) Err() error {
	if i.err != nil || i.it == nil {
		return i.err
	}
	return damaged(i.it.Error())
}

func (i *iterator) Close() error {
	if i.it == nil {
		return i.err
	}
	it := i.it
	i.it = nil
	return errors.Join(i.err, damaged(it.Close()))
}

// revisionLen is the length of the revision that precedes each stored value.
const revisionLen = 8

// firstKey is the first key that is not the engine's own.
var firstKey = []byte{store.Config, byte(store.TableEngine) + 1}

// indexKey holds the commit index, written with every group.
var indexKey = []byte{store.Config, byte(store.TableEngine), 'i'}

func splitValue(stored []byte) (store.Revision, []byte, error) {
	if len(stored) < revisionLen {
		return 0, nil, fmt.Errorf("%w: a value of %d bytes has no revision", store.ErrDamaged, len(stored))
	}
	return store.Revision(binary.BigEndian.Uint64(stored)), stored[revisionLen:], nil
}

// lastKey is above every key of a size that occurs.
var lastKey = slices.Repeat([]byte{0xFF}, 1<<10)
