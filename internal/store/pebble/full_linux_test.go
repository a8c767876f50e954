package pebble_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
	"rollcall/internal/store/storetest"
)

// P7 on a real file system of 64 MiB: filled by us, then to the last byte by
// somebody else, then with space again. Nothing accepted is lost, the engine
// does not fail, and the service resumes.
func TestSmallFileSystem(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=64m,mode=0700"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	o := pebble.Options{
		Dir: filepath.Join(mount, "store"), LowWater: 24 << 20, Reserve: 12 << 20,
		OnFatal: func(err error) { t.Errorf("fatal: %v", err) },
	}
	pebble.SetMemTableSize(&o, 1<<20)
	e := open(t, o)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	accepted := 0
	// fill commits until there is no room for the class.
	fill := func(c store.Class) {
		t.Helper()
		for refused := 0; refused < 20; {
			_, err := store.Commit(t.Context(), e, putting(c, fmt.Sprint(accepted), 100<<10))
			switch {
			case err == nil:
				accepted++
				refused = 0
			case errors.Is(err, store.ErrFull):
				refused++
			default:
				t.Fatal(err)
			}
			if accepted > 2000 {
				t.Fatal("no bound")
			}
		}
	}
	fill(store.Normal)
	normal := accepted
	fill(store.Reserve)
	if normal < 20 || accepted == normal {
		t.Errorf("accepted %d of normal work and %d more of the reserve", normal, accepted-normal)
	}
	hog, err := os.Create(filepath.Join(mount, "hog"))
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 64<<10)
	for err == nil {
		_, err = hog.Write(chunk)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	_ = hog.Close()
	fill(store.Reserve) // and lives
	if u := e.Usage(); !u.Full || u.FreeBytes > 13<<20 {
		t.Errorf("usage %+v", u)
	}
	t.Logf("accepted %d, %d of it normal work; usage %+v", accepted, normal, e.Usage())

	if err := e.Close(); err != nil { // a full disk can be left …
		t.Fatal(err)
	}
	e = open(t, o) // … and come back to
	fill(store.Reserve)
	if err := os.Remove(hog.Name()); err != nil {
		t.Fatal(err)
	}
	drop := store.NewBatch(store.Reserve)
	drop.DeleteRange(recordKey("0"), recordKey("5")) // those that begin with 0 to 4
	deadline := time.Now().Add(storetest.Patience)
	for dropped, resumed := false, false; !resumed; {
		if !dropped {
			_, err := store.Commit(t.Context(), e, drop)
			if dropped = err == nil; err != nil && !errors.Is(err, store.ErrFull) {
				t.Fatal(err)
			}
		} else {
			_, err := store.Commit(t.Context(), e, putting(store.Normal, "resumed", 100<<10))
			if resumed = err == nil; err != nil && !errors.Is(err, store.ErrFull) {
				t.Fatal(err)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the service did not resume: dropped %v, usage %+v", dropped, e.Usage())
		}
	}
	for i := range accepted {
		name := fmt.Sprint(i)
		v, _, err := store.Get(e, recordKey(name))
		if gone := name[0] < '5'; gone != errors.Is(err, store.ErrNotFound) || !gone && len(v) != 100<<10 {
			t.Errorf("accepted record %d: %d bytes, %v", i, len(v), err)
		}
	}
}
