package pebble_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
	"rollcall/internal/store/storetest"
)

var errDisk = errors.New("the disk is broken")

// breakAt returns a file system on which the n-th operation that matches fails
// and all later ones too, once it is armed.
func breakAt(fs vfs.FS, n int64, match func(errorfs.Op) bool) (vfs.FS, *atomic.Bool) {
	var armed atomic.Bool
	var seen atomic.Int64
	return newFaultFS(fs, func(op errorfs.Op) error {
		if armed.Load() && match(op) && seen.Add(1) >= n {
			return errDisk
		}
		return nil
	}), &armed
}

func isFile(op errorfs.Op, ext string) bool { return filepath.Ext(op.Path) == ext }

func isWrite(op errorfs.Op) bool { return op.Kind.ReadOrWrite() == errorfs.OpIsWrite }

func isSync(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
}

// P2: when the log or the manifest cannot be written, the engine fails for
// good: everybody gets an outcome, what was acknowledged stays readable, nothing
// else is shown, the process lives to say why, and after a restart all that was
// acknowledged is there.
func TestFailure(t *testing.T) {
	tests := []struct {
		name  string
		match func(errorfs.Op) bool
	}{
		{"LogSync", func(op errorfs.Op) bool { return isFile(op, ".log") && isSync(op) }},
		{"LogWrite", func(op errorfs.Op) bool { return isFile(op, ".log") && op.Kind == errorfs.OpFileWrite }},
		{"LogCreate", func(op errorfs.Op) bool {
			return isFile(op, ".log") && (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpReuseForWrite)
		}},
		{"Manifest", func(op errorfs.Op) bool { return strings.Contains(op.Path, "MANIFEST") && isWrite(op) }},
		{"Directory", func(op errorfs.Op) bool { return strings.HasSuffix(op.Path, "/store") && isSync(op) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for round := range 6 {
				testFailure(t, uint64(round), test.match)
			}
		})
	}
}

