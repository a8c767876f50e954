package packet

import (
	"errors"
	"fmt"
)

// Error says which rule a packet breaks. The connection it came on must be
// closed, after a CONNACK or DISCONNECT with Code where the version has one.
type Error struct {
	// Code is MalformedPacket, ProtocolError, or the more precise code that
	// the specification names for the rule.
	Code ReasonCode
	// Clause is the conformance statement, for example "MQTT-3.1.2-3", or the
	// number of the section where the rule has no statement of its own. Where
	// MQTT 5 has the rule too, it is MQTT 5's number; rules that only 3.1.1
	// has carry the prefix "3.1.1 ".
	Clause string
	// Message says in a few words what is wrong. It is constant text without
	// anything the peer sent.
	Message string
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s [%s]", e.Code, e.Message, e.Clause)
}

// CodeOf returns the reason code of the [*Error] within err, Success for nil
// and UnspecifiedError for any other error.
func CodeOf(err error) ReasonCode {
	var e *Error
	switch {
	case err == nil:
		return Success
	case errors.As(err, &e):
		return e.Code
	}
	return UnspecifiedError
}

func malformed(clause, message string) *Error {
	return &Error{Code: MalformedPacket, Clause: clause, Message: message}
}

func protocolError(clause, message string) *Error {
	return &Error{Code: ProtocolError, Clause: clause, Message: message}
}

// orNil turns a nil *Error into a nil error.
func orNil(e *Error) error {
	if e == nil {
		return nil
	}
	return e
}
