package pebble_test

import (
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// faultFS is errorfs.FS with faults also in files that are used again, as logs
// are: errorfs lets these go without.
type faultFS struct {
	*errorfs.FS
	inject errorfs.InjectorFunc
}

// newFaultFS calls inject before each operation on fs, which fails with the
// error that it returns.
func newFaultFS(fs vfs.FS, inject func(errorfs.Op) error) vfs.FS {
	return &faultFS{errorfs.Wrap(fs, errorfs.InjectorFunc(inject)), inject}
}

func (fs *faultFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(old, name, c)
	if err != nil {
		return nil, err
	}
	return &faultFile{f, name, fs.inject}, nil
}

type faultFile struct {
	vfs.File
	name   string
	inject errorfs.InjectorFunc
}

func (f *faultFile) Write(p []byte) (int, error) {
	if err := f.inject(errorfs.Op{Kind: errorfs.OpFileWrite, Path: f.name}); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *faultFile) Sync() error {
	if err := f.inject(errorfs.Op{Kind: errorfs.OpFileSync, Path: f.name}); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultFile) SyncData() error {
	if err := f.inject(errorfs.Op{Kind: errorfs.OpFileSyncData, Path: f.name}); err != nil {
		return err
	}
	return f.File.SyncData()
}