func testFailure(t *testing.T, round uint64, match func(errorfs.Op) bool) {
	random := rand.New(rand.NewPCG(round, 9))
	mem := vfs.NewMem()
	fs, armed := breakAt(mem, 1+random.Int64N(1+int64(round)*4), match)
	fatal := make(chan error, 10)
	o := small(fs)
	o.OnFatal = func(err error) { fatal <- err }
	e, err := pebble.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	armed.Store(true)

	var mu sync.Mutex
	var acked uint64
	outcomes, submitted := 0, 0
	wrong := ""
	w, m := storetest.NewWorkload(round, 500), storetest.NewModel()
	slots := make(chan struct{}, 32)
	var failure error
	for deadline := time.After(storetest.Patience); failure == nil; {
		select {
		case failure = <-fatal:
			continue
		case <-deadline:
			t.Fatal("the engine did not fail")
		case slots <- struct{}{}:
		}
		b := w.Next(m)
		m.Apply(b)
		submitted++
		e.Submit(b, func(r store.Result) {
			s := e.Snapshot() // still served
			index := s.Index()
			s.Close()
			mu.Lock()
			defer mu.Unlock()
			outcomes++
			switch {
			case r.Err == nil:
				acked = r.Index
			case errors.Is(r.Err, store.ErrConflict):
			case errors.Is(r.Err, store.ErrUnknown), errors.Is(r.Err, store.ErrClosed):
				if !errors.Is(r.Err, errDisk) {
					wrong = fmt.Sprintf("the outcome does not tell the cause: %v", r.Err)
				}
			default:
				wrong = fmt.Sprintf("outcome: %v", r.Err)
			}
			if index < acked {
				wrong = fmt.Sprintf("index %d was acknowledged and %d is shown", acked, index)
			}
			<-slots
		})
	}
	if !errors.Is(failure, errDisk) {
		t.Errorf("fatal: %v", failure)
	}
	late := make(chan store.Result, 1)
	e.Submit(store.NewBatch(store.Normal), func(r store.Result) { late <- r })
	if r := <-late; !errors.Is(r.Err, store.ErrClosed) {
		t.Errorf("submit after the failure: %v", r.Err)
	}
	start := time.Now()
	if err := e.Close(); !errors.Is(err, errDisk) {
		t.Errorf("close: %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("close took %v", took)
	}
	if len(fatal) > 0 {
		t.Error("the failure was reported again")
	}
	for len(slots) > 0 { // every done gives one back; Close has waited for them
		t.Fatalf("%d of %d batches have no outcome", len(slots), submitted)
	}
	mu.Lock()
	defer mu.Unlock()
	if wrong != "" || outcomes != submitted {
		t.Errorf("%d outcomes of %d batches: %s", outcomes, submitted, wrong)
	}

	again, err := pebble.Open(small(mem)) // the disk has been repaired
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := verify(again, storetest.NewModel(), storetest.NewWorkload(round, 500), acked); err != nil {
		t.Error(err)
	}
}

// Tables that cannot be written for a while are no failure.
func TestTablesFailForAWhile(t *testing.T) {
	fs, armed := breakAt(vfs.NewMem(), 1, func(op errorfs.Op) bool { return isFile(op, ".sst") && isWrite(op) })
	o := small(fs)
	o.OnFatal = func(err error) { t.Errorf("fatal: %v", err) }
	e, err := pebble.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	w, m := storetest.NewWorkload(1, 500), storetest.NewModel()
	work := func(n int) <-chan store.Result {
		ch := make(chan store.Result, n)
		for range n {
			b := w.Next(m)
			m.Apply(b)
			e.Submit(b, func(r store.Result) { ch <- r })
		}
		return ch
	}
	// How much fills all tables in memory depends on how commits are grouped: go
	// on until one has to wait.
	under := []<-chan store.Result{work(2000)}
	stalled := time.After(storetest.Patience)
	for e.Stats().Stalls == 0 {
		select {
		case <-stalled:
			t.Fatal("commits never had to wait")
		case <-time.After(time.Millisecond):
			under = append(under, work(20))
		}
	}
	armed.Store(false)
	under = append(under, work(500))
	for _, ch := range under {
		for range cap(ch) {
			<-ch
		}
	}
	s := e.Snapshot()
	if err := m.Compare(s); err != nil {
		t.Error(err)
	}
	s.Close()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// An error while the store is opened is an error of Open, wherever it is.
func TestOpenFails(t *testing.T) {
	failed := 0
	for n := int64(1); n < 40; n++ {
		mem := vfs.NewMem()
		fs, armed := breakAt(mem, n, isWrite)
		armed.Store(true)
		e, err := pebble.Open(small(fs))
		armed.Store(false)
		if err == nil {
			_ = e.Close()
			continue
		}
		failed++
		if e, err = pebble.Open(small(mem)); err != nil {
			t.Fatalf("after a failure at operation %d: %v", n, err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if failed < 10 {
		t.Errorf("opening failed %d times only", failed)
	}
}

// A batch whose sync failed may be on disk all the same: to say that nothing
// was written would be wrong, and here it is.
func TestAFailedSyncLeavesTheOutcomeUnknown(t *testing.T) {
	mem := vfs.NewCrashableMem()
	fs, armed := breakAt(mem, 1, func(op errorfs.Op) bool { return isFile(op, ".log") && isSync(op) })
	o := small(fs)
	fatal := make(chan error, 1)
	o.OnFatal = func(err error) { fatal <- err }
	e, err := pebble.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	b := putting(store.Normal, "k", 10)
	if _, err := store.Commit(t.Context(), e, b); !errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrClosed) {
		t.Errorf("outcome: %v", err)
	}
	if r, ok, err := e.Outcome(t.Context(), b.ID()); err != nil || !ok || !errors.Is(r.Err, store.ErrUnknown) {
		t.Errorf("asked again: %+v, %v, %v", r, ok, err)
	}
	<-fatal
	if err := e.Close(); !errors.Is(err, errDisk) {
		t.Errorf("close: %v", err)
	}
	kept := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	again, err := pebble.Open(small(kept))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, _, err := store.Get(again, recordKey("k")); err != nil {
		t.Errorf("it was written: %v", err)
	}
}
