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

// find looks whether the file is there from before, whole. One that was made
// with another size, or partly, is no use and is made anew.
func (b *ballast) find() {
	_ = b.fs.Remove(b.path() + ".new") // a making that was interrupted, or none
	info, err := b.fs.Stat(b.path())
	if err == nil {
		if n, known := allocated(info); known && n < b.size {
			_ = b.fs.Remove(b.path()) // if it stays, so does what it is worth
			err = fs.ErrNotExist
		}
	}
	b.present.Store(err == nil)
}

// probe reports whether n bytes could be allocated now.
func (b *ballast) probe(n uint64) bool {
	name := b.path() + ".new"
	f, err := quotaFS{b.fs}.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return false
	}
	err = f.Preallocate(0, int64(n))
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		err = fill(f, n)
	}
	return errors.Join(err, f.Close(), b.fs.Remove(name)) == nil
}

// set makes the file, whole or not at all.
func (b *ballast) set() error {
	name := b.path() + ".new"
	f, err := b.fs.Create(name, vfs.WriteCategoryUnspecified)
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
		return fmt.Errorf("set space aside: %w", errors.Join(err, b.fs.Remove(name)))
	}
	if err := errors.Join(b.fs.Rename(name, b.path()), syncDir(b.fs, b.dir)); err != nil {
		return fmt.Errorf("set space aside: %w", err)
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
