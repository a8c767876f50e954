package delivery

import (
	"time"

	"rollcall/internal/fault"
)

// Settings are the time constants and bounds of delivery. DefaultSettings
// has the documented values; Validate judges all of them.
type Settings struct {
	// Schedule is the delays before successive retries, the last of which
	// repeats. Default: 10s 30s 1m 5m 10m 30m 1h 3h 6h 12h.
	Schedule []time.Duration `yaml:"schedule"`
	// Jitter widens each delay by a factor uniform in [1, 1+Jitter]. Default 0.1; 0 to 1.
	Jitter float64 `yaml:"jitter"`
	// ResponseTimeout is how long an answer is waited for. Default 30s; 1ms to 5m.
	ResponseTimeout time.Duration `yaml:"responseTimeout"`
	// RetryFloor is the least delay after any failure. Default 10s.
	RetryFloor time.Duration `yaml:"retryFloor"`
	// BusyFloor is the least delay after status 503. Default 30s.
	BusyFloor time.Duration `yaml:"busyFloor"`
	// TimeoutFloor is the least delay after status 408. Default 2m.
	TimeoutFloor time.Duration `yaml:"timeoutFloor"`
	// RetryAfterCap bounds how long a destination is left alone that asks for it
	// with Retry-After. Default 1h.
	RetryAfterCap time.Duration `yaml:"retryAfterCap"`

	// Probation is how unhealthy destinations are held back.
	Probation ProbationSettings `yaml:"probation"`

	// DeadLetterDelay is how long events given up are collected before they
	// are written to one file; until then the log keeps them. Default 5m; 0 writes at once.
	DeadLetterDelay time.Duration `yaml:"deadLetterDelay"`
	// DeadLetterGiveUp is how long writing is tried before an event is
	// dropped; waiting for disk space does not count. Default 4h.
	DeadLetterGiveUp time.Duration `yaml:"deadLetterGiveUp"`

	// DeadLetters bounds the dead-letter directory.
	DeadLetters DeadLetterSettings `yaml:"deadLetters"`

	// WindowEvents bounds the new events that a subscription has in memory;
	// half as many retries come on top. Default 1024; 2 to 1,000,000.
	WindowEvents int `yaml:"windowEvents"`
	// WindowBytes bounds their estimated size. Default 4 MiB; at least 64 KiB.
	WindowBytes int `yaml:"windowBytes"`
	// MaxInFlight bounds the requests of a subscription under way at once. Default 32; 1 to 10,000.
	MaxInFlight int `yaml:"maxInFlight"`
	// Workers bounds the requests under way at once over all subscriptions,
	// beyond the one that every subscription may always have. A subscription
	// gets at most as many as it leaves free. Default 512; 1 to 100,000.
	Workers int `yaml:"workers"`
	// Readers bounds the concurrent reads of the log. Default 2; 1 to 64.
	Readers int `yaml:"readers"`

	// CursorInterval is how long progress may be unwritten. Default 1s.
	CursorInterval time.Duration `yaml:"cursorInterval"`
	// CursorEvents is how many settled events of one subscription may be
	// unwritten. Default 1000.
	CursorEvents int `yaml:"cursorEvents"`
	// ShutdownGrace is how long attempts in flight may end by themselves when
	// the dispatcher stops. Default 5s.
	ShutdownGrace time.Duration `yaml:"shutdownGrace"`

	// Retention bounds the event log.
	Retention RetentionSettings `yaml:"retention"`
}

// ProbationSettings say when a destination that keeps failing is left alone,
// and for how long. While on probation nothing is attempted but one probe per
// window; each failed probe doubles the window, a success ends it.
type ProbationSettings struct {
	Enabled   bool `yaml:"enabled"`   // default true
	Threshold int  `yaml:"threshold"` // consecutive failures that begin it; default 10
	// The first window, by outcome of the failure that began it. Outcomes
	// without a window neither begin a probation nor end one.
	Busy        time.Duration `yaml:"busy"`        // default 10s
	TimedOut    time.Duration `yaml:"timedOut"`    // default 10s
	SocketError time.Duration `yaml:"socketError"` // default 30s
	// Other is for NotFound, ResolutionError, Disabled, Unauthorized and
	// Forbidden. Default 5m.
	Other time.Duration `yaml:"other"`
	Cap   time.Duration `yaml:"cap"` // longest window; default 1h
}

// DeadLetterSettings bound the dead-letter files. Others in their directory, an
// operator's archives for example, are neither counted nor removed.
// Below the store's low-water mark nothing is written to it at all: the events
// wait, and stay the log's.
type DeadLetterSettings struct {
	// Bytes bounds the files, each in blocks of 4 KiB; beyond it the oldest are
	// removed, to 1/16 below it. Default 1 GiB; at least 16 MiB; 0: no bound.
	Bytes int64 `yaml:"bytes"`
	// Age is how long files are kept. Default 0: for ever; else at least 1 hour.
	Age time.Duration `yaml:"age"`
}

