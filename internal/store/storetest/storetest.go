// Package storetest is the suite that every store.Engine passes, and the model
// and workload that tests of durability are made from.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"rollcall/internal/store"
)

// Patience bounds how long a test waits for something that must happen.
const Patience = 30 * time.Second

// Run runs the suite. Open returns an empty engine with
// store.DefaultPartitions partitions, which the suite closes.
func Run(t *testing.T, open func(t *testing.T) store.Engine) {
	tests := []struct {
		name string
		f    func(*testing.T, store.Engine)
	}{
		{"PutGetDelete", testPutGetDelete},
		{"Revisions", testRevisions},
		{"RequireIsJudgedFirst", testRequireIsJudgedFirst},
		{"OperationsInOrder", testOperationsInOrder},
		{"Sequenced", testSequenced},
		{"DeleteRange", testDeleteRange},
		{"EmptyBatch", testEmptyBatch},
		{"LargeBatch", testLargeBatch},
		{"Invalid", testInvalid},
		{"Iterator", testIterator},
		{"IteratorAgainstModel", testIteratorAgainstModel},
		{"SnapshotStaysAsItIs", testSnapshotStaysAsItIs},
		{"RandomAgainstModel", testRandomAgainstModel},
		{"DoneInCommitOrder", testDoneInCommitOrder},
		{"DoneIsNotCalledFromSubmit", testDoneIsNotCalledFromSubmit},
		{"DoneMaySubmit", testDoneMaySubmit},
		{"VisibleWhenDone", testVisibleWhenDone},
		{"OneOfManyWins", testOneOfManyWins},
		{"CountersUnderContention", testCountersUnderContention},
		{"ReadersSeeWholeBatches", testReadersSeeWholeBatches},
		{"Outcome", testOutcome},
		{"CommitGivesUpWaiting", testCommitGivesUpWaiting},
		{"Size", testSize},
		{"Close", testClose},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := open(t)
			t.Cleanup(func() {
				if err := e.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			test.f(t, e)
		})
	}
}

// key is a key of partition p.
func key(p uint8, name string) []byte {
	return store.AppendKey(nil, p, store.TableResource, name)
}

// batch returns a batch made by f.
func batch(f func(*store.Batch)) *store.Batch {
	b := store.NewBatch(store.Normal)
	f(b)
	return b
}

// commit commits what f makes, which must succeed, and returns the index.
func commit(t *testing.T, e store.Engine, f func(*store.Batch)) uint64 {
	t.Helper()
	index, err := try(e, f)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return index
}

// try commits what f makes.
func try(e store.Engine, f func(*store.Batch)) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return store.Commit(ctx, e, batch(f))
}

// wantValue checks a key's value and revision.
func wantValue(t *testing.T, e store.Engine, k []byte, value string, rev uint64) {
	t.Helper()
	v, r, err := store.Get(e, k)
	if err != nil || string(v) != value || uint64(r) != rev {
		t.Errorf("get %x: got %q, revision %d, error %v; want %q, revision %d", k, v, r, err, value, rev)
	}
}

// wantAbsent checks that a key does not exist.
func wantAbsent(t *testing.T, e store.Engine, k []byte) {
	t.Helper()
	if v, r, err := store.Get(e, k); !errors.Is(err, store.ErrNotFound) || r != 0 {
		t.Errorf("get %x: got %q, revision %d, error %v; want it not to exist", k, v, r, err)
	}
}

// collect waits for n results.
func collect(t *testing.T, ch <-chan store.Result, n int) []store.Result {
	t.Helper()
	timeout := time.After(Patience)
	var all []store.Result
	for range n {
		select {
		case r := <-ch:
			all = append(all, r)
		case <-timeout:
			t.Fatalf("%d of %d outcomes were reported", len(all), n)
		}
	}
	return all
}

// keysIn lists the keys in a range of a snapshot, with values.
func keysIn(t *testing.T, s store.Snapshot, lower, upper []byte) []string {
	t.Helper()
	it := s.Iter(lower, upper)
	var all []string
	for it.Next() {
		all = append(all, fmt.Sprintf("%x=%s", it.Key(), it.Value()))
	}
	if err := errors.Join(it.Err(), it.Close()); err != nil {
		t.Fatalf("iterate: %v", err)
	}
	return all
}
