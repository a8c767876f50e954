package pebble

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// ballastName is a file whose only content is space. It is removed when the
// disk runs full all the same, because something else filled it: what is under
// way then still finds room.
const ballastName = "BALLAST"

// ballast is that file. It may be used concurrently.
type ballast struct {
	fs      vfs.FS
	dir     string
	size    uint64
	present atomic.Bool
}

// find looks whether the file is there from before.
func (b *ballast) find() {
	_, err := b.fs.Stat(b.path())
	b.present.Store(err == nil)
}

// set makes the file.
func (b *ballast) set() error {
	f, err := b.fs.Create(b.path(), vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("set space aside: %w", err)
	}
	err = f.Preallocate(0, int64(b.size))
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		err = fill(f, b.size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set space aside: %w", errors.Join(err, b.fs.Remove(b.path())))
	}
	b.present.Store(true)
	return nil
}

// release gives the space back and reports whether there was any.
func (b *ballast) release() bool {
	err := b.fs.Remove(b.path())
	b.present.Store(false)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

func (b *ballast) path() string { return b.fs.PathJoin(b.dir, ballastName) }

// fill is for file systems that cannot reserve space otherwise.
func fill(f vfs.File, n uint64) error {
	for n > 0 {
		chunk := make([]byte, min(n, 1<<16)) // fresh: Write may change it
		if _, err := f.Write(chunk); err != nil {
			return err
		}
		n -= uint64(len(chunk))
	}
	return nil
}
