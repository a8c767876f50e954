//go:build !linux

package transport

// Acknowledged returns how many bytes the peer of a TCP socket has
// acknowledged, and whether the system knows: it does on Linux.
func Acknowledged(int) (uint64, bool) { return 0, false }

// Outstanding returns how many bytes of what was written to a socket the peer
// has not acknowledged, and whether the system knows: it does on Linux.
func Outstanding(int) (int, bool) { return 0, false }

// Unread returns how many bytes of a socket have arrived and were not read. It
// is 0 where the system is not asked: it is on Linux.
func Unread(int) int { return 0 }
