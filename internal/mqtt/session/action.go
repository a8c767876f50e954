package session

import (
	"fmt"
	"slices"

	"rollcall/internal/mqtt/packet"
)

// ActionKind is the kind of an Action.
type ActionKind uint8

// The actions, to be carried out in order.
const (
	Send         ActionKind = iota + 1 // Packet to the client
	SendAck                            // PUBACK, PUBREC, PUBREL or PUBCOMP to the client: Type, PacketID, Code
	SendMessage                        // Message to the client, see AppendMessage
	Authenticate                       // judge what Auth shows; answer Challenge, or as for Admit or, if Auth.Again, Reauthenticated or Close
	Admit                              // judge Connect and claim ClientID for Expiry seconds; answer Admitted or Refused
	Route                              // Message to its subscribers; answer Committed if Token is not 0; PacketID of QoS 2 is to be stored with it
	Subscribe                          // Request: Codes says which of Subscriptions are legal; answer Committed
	Unsubscribe                        // Request: Filters; answer Committed
	Complete                           // the client has released PacketID: forget that it was received; answer Committed
	Release                            // the client has received PacketID: never send it again; answer Committed
	Settle                             // PacketID is acknowledged or given up, and free again
	Drop                               // a message for this client was given up: Why
	End                                // an admitted session has ended: Final
	Shut                               // close the transport once everything has been sent
)

// Action is one thing for the transport's driver to do. Complete, Release and
// Settle come from stored sessions only.
type Action struct {
	Kind     ActionKind
	Type     packet.Type
	Code     packet.ReasonCode
	Why      DropReason
	PacketID uint16
	Token    uint64

	// Of SendMessage. It must be sent: aliases depend on it.

	QoS     packet.QoS
	Retain  bool
	Dup     bool
	NoTopic bool   // the alias stands for the topic
	Alias   uint16 // 0: none
	Expiry  uint32 // seconds left, if Message expires; of Admit the effective session expiry
	Message *Message
	// SubscriptionIDs are those of Deliver and no longer valid than they.
	SubscriptionIDs []uint32

	Packet   packet.Packet
	Connect  *packet.Connect
	ClientID string // also an assigned one
	Auth     *Auth
	Request  *Request
	Final    *Final
}

// Auth is a step of enhanced authentication (4.12).
type Auth struct {
	// Connect is set in the first step.
	Connect *packet.Connect
	Method  string
	Data    []byte // nil: none
	// Again: the client is connected and proves itself anew.
	Again bool
}

// Request is what a SUBSCRIBE or an UNSUBSCRIBE asks for. The slices have one
// element for each filter of the packet, in its order.
type Request struct {
	Codes         []packet.ReasonCode // those that fail have failed; the others may be made to
	Subscriptions []Subscription      // of SUBSCRIBE, with the QoS to grant
	Existed       []bool              // of SUBSCRIBE: it replaces one, for Retain Handling 1
	Filters       []string            // of UNSUBSCRIBE

	prior []Subscription // those that are replaced
}

// ForDriver returns a copy whose codes the driver may change, and answer
// Committed with: the session compares them with its own.
func (r *Request) ForDriver() *Request {
	own := *r
	own.Codes = slices.Clone(r.Codes)
	return &own
}

// Final is how an admitted session ended.
type Final struct {
	Ending
	Expiry uint32 // seconds for which the state is kept; 0: not at all; 0xFFFFFFFF: for ever
	// Will is to be published after WillDelay seconds unless the client comes
	// back before, and at once if the state is not kept; nil: none is due.
	Will      *Message
	WillDelay uint32
}

// NeverExpires is the session expiry of a session that is kept for ever.
const NeverExpires = 0xFFFFFFFF

// DropReason is why a message was given up.
type DropReason uint8

// The reasons for dropping.
const (
	DropCongested DropReason = iota + 1 // QoS 0, and the transport is behind
	DropExpired                         // its Message Expiry Interval has passed
	DropTooLarge                        // for the client's Maximum Packet Size
	DropEncoding                        // it cannot be expressed
)

// String returns the reason as metrics spell it.
func (r DropReason) String() string {
	switch r {
	case DropCongested:
		return "congested"
	case DropExpired:
		return "expired"
	case DropTooLarge:
		return "too_large"
	case DropEncoding:
		return "encoding"
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// AppendMessage appends the PUBLISH of a SendMessage to dst, for a client of
// version v. The error leaves dst as it is.
func (a *Action) AppendMessage(dst []byte, v packet.Version) ([]byte, error) {
	if v != packet.V5 || a.Alias == 0 && len(a.SubscriptionIDs) == 0 {
		e, err := a.Message.Encoded(v, a.QoS, a.Retain)
		if err != nil {
			return dst, err
		}
		return e.AppendTo(dst, a.PacketID, a.Dup, a.Expiry), nil
	}
	p := a.Message.Publish
	p.QoS, p.Retain, p.Dup, p.PacketID = a.QoS, a.Retain, a.Dup, a.PacketID
	p.SubscriptionIdentifiers = a.SubscriptionIDs
	p.MessageExpiryInterval.Value = a.Expiry
	if p.TopicAlias = a.Alias; a.NoTopic {
		p.Topic = nil
	}
	return p.AppendTo(dst, v)
}
