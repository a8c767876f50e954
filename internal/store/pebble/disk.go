package pebble

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/clock"
)

// disk is the file system as Pebble sees it. It counts what is written, keeps
// compactions from taking the last of the space, and is a fuse.
//
// Pebble ends the process when its log or its manifest cannot be written: in
// some places it asks its logger to, in others it panics with locks held in a
// way that cannot be recovered from. So it never learns. The first such error
// is reported to fail, and from then on whoever wants to write is parked until
// the process ends. That also keeps the background work from making it worse:
// after a failed sync nobody knows what is on disk. Errors while tables are
// written do reach Pebble, for these it survives: it tries again.
type disk struct {
	vfs.FS
	space   *space // nil while the store is being opened
	account *account
	fail    atomic.Pointer[func(error)] // nil while it is opened or closed: errors are returned

	written atomic.Uint64 // bytes
	tables  atomic.Uint64 // bytes of them that went to tables
	writing atomic.Int64  // operations under way
	blown   atomic.Bool
	quiet   chan struct{} // a blown fuse's last operation has ended
	log     *slog.Logger

	spares      spares
	starved     atomic.Bool // a file could not be opened for want of descriptors
	starvations atomic.Uint64
	trouble     atomic.Int64 // when a table could last not be written, monotonic nanoseconds; 0: never

	mu   sync.Mutex
	lock io.Closer
}

func newDisk(inner vfs.FS, log *slog.Logger) *disk {
	return &disk{FS: inner, quiet: make(chan struct{}, 1), log: log}
}

// arm makes failed writes end all writing and be reported to fail instead of
// to Pebble. Nil disarms.
func (d *disk) arm(fail func(error)) {
	if fail == nil {
		d.fail.Store(nil)
		return
	}
	d.fail.Store(&fail)
}

// blow ends all writing.
func (d *disk) blow() { d.blown.Store(true) }

// quietGrace is how long unlock waits for operations under way.
const quietGrace = 2 * time.Second

// unlock gives the directory up, once nothing writes to it any more.
func (d *disk) unlock(c clock.Clock) error {
	expired := make(chan struct{})
	defer c.AfterFunc(quietGrace, func() { close(expired) }).Stop()
	for d.blown.Load() && d.writing.Load() > 0 {
		select {
		case <-d.quiet:
		case <-expired:
			return errors.New("a write does not end; the directory stays locked until the process ends")
		}
	}
	d.mu.Lock()
	l := d.lock
	d.lock = nil
	d.mu.Unlock()
	if l == nil {
		return nil
	}
	return l.Close()
}

// change runs an operation that changes the disk, n being the bytes that it
// wrote. A vital one must not fail.
func (d *disk) change(vital bool, op func() (n int, err error)) (int, error) {
	d.writing.Add(1)
	if d.blown.Load() {
		d.ended()
		park()
	}
	n, err := op()
	d.written.Add(uint64(max(n, 0)))
	if !vital {
		d.tables.Add(uint64(max(n, 0)))
	}
	d.ended()
	if err == nil {
		return n, nil
	}
	fail := d.fail.Load()
	switch {
	case fail == nil:
	case vital:
		(*fail)(err)
		park()
	default:
		d.trouble.Store(int64(d.space.clock.Monotonic()))
	}
	return n, err
}

// ended follows every change.
func (d *disk) ended() {
	if d.writing.Add(-1) == 0 && d.blown.Load() {
		select {
		case d.quiet <- struct{}{}:
		default:
		}
	}
}

// park never returns.
func park() { select {} }

// The categories that Pebble creates tables in.
const (
	categoryCompaction = "pebble-compaction"
	categoryRewrite    = "pebble-blob-file-rewrite"
	categoryFlush      = "pebble-memtable-flush"
)

// retryPause slows down work that Pebble would try again at once.
const retryPause = 100 * time.Millisecond

// isTable reports whether files of the category are tables, which Pebble can
// fail to write and live.
func isTable(c vfs.DiskWriteCategory) bool {
	return c == categoryCompaction || c == categoryRewrite || c == categoryFlush
}

// admit decides whether a new file may be begun. The log, the manifest and the
// tables in memory always may: they are what the reserve is for. A compaction
// may not when little is left; Pebble tries it again later.
func (d *disk) admit(c vfs.DiskWriteCategory) error {
	if d.fail.Load() == nil || !isTable(c) {
		return nil
	}
	refuse := c != categoryFlush && !d.space.roomToCompact()
	trouble := d.trouble.Load()
	recent := trouble != 0 && int64(d.space.clock.Monotonic())-trouble < int64(time.Second)
	if refuse || recent {
		d.space.pause(retryPause)
	}
	if refuse {
		return syscall.ENOSPC
	}
	return nil
}

