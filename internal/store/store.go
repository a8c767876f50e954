// Package store is the one storage seam of Rollcall: ordered keys, atomic
// batches and snapshots of what is durable.
//
// Its promise: a batch is applied whole or not at all; it is durable (fsynced)
// before its outcome is reported; outcomes are reported in commit order; and no
// snapshot ever shows a batch that could still be lost. Applying a batch is
// deterministic: it reads only the keys that it requires, and every id, time
// and random number in it was chosen before it was submitted. That is what lets
// the same batches later travel through a replicated log.
//
// Nothing above this package may assume that a commit is quick or that it is
// the only writer.
package store

import (
	"context"
	"errors"
)

// Outcomes of a batch other than success. Compare with errors.Is.
var (
	// ErrConflict: a Require did not hold. Nothing was written; read again and
	// decide again.
	ErrConflict = errors.New("store: a required key has changed")
	// ErrFull: the disk or the configured limit has no room for work of this
	// class. Nothing was written; it may succeed when space returns.
	ErrFull = errors.New("store: full")
	// ErrUnknown: the engine cannot say whether the batch was applied. Ask
	// Outcome with the batch's id, or read the keys.
	ErrUnknown = errors.New("store: outcome unknown")
	// ErrClosed: the engine is closed. Nothing was written.
	ErrClosed = errors.New("store: closed")
	// ErrInvalid: the batch breaks a rule of this package (two partitions, a
	// key without partition, a malformed encoding). Nothing was written.
	ErrInvalid = errors.New("store: invalid batch")
	// ErrNotFound: the key does not exist in this snapshot.
	ErrNotFound = errors.New("store: key not found")
)

// Revision is the commit index of the batch that last wrote a key. Zero is the
// revision of a key that does not exist.
type Revision uint64

// Result is the outcome of one batch.
type Result struct {
	Index uint64 // commit index, from 1 rising; set only when Err is nil
	Err   error  // nil, or one of this package's errors
}

// Engine stores batches. All methods may be called concurrently.
type Engine interface {
	// Submit hands a batch over and returns without waiting for I/O. The
	// engine calls done exactly once, from a goroutine of its own (never from
	// within Submit, so the caller may hold a lock that done takes), in commit
	// order among batches that succeeded. By then a new Snapshot shows the
	// batch, or what it conflicted with. done must be quick and must not
	// block; it may call Submit. The batch belongs to the engine from the call
	// on. Batches are applied in the order of their Submit calls. Callers
	// bound how much they have in flight.
	Submit(b *Batch, done func(Result))

	// Snapshot returns a consistent view of what is durable now, without
	// waiting for I/O. The caller closes it, soon: an open snapshot holds back
	// the reclaiming of space. After Close its reads report ErrClosed.
	Snapshot() Snapshot

	// Outcome says what became of a recent batch: its Result, and whether the
	// engine remembers it. A batch is remembered from just before its done is
	// called; at least the last 65,536 are, within one process. A Result with
	// ErrUnknown is final: only reading the keys can tell.
	Outcome(ctx context.Context, id ID) (Result, bool, error)

	// Partitions is the number of partitions the store was made with.
	Partitions() int

	// Size estimates the bytes that keys in [lower, upper) take up, upper nil
	// meaning no bound. It may lag behind recent writes.
	Size(lower, upper []byte) (uint64, error)

	// Usage reports space taken and left.
	Usage() Usage

	// Close waits for submitted batches, reports their outcomes and releases
	// the engine. Snapshots are closed before. Later calls report ErrClosed;
	// closing again does nothing and returns the same.
	Close() error
}

// Usage is the space of an engine. Zero limits mean that there is none.
type Usage struct {
	Bytes     uint64 // taken by the store now
	Limit     uint64 // configured bound of Bytes
	FreeBytes uint64 // left on the file system
	// SpareBytes is how much of FreeBytes others may take before new work is
	// refused. Whoever writes beside the store to its file system keeps to it.
	SpareBytes uint64
	Full       bool // new work is refused with ErrFull
}

// Snapshot is a consistent, durable view. It may be used by several goroutines
// until it is closed.
type Snapshot interface {
	// Get returns the value of a key and the revision that wrote it, or
	// ErrNotFound and revision 0. The value is the caller's.
	Get(key []byte) ([]byte, Revision, error)

	// Iter returns an iterator over keys in [lower, upper), nil meaning no
	// bound. It stands before the first and, equally, after the last key. The
	// bounds must not change while it is open. The caller closes it before the
	// snapshot.
	Iter(lower, upper []byte) Iterator

	// Index is the commit index of the newest batch in view.
	Index() uint64

	Close()
}

// Iterator walks keys in ascending (Next) or descending (Prev) order. The
// first Next goes to the first key, the first Prev to the last. SeekGE goes to
// the first key in the bounds that is not below the given one. A Next or SeekGE
// that returned false stands after the last key, so that a Prev goes to the
// last; a Prev that returned false stands before the first, so that a Next goes
// there. All three return false on an error: ask Err at the end. Key, Value and
// Revision are for after a true, and valid until the next call. It is for one
// goroutine.
type Iterator interface {
	Next() bool
	Prev() bool
	SeekGE(key []byte) bool
	Key() []byte
	Value() []byte
	Revision() Revision
	Err() error
	Close() error
}

// Commit submits b and waits for its outcome. The context bounds the wait,
// never the batch: when it ends first, Commit returns ErrUnknown joined with
// the context's error and the batch may still be applied.
func Commit(ctx context.Context, e Engine, b *Batch) (uint64, error) {
	ch := make(chan Result, 1)
	e.Submit(b, func(r Result) { ch <- r })
	select {
	case r := <-ch:
		return r.Index, r.Err
	case <-ctx.Done():
		return 0, errors.Join(ErrUnknown, context.Cause(ctx))
	}
}

// Get reads one key from a snapshot of its own.
func Get(e Engine, key []byte) ([]byte, Revision, error) {
	s := e.Snapshot()
	defer s.Close()
	return s.Get(key)
}
