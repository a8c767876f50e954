// Package clock is where time comes from. Everything below app takes a Clock,
// so that a virtual one can drive the whole product.
//
// There are two readings, and what each is for follows from how it can be
// wrong. The wall clock is what people and other machines understand, and
// anybody may set it: it is for what is shown and what is stored. The monotonic
// reading never jumps and means nothing outside of the process: every duration
// that is measured within one is measured with it. What must be judged by
// stored times (whether something has expired, is old enough to be trimmed, is
// to be given up) is judged by a Steady clock, which does not follow a jump of
// the wall clock until that has lasted.
package clock

import "time"

// Clock tells the time and calls back later. It may be used concurrently.
type Clock interface {
	// Now returns the wall clock's time in UTC. It can jump, either way.
	Now() time.Time
	// Monotonic returns how much time has passed since a moment that does not
	// change as long as the process lives. It never jumps.
	Monotonic() time.Duration
	// AfterFunc calls f on a goroutine of its own once d has passed, by the
	// monotonic reading.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a pending call.
type Timer interface {
	// Stop prevents the call, and reports whether it did.
	Stop() bool
}

// System is the machine's clock.
type System struct{}

// origin is what System's monotonic reading counts from.
var origin = time.Now()

// Now implements Clock.
func (System) Now() time.Time { return time.Now().UTC() }

// Monotonic implements Clock.
func (System) Monotonic() time.Duration { return time.Since(origin) }

// AfterFunc implements Clock.
func (System) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }
