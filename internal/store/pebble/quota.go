package pebble

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A disk quota is a full disk of which the file system says nothing: it reports
// what is free to all, and a write fails all the same. So the error is made the
// one of a full disk, at which the space that was set aside is given up; and what
// is left then is what there was set aside, whatever the file system says, until
// as much as the low-water mark asks for can be allocated again.

// quotaFS reports a quota that is used up as a full disk.
type quotaFS struct{ vfs.FS }

func asFull(err error) error {
	if errors.Is(err, syscall.EDQUOT) {
		return &fs.PathError{Op: "write within the disk quota to", Path: "the store", Err: syscall.ENOSPC}
	}
	return err
}

func full[T any](v T, err error) (T, error) { return v, asFull(err) }

func asQuotaFile(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, asFull(err)
	}
	return &quotaFile{f}, nil
}

// Create implements vfs.FS.
func (q quotaFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return asQuotaFile(q.FS.Create(name, c))
}

// OpenReadWrite implements vfs.FS.
func (q quotaFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return asQuotaFile(q.FS.OpenReadWrite(name, c, opts...))
}

// ReuseForWrite implements vfs.FS.
func (q quotaFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return asQuotaFile(q.FS.ReuseForWrite(old, name, c))
}

// OpenDir implements vfs.FS.
func (q quotaFS) OpenDir(name string) (vfs.File, error) { return asQuotaFile(q.FS.OpenDir(name)) }

// Link implements vfs.FS.
func (q quotaFS) Link(old, name string) error { return asFull(q.FS.Link(old, name)) }

// Rename implements vfs.FS.
func (q quotaFS) Rename(old, name string) error { return asFull(q.FS.Rename(old, name)) }

// Unwrap implements vfs.FS.
func (q quotaFS) Unwrap() vfs.FS { return q.FS }

type quotaFile struct{ vfs.File }

func (f *quotaFile) Write(p []byte) (int, error)             { return full(f.File.Write(p)) }
func (f *quotaFile) WriteAt(p []byte, at int64) (int, error) { return full(f.File.WriteAt(p, at)) }
func (f *quotaFile) Preallocate(at, n int64) error           { return asFull(f.File.Preallocate(at, n)) }
func (f *quotaFile) Sync() error                             { return asFull(f.File.Sync()) }
func (f *quotaFile) SyncData() error                         { return asFull(f.File.SyncData()) }
func (f *quotaFile) SyncTo(n int64) (bool, error)            { return full(f.File.SyncTo(n)) }
