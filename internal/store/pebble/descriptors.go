package pebble

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What a store needs of descriptors beside its tables: logs, manifest,
// directory, account, the spare ones, and what is being written.
const otherFiles = 24 + spareFiles

// DescriptorsFor returns how many descriptors a store needs that keeps at most
// files tables open.
func DescriptorsFor(files int) int { return files + otherFiles }

// spareFiles is the number of descriptors that are held so that nobody else has
// them: one is given up for a file that cannot be opened otherwise.
const spareFiles = 16

// spares are those.
type spares struct {
	mu    sync.Mutex
	files []*os.File
}

// fill takes as many as there are to be had.
func (s *spares) fill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.files) < spareFiles {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return
		}
		s.files = append(s.files, f)
	}
}

// give gives one up, if there is one.
func (s *spares) give() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.files)
	if n == 0 {
		return false
	}
	_ = s.files[n-1].Close() // nothing was written to it
	s.files = s.files[:n-1]
	return true
}

func (s *spares) close() {
	for s.give() {
	}
}

// descriptorPause is the time between two tries to open a file while the
// process has no descriptor left.
const descriptorPause = 20 * time.Millisecond

// isDescriptors reports whether there was no descriptor to open a file with.
func isDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// outOfDescriptors waits a moment if err says that there are no descriptors
// left, and reports whether to try again. Descriptors come back when
// connections end; nothing of the store is wrong. The first failure of a spell
// is logged.
func (d *disk) outOfDescriptors(err error) bool {
	if !isDescriptors(err) {
		if err == nil && d.starved.CompareAndSwap(true, false) {
			d.log.Info("files can be opened again")
		}
		return false
	}
	if d.fail.Load() == nil || d.blown.Load() {
		return false // it is being opened or closed: say so
	}
	if d.starved.CompareAndSwap(false, true) {
		d.log.Error("storage waits: the process has no file descriptors left; raise the limit (LimitNOFILE, ulimit -n) or lower mqtt.maxConnections", "err", err.Error())
	}
	d.starvations.Add(1)
	if !d.spares.give() {
		d.space.pause(descriptorPause)
	}
	return !d.blown.Load()
}

// opening calls open until it does not fail for want of descriptors.
func (d *disk) opening(open func() (vfs.File, error)) (vfs.File, error) {
	for {
		f, err := open()
		if !d.outOfDescriptors(err) {
			return f, err
		}
	}
}

// Open implements vfs.FS.
func (d *disk) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.opening(func() (vfs.File, error) { return d.FS.Open(name, opts...) })
}
