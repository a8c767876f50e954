//go:build !linux

package bench

import "errors"

// hasLoop says whether this system has the event loop.
const hasLoop = false

func newLoop(*shard) (engine, error) { return nil, errors.ErrUnsupported }
