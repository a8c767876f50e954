package pebble_test

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

// copying is a file system that copies what is written over, as Btrfs and ZFS
// do: while it is full nothing can be written over, until a file is removed.
type copying struct {
	vfs.FS
	err  error // that of a full disk
	full atomic.Bool
	hits atomic.Int64
}

func (c *copying) Create(name string, w vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.Create(name, w)
	return &copyingFile{f, c}, err
}

func (c *copying) OpenReadWrite(name string, w vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.OpenReadWrite(name, w, opts...)
	return &copyingFile{f, c}, err
}

func (c *copying) Remove(name string) error {
	err := c.FS.Remove(name)
	if filepath.Base(name) == "BALLAST" && err == nil {
		c.full.Store(false)
	}
	return err
}

type copyingFile struct {
	vfs.File
	fs *copying
}

func (f *copyingFile) WriteAt(p []byte, at int64) (int, error) {
	if f.fs.full.Load() {
		f.fs.hits.Add(1)
		return 0, f.fs.err
	}
	return f.File.WriteAt(p, at)
}

// A full disk that the account of the store is the first to meet is met like
// any other: with the space that was set aside, not with the end.
func TestTheAccountMeetsAFullDisk(t *testing.T) {
	for _, err := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		t.Run(err.Error(), func(t *testing.T) {
			fs := &copying{FS: vfs.NewMem(), err: err}
			o := pebble.Options{
				FS: fs, Dir: "/s", LowWater: 2 << 20, Reserve: 1 << 20,
				FreeSpace: func() (uint64, error) { return 1 << 30, nil },
			}
			e := open(t, o)
			n := 0
			commit := func() {
				t.Helper()
				n++
				if _, err := store.Commit(t.Context(), e, putting(store.Reserve, fmt.Sprint(n), 100)); err != nil {
					t.Fatal(err)
				}
			}
			for _, err := fs.Stat("/s/BALLAST"); err != nil; _, err = fs.Stat("/s/BALLAST") {
				if commit(); n > 1000 {
					t.Fatal("no ballast")
				}
			}
			fs.full.Store(true)
			for range 100 {
				commit()
			}
			if fs.hits.Load() == 0 {
				t.Error("nothing was written over")
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			e = open(t, o)
			defer e.Close()
			for i := range n {
				if _, _, err := store.Get(e, recordKey(fmt.Sprint(i+1))); err != nil {
					t.Errorf("commit %d: %v", i+1, err)
				}
			}
		})
	}
}
