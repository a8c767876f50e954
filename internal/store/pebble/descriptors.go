package pebble

import (
	"errors"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// OpenFiles is the number of descriptors that the store may need at once: its
// tables, logs, manifest, directory and account. Whoever opens sockets leaves
// as many.
const OpenFiles = maxOpenFiles + 24

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
	d.space.pause(descriptorPause)
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
