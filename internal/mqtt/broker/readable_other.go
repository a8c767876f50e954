//go:build !unix

package broker

import "net"

// readable cannot be asked here: what has arrived and was not read is not
// waited for.
func readable(net.Conn) bool { return false }
