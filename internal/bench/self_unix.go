//go:build unix

package bench

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ownCPU is what this process has used, user and system.
func ownCPU() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// raiseLimit sees that the process may open n descriptors: it raises the soft
// limit as far as the hard one allows.
func raiseLimit(n int) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read the limit on open descriptors: %w", err)
	}
	enough := func(limit int64) bool { return limit < 0 || limit >= int64(n) } // without a limit it is negative
	if enough(int64(l.Cur)) {
		return nil
	}
	if hard := int64(l.Max); !enough(hard) {
		return fmt.Errorf("this run needs %d descriptors, and the hard limit is %d: raise it (ulimit -Hn) or ask for fewer connections", n, hard)
	}
	l.Cur = l.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raise the limit on open descriptors to %d: %w", n, err)
	}
	return nil
}
