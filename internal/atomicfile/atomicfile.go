// Package atomicfile writes files that appear whole or not at all, and are
// there after a power cut when Write has returned: the content is synced before
// the name is given to it, and the directory after.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Write replaces the file name, or makes it, with data and mode, which the umask
// does not lessen. A reader sees the old content or the new; after an error
// nothing has changed, unless only the directory could not be synced. A symbolic
// link is replaced, not followed. It may be called concurrently: one of the
// contents stands.
func Write(name string, data []byte, mode fs.FileMode) error {
	dir, base := filepath.Split(name)
	if dir == "" {
		dir = "."
	}
	tmp, err := os.CreateTemp(dir, "."+base+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return SyncDir(dir)
}

// SyncDir makes what was done to the names in a directory durable.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" { // where directories cannot be synced
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
