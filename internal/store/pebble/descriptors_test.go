package pebble_test

import (
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
	"rollcall/internal/store/storetest"
)

// Without file descriptors the store waits, whatever it wanted to open: it does
// not fail, and goes on when there are some again.
func TestOutOfDescriptorsIsWaitedOut(t *testing.T) {
	for _, ext := range []string{".log", ".sst"} {
		var armed atomic.Bool
		fs := newFaultFS(vfs.NewMem(), func(op errorfs.Op) error {
			opens := op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpOpen || op.Kind == errorfs.OpReuseForWrite
			if armed.Load() && opens && strings.HasSuffix(op.Path, ext) {
				return &os.PathError{Op: "open", Path: op.Path, Err: syscall.EMFILE}
			}
			return nil
		})
		o := small(fs)
		o.OnFatal = func(err error) { t.Errorf("%s: fatal: %v", ext, err) }
		e, err := pebble.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		armed.Store(true)
		w, m := storetest.NewWorkload(1, 500), storetest.NewModel()
		const n = 2000
		results := make(chan store.Result, n)
		for range n {
			b := w.Next(m)
			m.Apply(b)
			e.Submit(b, func(r store.Result) { results <- r })
		}
		deadline := time.After(storetest.Patience)
		for e.Stats().Starved < 3 {
			select {
			case <-deadline:
				t.Fatalf("%s: nothing had to wait", ext)
			case <-time.After(time.Millisecond):
			}
		}
		armed.Store(false)
		for range n {
			select {
			case <-results:
			case <-deadline:
				t.Fatalf("%s: it does not go on", ext)
			}
		}
		s := e.Snapshot()
		if err := m.Compare(s); err != nil {
			t.Errorf("%s: %v", ext, err)
		}
		s.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}
