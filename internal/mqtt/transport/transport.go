// Package transport knows about TCP connections what package net does not say:
// what has arrived and was not read, and what the peer has taken. It makes no
// decisions.
package transport

import (
	"net"
	"syscall"
)

// Taken returns how many bytes the peer of a TCP socket has acknowledged, and
// whether there are some that it has not. known is false where the system does
// not tell.
func Taken(fd int) (n uint64, waits, known bool) {
	n, known = Acknowledged(fd)
	left, ok := Outstanding(fd)
	return n, left > 0, known && ok
}

// Base returns the connection below the layers of nc, such as TLS and
// WebSocket, which tell it by NetConn.
func Base(nc net.Conn) net.Conn {
	for {
		layer, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nc
		}
		nc = layer.NetConn()
	}
}

// Control calls f with the descriptor below nc, unless it has none or is
// closed, and reports whether it did. The descriptor is valid until f returns.
func Control(nc net.Conn, f func(fd int)) bool {
	sc, ok := Base(nc).(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) }) == nil
}
