// Package fault holds the errors that a caller of an API can see. They are
// made where the rule lives; the REST packages only render them.
package fault

import (
	"errors"
	"fmt"
)

// Code is the machine-readable name of an error, in the spelling of the
// resource manager's error bodies.
type Code string

// The codes in use. Each has one HTTP status, given by Status.
const (
	MissingAPIVersion  Code = "MissingApiVersionParameter"
	UnknownAPIVersion  Code = "NoRegisteredProviderFound"
	InvalidType        Code = "InvalidResourceType"
	InvalidContent     Code = "InvalidRequestContent" // the body cannot be parsed
	InvalidRequest     Code = "InvalidRequest"        // a value breaks a rule
	Unauthenticated    Code = "AuthenticationFailed"
	Forbidden          Code = "AuthorizationFailed"
	NotFound           Code = "ResourceNotFound"
	ParentNotFound     Code = "ParentResourceNotFound"
	MethodNotAllowed   Code = "MethodNotAllowed"
	Conflict           Code = "Conflict"
	PreconditionFailed Code = "PreconditionFailed"
	TooLarge           Code = "RequestEntityTooLarge"
	UnsupportedMedia   Code = "UnsupportedMediaType"
	Misdirected        Code = "MisdirectedRequest"
	TooManyRequests    Code = "TooManyRequests"
	InsufficientSpace  Code = "InsufficientStorage" // the disk is full
	Unavailable        Code = "ServiceUnavailable"
	Internal           Code = "InternalServerError"
)

// Status returns the HTTP status of a code, 500 for one it does not know.
func (c Code) Status() int {
	switch c {
	case MissingAPIVersion, UnknownAPIVersion, InvalidType, InvalidContent, InvalidRequest:
		return 400
	case Unauthenticated:
		return 401
	case Forbidden:
		return 403
	case NotFound, ParentNotFound:
		return 404
	case MethodNotAllowed:
		return 405
	case Conflict:
		return 409
	case PreconditionFailed:
		return 412
	case TooLarge:
		return 413
	case UnsupportedMedia:
		return 415
	case Misdirected:
		return 421
	case TooManyRequests:
		return 429
	case Unavailable:
		return 503
	case InsufficientSpace:
		return 507
	}
	return 500
}

// Error is an error that a caller may see. Message says what to change.
type Error struct {
	Code    Code
	Target  string // path of the offending member, or empty
	Message string
	Details []*Error // further mistakes, when several were found at once
}

// Error implements error.
func (e *Error) Error() string {
	if e.Target != "" {
		return fmt.Sprintf("%s: %s: %s", e.Code, e.Target, e.Message)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// New returns an Error about the request as a whole.
func New(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...)}
}

// At returns an InvalidRequest about the member at path target.
func At(target, format string, args ...any) *Error {
	return &Error{Code: InvalidRequest, Target: target, Message: fmt.Sprintf(format, args...)}
}

// As returns the Error within err, if there is one.
func As(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// List collects mistakes so that all are reported at once.
type List []*Error

// Add appends e unless it is nil.
func (l *List) Add(e *Error) {
	if e != nil {
		*l = append(*l, e)
	}
}

// Err returns nil, the only mistake, or one Error with the others as details.
func (l List) Err() error {
	switch len(l) {
	case 0:
		return nil
	case 1:
		return l[0]
	}
	return &Error{Code: l[0].Code, Target: l[0].Target, Message: l[0].Message, Details: l}
}
