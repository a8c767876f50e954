package delivery

import (
	"net/http"
	"time"
)

// Verdict says what a destination's answer means for the event.
type Verdict uint8

// The verdicts. The zero value is nobody's answer: the attempt was abandoned
// and is not counted.
const (
	Delivered Verdict = iota + 1 // taken
	TryLater                     // may be taken later: reschedule
	Refused                      // will never be taken: give up now
)

// Outcome is the documented name of what became of an attempt. Its numbers are
// stored.
type Outcome uint8

// The outcomes that occur here.
const (
	NoOutcome       Outcome = 0 // never attempted
	Success         Outcome = 1
	NotFound        Outcome = 2 // 404, 410
	Disabled        Outcome = 3 // the target address is not allowed
	Unauthorized    Outcome = 4 // 401
	BadRequest      Outcome = 5 // 400
	TimedOut        Outcome = 6 // 408, or no answer in time
	Busy            Outcome = 7 // 429, 503
	PayloadTooLarge Outcome = 8 // 413
	Probation       Outcome = 9 // held back, never tried
	SocketError     Outcome = 10
	ResolutionError Outcome = 11
	Forbidden       Outcome = 12 // 403
	GenericError    Outcome = 13 // any other status

	outcomes = 14
)

var outcomeNames = [outcomes]string{
	"", "Delivered", "NotFound", "Disabled", "Unauthorized", "BadRequest", "TimedOut", "Busy",
	"PayloadTooLarge", "Probation", "SocketError", "ResolutionError", "Forbidden", "GenericError",
}

// String returns the documented name, or "" for NoOutcome.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return ""
}

// Result is what came of one attempt.
type Result struct {
	Verdict    Verdict
	Outcome    Outcome
	Status     int           // HTTP status, or 0 where none came
	RetryAfter time.Duration // how long the destination asked to be left alone, or 0
	Detail     string        // for operators; no URL, query or body
}

// OfStatus judges an HTTP status. Success is exactly 200 to 204; 400, 401, 403,
// 410 and 413 are never retried; redirects are failures.
func OfStatus(status int) Result {
	r := Result{Verdict: TryLater, Outcome: GenericError, Status: status}
	switch status {
	case 200, 201, 202, 203, 204:
		r.Verdict, r.Outcome = Delivered, Success
	case http.StatusBadRequest:
		r.Verdict, r.Outcome = Refused, BadRequest
	case http.StatusUnauthorized:
		r.Verdict, r.Outcome = Refused, Unauthorized
	case http.StatusForbidden:
		r.Verdict, r.Outcome = Refused, Forbidden
	case http.StatusRequestEntityTooLarge:
		r.Verdict, r.Outcome = Refused, PayloadTooLarge
	case http.StatusGone: // HTTP 1.1 Web Hooks for Event Delivery, 2.2: the target has been retired
		r.Verdict, r.Outcome = Refused, NotFound
	case http.StatusNotFound:
		r.Outcome = NotFound
	case http.StatusRequestTimeout:
		r.Outcome = TimedOut
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		r.Outcome = Busy
	}
	return r
}

// Reason says why an event was given up. Its numbers are stored.
type Reason uint8

// The reasons. Events with one of the first three go to the dead-letter
// directory if there is one; all others are dropped.
const (
	MaxDeliveryAttemptsExceeded   Reason = 1
	TimeToLiveExceeded            Reason = 2
	UndeliverableDueToClientError Reason = 3
	RetentionExceeded             Reason = 4 // the log no longer has the event
	SubscriptionDeleted           Reason = 5
	DeadLetterFailed              Reason = 6 // the directory could not be written
	Unreadable                    Reason = 7 // the stored event cannot be decoded

	reasons = 8
)

var reasonNames = [reasons]string{
	"", "MaxDeliveryAttemptsExceeded", "TimeToLiveExceeded", "UndeliverableDueToClientError",
	"RetentionExceeded", "SubscriptionDeleted", "DeadLetterFailed", "Unreadable",
}

// String returns the name of r, or "" for none.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return ""
}
