package pebble_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

// P2: while the log is being synced, readers go on and see nothing of it, the
// state that the next group is judged by included; and nobody is told.
func TestReadersSeeOnlyWhatIsSynced(t *testing.T) {
	var armed atomic.Bool
	gate, syncing := make(chan struct{}), make(chan struct{}, 100)
	fs := newFaultFS(vfs.NewMem(), func(op errorfs.Op) error {
		if armed.Load() && isFile(op, ".log") && isSync(op) {
			syncing <- struct{}{}
			<-gate
		}
		return nil
	})
	e := open(t, pebble.Options{FS: fs, Dir: "/s"})
	defer e.Close()
	before, err := store.Commit(t.Context(), e, putting(store.Normal, "before", 10))
	if err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	results := make(chan store.Result, 100)
	done := func(r store.Result) { results <- r }
	e.Submit(putting(store.Normal, "a", 10), done)
	<-syncing
	// The second group is in memory before the first is on disk.
	conflict := putting(store.Normal, "b", 10)
	conflict.Require(recordKey("a"), 0)
	e.Submit(conflict, done)
	e.Submit(putting(store.Normal, "c", 10), done)
	for range 1000 {
		s := e.Snapshot()
		it := s.Iter(nil, nil)
		n := 0
		for it.Next() {
			n++
		}
		if s.Index() != before || n != 1 || it.Err() != nil || it.Close() != nil {
			t.Fatalf("index %d with %d keys is shown, %d is durable", s.Index(), n, before)
		}
		s.Close()
	}
	if r, ok, err := e.Outcome(t.Context(), conflict.ID()); ok || err != nil || len(results) > 0 {
		t.Errorf("told %+v, %v, %d results before anything is durable", r, err, len(results))
	}
	close(gate)
	var got []string
	for range 3 {
		got = append(got, fmt.Sprint(<-results))
	}
	want := []string{
		fmt.Sprint(store.Result{Index: before + 1}),
		fmt.Sprint(store.Result{Err: store.ErrConflict}),
		fmt.Sprint(store.Result{Index: before + 2}),
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
