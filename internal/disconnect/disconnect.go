// Package disconnect is the vocabulary of endings: the eleven documented
// reasons for which a session ends, and the evidence that is kept for each. It
// imports nothing and does no I/O.
package disconnect

import "fmt"

// Reason says why a client's session was disconnected. The zero value is no
// reason; every disconnect has exactly one.
type Reason uint8

// The documented reasons.
const (
	ClientAuthenticationError Reason = iota + 1 // authentication ceased to hold
	ClientAuthorizationError                    // rights were taken away
	ClientError                                 // bad request or unsupported feature
	ClientInitiatedDisconnect                   // DISCONNECT packet, or WebSocket close frame
	ConnectionLost                              // the network connection is gone
	IPForbidden                                 // the address is not allowed any more
	QuotaExceeded                               // throttled to the point of termination
	ServerError                                 // unexpected fault of the server
	ServerInitiatedDisconnect                   // operational: shutdown, operator
	SessionOverflow                             // queue of unacknowledged messages reached its limit
	SessionTakenOver                            // the client connected again
)

var names = [...]string{
	ClientAuthenticationError: "ClientAuthenticationError",
	ClientAuthorizationError:  "ClientAuthorizationError",
	ClientError:               "ClientError",
	ClientInitiatedDisconnect: "ClientInitiatedDisconnect",
	ConnectionLost:            "ConnectionLost",
	IPForbidden:               "IpForbidden",
	QuotaExceeded:             "QuotaExceeded",
	ServerError:               "ServerError",
	ServerInitiatedDisconnect: "ServerInitiatedDisconnect",
	SessionOverflow:           "SessionOverflow",
	SessionTakenOver:          "SessionTakenOver",
}

// String returns the reason as events spell it, or "" for no reason.
func (r Reason) String() string {
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// Valid reports whether r is one of the documented reasons.
func (r Reason) Valid() bool { return r > 0 && int(r) < len(names) }

// Reasons returns all documented reasons.
func Reasons() []Reason {
	all := make([]Reason, 0, len(names)-1)
	for r := ClientAuthenticationError; int(r) < len(names); r++ {
		all = append(all, r)
	}
	return all
}

// Kind says what sort of fact the evidence is.
type Kind uint8

// The kinds of evidence.
const (
	Packet    Kind = iota + 1 // a packet that the client sent
	Timer                     // a time that ran out
	Transport                 // what the connection itself reported
	Limit                     // a bound that was reached
	Config                    // a change of the registry
	Operator                  // somebody's command
	Newcomer                  // another connection that took the session over
	Crash                     // an incarnation of the server that never closed the session
	Internal                  // a fault of the server
)

var kinds = [...]string{
	Packet: "packet", Timer: "timer", Transport: "transport", Limit: "limit", Config: "config",
	Operator: "operator", Newcomer: "takeover", Crash: "crash", Internal: "internal",
}

// String returns the kind in lower case.
func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Evidence is what a disconnect's reason was concluded from.
type Evidence struct {
	Kind   Kind
	Packet string // name of the MQTT packet concerned, if any
	Code   uint8  // MQTT 5 reason code sent or received; meaningful with HasCode
	// HasCode tells code 0x00 (a graceful DISCONNECT) from no code.
	HasCode bool
	Detail  string // one sentence for people, with the figures
}
