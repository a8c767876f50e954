package transport

import "golang.org/x/sys/unix"

// Acknowledged returns how many bytes the peer of a TCP socket has
// acknowledged, and whether the system knows.
func Acknowledged(fd int) (uint64, bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return info.Bytes_acked, true
}

// Outstanding returns how many bytes of what was written to a socket the peer
// has not acknowledged, and whether the system knows.
func Outstanding(fd int) (int, bool) {
	n, err := unix.IoctlGetInt(fd, unix.TIOCOUTQ)
	return n, err == nil
}

// Unread returns how many bytes of a socket have arrived and were not read.
func Unread(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}
