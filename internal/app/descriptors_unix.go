//go:build unix

package app

import "golang.org/x/sys/unix"

// descriptorLimit raises the limit of descriptors as far as the process may,
// and returns it; 0 if it is not known.
func descriptorLimit() uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	if l.Cur < l.Max {
		raised := unix.Rlimit{Cur: l.Max, Max: l.Max}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			return uint64(raised.Cur) //nolint:unconvert // it is an int64 on FreeBSD
		}
	}
	return uint64(l.Cur) //nolint:unconvert // it is an int64 on FreeBSD
}