// Create implements vfs.FS.
func (d *disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.admit(c); err != nil {
		return nil, err
	}
	if err := d.order(name); err != nil {
		return nil, err
	}
	d.account.creating(name)
	return d.open(name, c, func() (vfs.File, error) { return d.FS.Create(name, c) })
}

// order precedes the creation and the removal of a marker: the file whose name
// says which manifest counts. Pebble makes the manifest and its marker, removes
// the marker before, and only then syncs the directory. A file system that does
// not keep the order of what happens in a directory may, when the power fails,
// be left with a marker without its manifest, or without a marker. So what came
// before is synced first. It is rare: a manifest lasts for megabytes.
func (d *disk) order(name string) error {
	if !strings.HasPrefix(d.FS.PathBase(name), "marker.") {
		return nil
	}
	_, err := d.change(true, func() (int, error) { return 0, syncDir(d.FS, d.FS.PathDir(name)) })
	return err
}

// OpenReadWrite implements vfs.FS.
func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.open(name, c, func() (vfs.File, error) { return d.FS.OpenReadWrite(name, c, opts...) })
}

// ReuseForWrite implements vfs.FS.
func (d *disk) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.removing(old); err != nil {
		return nil, err
	}
	d.account.creating(name)
	return d.open(name, c, func() (vfs.File, error) { return d.FS.ReuseForWrite(old, name, c) })
}

// removing precedes the removal of a file.
func (d *disk) removing(name string) error {
	if _, ok := logNumber(name); !ok {
		return nil
	}
	_, err := d.change(true, func() (int, error) { return 0, d.account.removing(name) })
	return err
}

func (d *disk) open(name string, c vfs.DiskWriteCategory, open func() (vfs.File, error)) (vfs.File, error) {
	vital := !isTable(c)
	var f vfs.File
	_, err := d.change(vital, func() (n int, err error) {
		f, err = d.opening(open)
		return 0, err
	})
	if err != nil {
		return nil, err
	}
	return &diskFile{File: f, d: d, name: name, vital: vital}, nil
}

// OpenDir implements vfs.FS.
func (d *disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.opening(func() (vfs.File, error) { return d.FS.OpenDir(name) })
	if err != nil {
		return nil, err
	}
	return &diskFile{File: f, d: d, vital: true}, nil
}

// Link implements vfs.FS.
func (d *disk) Link(old, name string) error {
	return d.try(func() error { return d.FS.Link(old, name) })
}

// Remove implements vfs.FS.
func (d *disk) Remove(name string) error {
	if err := d.order(name); err != nil {
		return err
	}
	if err := d.removing(name); err != nil {
		return err
	}
	return d.try(func() error { return d.FS.Remove(name) })
}

// RemoveAll implements vfs.FS.
func (d *disk) RemoveAll(name string) error {
	return d.try(func() error { return d.FS.RemoveAll(name) })
}

// Rename implements vfs.FS. Pebble renames what it cannot do without.
func (d *disk) Rename(old, name string) error {
	_, err := d.change(true, func() (int, error) { return 0, d.FS.Rename(old, name) })
	return err
}

// try runs a change without data that may fail.
func (d *disk) try(op func() error) error {
	_, err := d.change(false, func() (int, error) { return 0, op() })
	return err
}

// Lock implements vfs.FS. The lock is given up by unlock and not by Pebble.
func (d *disk) Lock(name string) (io.Closer, error) {
	l, err := d.FS.Lock(name)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.lock = l
	d.mu.Unlock()
	return io.NopCloser(nil), nil
}

// Unwrap implements vfs.FS.
func (d *disk) Unwrap() vfs.FS { return d.FS }

// diskFile is a file or directory being written.
type diskFile struct {
	vfs.File
	d     *disk
	name  string // empty for a directory
	vital bool

	written atomic.Uint64 // bytes
}

func (f *diskFile) Write(p []byte) (int, error) {
	return f.d.change(f.vital, func() (int, error) {
		n, err := f.File.Write(p)
		f.written.Add(uint64(max(n, 0)))
		return n, err
	})
}

func (f *diskFile) WriteAt(p []byte, at int64) (int, error) {
	return f.d.change(f.vital, func() (int, error) { return f.File.WriteAt(p, at) })
}

// Preallocate is an optimization whose failure Pebble ignores.
func (f *diskFile) Preallocate(at, n int64) error { return f.File.Preallocate(at, n) }

func (f *diskFile) Sync() error { return f.sync(f.File.Sync) }

func (f *diskFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *diskFile) SyncTo(n int64) (full bool, err error) {
	err = f.sync(func() error {
		full, err = f.File.SyncTo(n)
		return err
	})
	return full, err
}

func (f *diskFile) sync(op func() error) error {
	_, err := f.d.change(f.vital, func() (int, error) {
		size := f.written.Load()
		if err := op(); err != nil || f.name == "" || !f.vital {
			return 0, err
		}
		return 0, f.d.account.synced(f.name, size)
	})
	return err
}