// RetentionSettings bound the event log by age and size. Pending events that
// are cut off are counted as dropped (RetentionExceeded).
type RetentionSettings struct {
	Age time.Duration `yaml:"age"` // default 7 days; at least 1 minute
	// Bytes bounds the keys and values of all stored events, before the
	// engine's compression and what it keeps beside them. Beyond it the oldest
	// go at once, to 1/128 below it, at most 1 MiB. Default 1 GiB; 0: no bound.
	Bytes    int64         `yaml:"bytes"`
	Interval time.Duration `yaml:"interval"` // between checks of the age; default 1m
}

// DefaultSettings returns the documented values.
func DefaultSettings() Settings {
	return Settings{
		Schedule: []time.Duration{10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute,
			30 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour},
		Jitter:          0.1,
		ResponseTimeout: 30 * time.Second,
		RetryFloor:      10 * time.Second,
		BusyFloor:       30 * time.Second,
		TimeoutFloor:    2 * time.Minute,
		RetryAfterCap:   time.Hour,
		Probation: ProbationSettings{
			Enabled: true, Threshold: 10,
			Busy: 10 * time.Second, TimedOut: 10 * time.Second, SocketError: 30 * time.Second,
			Other: 5 * time.Minute, Cap: time.Hour,
		},
		DeadLetterDelay:  5 * time.Minute,
		DeadLetterGiveUp: 4 * time.Hour,
		DeadLetters:      DeadLetterSettings{Bytes: 1 << 30},
		WindowEvents:     1024,
		WindowBytes:      4 << 20,
		MaxInFlight:      32,
		Workers:          512,
		Readers:          2,
		CursorInterval:   time.Second,
		CursorEvents:     1000,
		ShutdownGrace:    5 * time.Second,
		Retention:        RetentionSettings{Age: 7 * 24 * time.Hour, Bytes: 1 << 30, Interval: time.Minute},
	}
}

// Validate returns every mistake in s by path below prefix, for instance
// "delivery".
func (s Settings) Validate(prefix string) fault.List {
	var bad fault.List
	span := func(name string, d, lo, hi time.Duration) {
		if d < lo || d > hi {
			bad.Add(fault.At(prefix+"."+name, "%v is not between %v and %v", d, lo, hi))
		}
	}
	count := func(name string, n, lo, hi int) {
		if n < lo || n > hi {
			bad.Add(fault.At(prefix+"."+name, "%d is not between %d and %d", n, lo, hi))
		}
	}
	const day = 24 * time.Hour
	count("schedule", len(s.Schedule), 1, 100)
	for _, d := range s.Schedule {
		span("schedule", d, 0, 7*day)
	}
	if !(s.Jitter >= 0 && s.Jitter <= 1) {
		bad.Add(fault.At(prefix+".jitter", "%v is not between 0 and 1", s.Jitter))
	}
	span("responseTimeout", s.ResponseTimeout, time.Millisecond, 5*time.Minute)
	span("retryFloor", s.RetryFloor, 0, day)
	span("busyFloor", s.BusyFloor, 0, day)
	span("timeoutFloor", s.TimeoutFloor, 0, day)
	span("retryAfterCap", s.RetryAfterCap, 0, day)
	count("probation.threshold", s.Probation.Threshold, 1, 1_000_000)
	span("probation.busy", s.Probation.Busy, 0, day)
	span("probation.timedOut", s.Probation.TimedOut, 0, day)
	span("probation.socketError", s.Probation.SocketError, 0, day)
	span("probation.other", s.Probation.Other, 0, day)
	span("probation.cap", s.Probation.Cap, 0, day)
	span("deadLetterDelay", s.DeadLetterDelay, 0, day)
	span("deadLetterGiveUp", s.DeadLetterGiveUp, 0, 7*day)
	if n := s.DeadLetters.Bytes; n != 0 && n < leastDeadLetters {
		bad.Add(fault.At(prefix+".deadLetters.bytes", "%d is neither 0 nor at least %d", n, leastDeadLetters))
	}
	if age := s.DeadLetters.Age; age != 0 {
		span("deadLetters.age", age, time.Hour, 100*365*day)
	}
	count("windowEvents", s.WindowEvents, 2, 1_000_000)
	count("windowBytes", s.WindowBytes, 64<<10, 1<<30)
	count("maxInFlight", s.MaxInFlight, 1, 10_000)
	count("workers", s.Workers, 1, 100_000)
	count("readers", s.Readers, 1, 64)
	span("cursorInterval", s.CursorInterval, time.Millisecond, time.Minute)
	count("cursorEvents", s.CursorEvents, 1, 1_000_000)
	span("shutdownGrace", s.ShutdownGrace, 0, 5*time.Minute)
	span("retention.age", s.Retention.Age, time.Minute, 365*day)
	if s.Retention.Bytes < 0 {
		bad.Add(fault.At(prefix+".retention.bytes", "%d is negative", s.Retention.Bytes))
	}
	span("retention.interval", s.Retention.Interval, time.Second, day)
	return bad
}
