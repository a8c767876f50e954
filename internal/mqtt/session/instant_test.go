package session_test

import (
	"time"

	"rollcall/internal/clock"
)

// instant is a moment whose readings go together.
func instant(at time.Time) clock.Instant {
	return clock.Instant{Wall: at, Mono: time.Hour + at.Sub(epoch)}
}

// start is epoch by both readings.
var start = instant(epoch)
