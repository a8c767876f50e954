//go:build unix

package pebble

import (
	"io/fs"
	"syscall"
)

// allocated returns the bytes that a file takes on disk, if that is known.
func allocated(info fs.FileInfo) (uint64, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return uint64(st.Blocks) * 512, true
}
