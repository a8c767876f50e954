//go:build unix

package pebble_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

// quotaDisk is a file system that has a quota and does not show it.
type quotaDisk struct {
	vfs.FS
	mu    sync.Mutex
	left  int64
	next  atomic.Int64
	ahead map[string]int64 // allocated and not written, by file
}

func (d *quotaDisk) take(n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left < n {
		return &os.PathError{Op: "write", Path: "/s", Err: syscall.EDQUOT}
	}
	d.left -= n
	return nil
}

func (d *quotaDisk) give(n int64) {
	d.mu.Lock()
	d.left += n
	d.mu.Unlock()
}

func (d *quotaDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return &quotaDiskFile{f, d, name}, err
}

func (d *quotaDisk) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(old, name, c)
	return &quotaDiskFile{f, d, name}, err
}

func (d *quotaDisk) Rename(old, name string) error {
	d.mu.Lock()
	d.ahead[name], d.ahead[old] = d.ahead[old], 0
	d.mu.Unlock()
	return d.FS.Rename(old, name)
}

func (d *quotaDisk) Remove(name string) error {
	d.mu.Lock()
	d.left += d.ahead[name]
	d.ahead[name] = 0
	d.mu.Unlock()
	return d.FS.Remove(name)
}

type quotaDiskFile struct {
	vfs.File
	d    *quotaDisk
	name string
}

func (f *quotaDiskFile) Write(p []byte) (int, error) {
	if err := f.d.take(int64(len(p))); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *quotaDiskFile) Preallocate(at, n int64) error {
	if !strings.Contains(f.name, "BALLAST") {
		return nil
	}
	if err := f.d.take(n); err != nil {
		return err
	}
	f.d.mu.Lock()
	f.d.ahead[f.name] += n
	f.d.mu.Unlock()
	return nil
}

// P7: a disk quota that the file system does not show is met like a full disk:
// new work is refused, the reserve is there for the rest, nothing ends, and work
// goes on when the quota has room.
func TestAQuotaThatTheFileSystemDoesNotShow(t *testing.T) {
	d := &quotaDisk{FS: vfs.NewMem(), left: 24 << 20, ahead: make(map[string]int64)}
	c := new(handClock)
	fatal := make(chan error, 1)
	e := open(t, pebble.Options{
		FS: d, Dir: "/s", Clock: c, LowWater: 32 << 20, Reserve: 16 << 20,
		FreeSpace: func() (uint64, error) { return 1 << 40, nil },
		OnFatal:   func(err error) { fatal <- err },
	})
	write := func(class store.Class) error {
		c.advance(time.Second)
		_, err := store.Commit(t.Context(), e, putting(class, fmt.Sprint(d.next.Add(1)), 64<<10))
		return err
	}
	var err error
	for n := 0; n < 5000 && err == nil; n++ {
		err = write(store.Normal)
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("at the quota: %v", err)
	}
	if !e.Usage().Full {
		t.Error("usage does not say that it is full")
	}
	for n := range 5 {
		if err := write(store.Reserve); err != nil {
			t.Errorf("the reserve is not there for disconnect %d: %v", n, err)
		}
	}
	if err := write(store.Normal); !errors.Is(err, store.ErrFull) {
		t.Errorf("still at the quota: %v", err)
	}
	d.give(200 << 20)
	for n := 0; n < 20; n++ {
		if err = write(store.Normal); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("with room again: %v", err)
	}
	select {
	case err := <-fatal:
		t.Errorf("it failed: %v", err)
	default:
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// What is left of a ballast whose making was interrupted, or one that is
// smaller than it should be, is not taken for one.
func TestAPartialBallastIsMadeAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	o := pebble.Options{Dir: dir, LowWater: 2 << 20, Reserve: 1 << 20} // a ballast of 256 KiB
	once := func() {
		e := open(t, o)
		if _, err := store.Commit(t.Context(), e, putting(store.Normal, "k", 10)); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	once()
	name := filepath.Join(dir, "BALLAST")
	for _, part := range []string{name, name + ".new"} {
		if err := os.WriteFile(part, make([]byte, 5000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	once()
	st, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Sys().(*syscall.Stat_t).Blocks * 512; got < 256<<10 {
		t.Errorf("the ballast takes %d bytes", got)
	}
	if _, err := os.Stat(name + ".new"); !os.IsNotExist(err) {
		t.Errorf("the interrupted one is still there: %v", err)
	}
}
