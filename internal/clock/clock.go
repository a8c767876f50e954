// Package clock is where time comes from. Everything below app takes a Clock,
// so that a virtual one can drive the whole product.
package clock

import "time"

// Clock tells the time and calls back later. It may be used concurrently.
type Clock interface {
	// Now returns the current time in UTC.
	Now() time.Time
	// AfterFunc calls f on a goroutine of its own once d has passed.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a pending call.
type Timer interface {
	// Stop prevents the call, and reports whether it did.
	Stop() bool
}

// System is the machine's clock.
type System struct{}

// Now implements Clock.
func (System) Now() time.Time { return time.Now().UTC() }

// AfterFunc implements Clock.
func (System) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }
