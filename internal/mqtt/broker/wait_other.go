//go:build !unix

package broker

import "net"

func waiter(nc net.Conn) func() (*burst, int, error) { return tinyWaiter(nc) }
