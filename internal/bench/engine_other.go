//go:build !linux

package bench

import "errors"

// hasLoop says whether this system has the event loop.
const hasLoop = false

// socket is what a loop keeps for a connection.
type socket struct{}

func newLoop(*shard) (engine, error) { return nil, errors.ErrUnsupported }
