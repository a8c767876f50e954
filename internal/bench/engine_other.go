//go:build !linux

package bench

import "errors"

// hasLoop says whether this system has the event loop.
const hasLoop = false

// wire is what engines keep for a connection.
type wire struct{ stream }

func newLoop(*shard) (engine, error) { return nil, errors.ErrUnsupported }
