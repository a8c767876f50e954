package pebble

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// formatVersion is the version of everything on disk that is ours: the meaning
// of keys, of the revision before each value, and of the engine's own table.
const formatVersion = 1

// formatName is the file that says what a directory holds. It is read before
// anything is written, so that a store of another version is left as it was,
// and it is written last when a store is made, so that a directory with it has
// everything else.
const formatName = "FORMAT"

const formatLine = "rollcall store, format %d, %d partitions\n"

// format is the content of the format file.
type format struct {
	version    int
	partitions int
}

// readFormat returns what the directory says about itself, or false if it says
// nothing.
func readFormat(fsys vfs.FS, dir string) (format, bool, error) {
	name := fsys.PathJoin(dir, formatName)
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return format{}, false, nil
	}
	if err != nil {
		return format{}, false, fmt.Errorf("read the store's format: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return format{}, false, fmt.Errorf("read the store's format: %w", err)
	}
	var got format
	if n, _ := fmt.Sscanf(string(data), strings.TrimSpace(formatLine), &got.version, &got.partitions); n == 0 {
		return format{}, false, fmt.Errorf("%s does not describe a store of this product", name)
	}
	return got, true, nil
}

// check says why a store of format f cannot be opened with n partitions.
func (f format) check(dir string, n int) error {
	if f.version != formatVersion {
		return fmt.Errorf("the store in %s has format %d; this version reads format %d only: use the version that wrote it, or one newer than this",
			dir, f.version, formatVersion)
	}
	if f.partitions != n {
		return fmt.Errorf("the store in %s was made with %d partitions and cannot be opened with %d", dir, f.partitions, n)
	}
	return nil
}

// writeFormat makes dir say what it holds. The file appears whole or not at
// all, and is durable when writeFormat returns.
func writeFormat(fsys vfs.FS, dir string, f format) error {
	name := fsys.PathJoin(dir, formatName)
	text := fmt.Sprintf(formatLine, f.version, f.partitions)
	err := func() error {
		tmp, err := fsys.Create(name+".new", vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		_, err = tmp.Write([]byte(text))
		if err == nil {
			err = tmp.Sync()
		}
		if err := errors.Join(err, tmp.Close()); err != nil {
			return err
		}
		if err := fsys.Rename(name+".new", name); err != nil {
			return err
		}
		return syncDir(fsys, dir)
	}()
	if err != nil {
		return fmt.Errorf("write the store's format: %w", err)
	}
	return nil
}

func syncDir(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
