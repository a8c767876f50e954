package pebble_test

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/pebble"
	"rollcall/internal/store/storetest"
)

// logTo logs what an operator would see to the test.
func logTo(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// open opens an engine or fails the test.
func open(t testing.TB, o pebble.Options) *pebble.Engine {
	t.Helper()
	if o.Log == nil {
		o.Log = logTo(t)
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "store")
	}
	e, err := pebble.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestSuite(t *testing.T) {
	t.Run("Disk", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) store.Engine { return open(t, pebble.Options{}) })
	})
	t.Run("Memory", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) store.Engine {
			return open(t, pebble.Options{FS: vfs.NewMem(), Dir: "/data/store"})
		})
	})
	t.Run("SmallTables", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) store.Engine {
			o := pebble.Options{FS: vfs.NewMem(), Dir: "/data/store"}
			pebble.SetMemTableSize(&o, 64<<10)
			return open(t, o)
		})
	})
	t.Run("Delayed", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) store.Engine {
			return delay.New(open(t, pebble.Options{FS: vfs.NewMem(), Dir: "/s"}), delay.Options{Seed: 1})
		})
	})
}
