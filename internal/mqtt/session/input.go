package session

import (
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
)

// Kind is the kind of an Input.
type Kind uint8

// The inputs.
const (
	Received        Kind = iota + 1 // Packet came; Congested; for PUBLISH Scratch, Frame
	Garbled                         // bytes came that are no packet: Err, Text (the packet's name)
	Challenge                       // the client must prove more: Data
	Admitted                        // the client may connect and its Connected is durable: Admission
	Refused                         // the client may not connect: Code, Text
	Reauthenticated                 // the client has proved itself again: Admission (its proof)
	Committed                       // what Token stands for is done: Code, or Codes for each filter
	Deliver                         // Message is for this client: QoS, Retain, SubscriptionIDs, PacketID, Share, Congested
	Drain                           // the transport has room again
	Heard                           // the client may be sending, and is not read, or is in the middle of a packet
	Tick                            // time has passed
	Close                           // the server ends the session: Ending, Code
	Lost                            // the transport has ended: Ending
)

// Input is one thing that happened. Only the fields that its Kind names are
// read.
type Input struct {
	Kind      Kind
	Congested bool              // the transport is behind: queue or drop rather than send
	Code      packet.ReasonCode // failures of what was committed; for CONNACK; for DISCONNECT, 0: none is sent
	QoS       packet.QoS        // granted to the subscription that Message matched
	Retain    bool              // the RETAIN flag to send
	// PacketID is the one under which the driver has stored Message. It is 0,
	// and the session takes one, unless the session is stored and QoS above 0.
	PacketID uint16
	Token    uint64

	Packet packet.Packet
	// Frame are the bytes that Packet was decoded from. They let a PUBLISH be
	// forwarded without being encoded; nil always works.
	Frame []byte
	// Scratch is a message that the driver uses again and again. A PUBLISH is
	// put into it instead of into a new one; see Message.Reset. May be nil.
	Scratch *Message
	Err     *packet.Error

	Message         *Message
	SubscriptionIDs []uint32 // to send with Message; copied where they are kept
	Share           string   // the shared subscription that Message comes by, as the driver names it; "": none

	Codes     []packet.ReasonCode
	Text      string
	Data      []byte // Authentication Data
	Admission *Admission
	Ending    Ending
}

// Admission is what the server decided about a client that may connect. A nil
// one is the zero one.
type Admission struct {
	// ExpiresAt is when the proof of identity ends; zero: never.
	ExpiresAt time.Time
	// ExpiryDetail says what expires then.
	ExpiryDetail string
	// AuthData goes to the client that used enhanced authentication.
	AuthData []byte

	// What follows is for Admitted only.

	// Resumed: the client finds its session again (Session Present).
	Resumed bool
	// Stored: the driver keeps what the session must not lose. QoS 1 and 2
	// messages come by Deliver only while there is Room, with the PacketID
	// under which they are stored, and Settle, Release and Complete keep the
	// store up to date. Otherwise the session has a queue of its own.
	Stored bool
	// State is where the session was left; nil: nowhere. It is taken over.
	State *State
}

// State is what outlives a connection [MQTT-3.1.2-23].
type State struct {
	Subscriptions []Subscription
	Received      []uint16   // QoS 2 packet ids of the client's that await its PUBREL, ascending
	Inflight      []Outgoing // QoS 1 and 2 messages to the client, oldest first
}

// Outgoing is a message that the client has not acknowledged, or not been
// sent.
type Outgoing struct {
	// PacketID is 0 for a message that waited in the queue of a session that is
	// not stored.
	PacketID uint16
	// Message is nil where it is not needed any more (Released), and where the
	// session did not keep it: it is not stored and Share is "".
	Message         *Message
	QoS             packet.QoS
	Retain          bool
	Sent            bool // at least once: from now on with DUP
	Released        bool // QoS 2: PUBREC has come, PUBREL is due
	SubscriptionIDs []uint32
	Share           string
}

// Subscription is a subscription of a session.
type Subscription struct {
	packet.Subscription        // QoS is what was granted
	ID                  uint32 // Subscription Identifier; 0: none
}

// Ending is why a session ended.
type Ending struct {
	Reason   disconnect.Reason
	Evidence disconnect.Evidence
}
