// Package session is the MQTT protocol of one client, server side, as a pure
// state machine: packets, ticks and outcomes of commits go in, actions come
// out. It has no socket, no clock and no goroutine, so conversations can be
// replayed, fuzzed and driven by any kind of transport.
//
// Its promises: nothing leaves before what it depends on is known to be
// durable (CONNACK before the claim, PUBACK before the message);
// acknowledgements leave in the order in which their packets arrived, even if
// only the first had to wait; every session that was admitted ends exactly
// once, with one reason and its evidence.
package session

import (
	"errors"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/topic"
)

// Config is what the server offers to a session and where its limits are. It
// is shared by sessions and not changed.
type Config struct {
	ConnectTimeout time.Duration // for the first packet

	MaximumQoS              packet.QoS
	RetainAvailable         bool
	SharedAvailable         bool // shared subscriptions
	SubscriptionIDAvailable bool
	ReceiveMaximum          uint16 // unacknowledged QoS 1 messages from the client, 1 to 65,535
	MaximumPacketSize       uint32 // bytes, both ways; 0: the protocol's maximum
	TopicAliasMaximum       uint16 // aliases the client may set
	MaximumKeepAlive        uint16 // seconds; 0: whatever the client asks for, 0 included

	Topics           topic.Limits
	MaxClientID      int  // bytes of a client id
	MaxFilters       int  // topic filters in one SUBSCRIBE; 0: no bound
	MaxSubscriptions int  // of a session; 0: no bound
	MaxFieldBytes    int  // response topic, content type, correlation data each; 0: no bound
	MaxUserBytes     int  // all user properties of a message; 0: no bound
	RefuseUserProps  bool // user properties on anything but PUBLISH and Will
	FatalNegativeAck bool // a PUBACK with a failure code ends the connection
	ExpiryZeroNever  bool // Message Expiry Interval 0 means that it never expires
	CheckPayload     bool // payloads that are said to be UTF-8 are checked

	MaxInflight   uint16 // unacknowledged QoS 1 messages to the client, 1 to 65,535
	QueueMessages int    // waiting QoS 1 messages before the session overflows
	QueueBytes    int    // of their payloads and topics
	// NewClientID makes the client id for a client that sends none.
	NewClientID func() string
}

// Kind is the kind of an Input.
type Kind uint8

// The inputs.
const (
	Received  Kind = iota + 1 // Packet came; Congested
	Garbled                   // bytes came that are no packet: Err, Text (the packet's name)
	Admitted                  // the client may connect and its Connected is durable: Admission
	Refused                   // the client may not connect: Code, Text
	Committed                 // what Token stands for is done: Code, or Codes for each filter
	Deliver                   // Message is for this client at QoS
	Drain                     // the transport has room again
	Tick                      // time has passed
	Close                     // the server ends the session: Ending, Code
	Lost                      // the transport has ended: Ending
)

// Input is one thing that happened. Only the fields that its Kind names are
// read.
type Input struct {
	Kind      Kind
	Packet    packet.Packet
	Err       *packet.Error
	Admission Admission
	Token     uint32
	Code      packet.ReasonCode
	Codes     []packet.ReasonCode
	Text      string
	Message   *Message
	QoS       packet.QoS // granted to the subscription that Message matched
	Congested bool       // the transport is behind: queue or drop rather than send
	Ending    Ending
}

// Admission is what the server decided about a client that may connect.
type Admission struct {
	// ExpiresAt is when the proof of identity ends; zero: never.
	ExpiresAt time.Time
	// ExpiryDetail says what expires then.
	ExpiryDetail string
}

// Ending is why a session ended.
type Ending struct {
	Reason   disconnect.Reason
	Evidence disconnect.Evidence
}

// ActionKind is the kind of an Action.
type ActionKind uint8

// The actions, to be carried out in order.
const (
	Send        ActionKind = iota + 1 // Packet to the client
	SendPuback                        // PUBACK to the client, with PacketID, Code
	SendMessage                       // Message to the client, with PacketID, QoS, Expiry
	Admit                             // judge Connect and claim ClientID; answer Admitted or Refused
	Route                             // Message to its subscribers; answer Committed if Token is not 0
	Subscribe                         // Subscriptions (Codes says which are legal); answer Committed
	Unsubscribe                       // Filters; answer Committed
	Drop                              // a message for this client was given up: Ending.Evidence.Detail
	End                               // an admitted session has ended: Ending, Will
	Shut                              // close the transport once everything has been sent
)

// Action is one thing for the transport's driver to do.
type Action struct {
	Kind          ActionKind
	Packet        packet.Packet
	Connect       *packet.Connect
	ClientID      string
	Message       *Message
	PacketID      uint16
	QoS           packet.QoS
	Code          packet.ReasonCode
	Expiry        uint32 // seconds left, if Message expires
	Token         uint32
	Subscriptions []packet.Subscription
	Codes         []packet.ReasonCode
	Filters       []string
	Ending        Ending
	Will          *Message
}

type phase uint8

const (
	awaitConnect   phase = iota // nothing has come yet
	awaitAdmission              // Admit is being answered
	online
	ended
)

// Session is the state of one client's session. Its owner calls Step in order;
// it is not for concurrent use.
type Session struct {
	cfg     *Config
	phase   phase
	version packet.Version
	id      string // client id
	assign  bool   // the server made the client id
	doom    *doom  // ended before it was admitted

	keepAlive time.Duration // one and a half times it; 0: none
	heard     time.Time     // when the last packet came
	expires   time.Time     // of the proof of identity
	expiry    string

	will           *packet.Will
	asked          *packet.Connect // until admitted
	sessionExpiry  uint32          // what CONNECT asked for
	sizeMax        uint32          // the client's Maximum Packet Size; 0: none
	quiet          bool            // no problem information wanted
	inflightMax    uint16
	aliases        [][]byte
	subscriptions  map[string]struct{}
	unacknowledged uint16 // QoS 1 messages from the client

	acks  []ack // owed to the client, oldest first
	first uint32

	inflight map[uint16]struct{} // packet ids that the client has not acknowledged
	nextID   uint16
	queue    []*Message // QoS 1, waiting for the client's window or the transport
	queueLen int        // bytes
}

// doom is the end of a session that nobody has admitted yet.
type doom struct {
	ending Ending
	code   packet.ReasonCode // for CONNACK; 0: nobody is there to get one
}

// New returns a session whose transport was opened at now.
func New(cfg *Config, now time.Time) *Session {
	return &Session{cfg: cfg, heard: now, first: 1}
}

// ClientID returns the client id, also an assigned one; "" before CONNECT.
func (s *Session) ClientID() string { return s.id }

// Version returns the protocol version, 3.1.1 before CONNECT.
func (s *Session) Version() packet.Version {
	if s.version == 0 {
		return packet.V311
	}
	return s.version
}

// MaximumPacketSize is the largest packet that the client accepts; 0: any.
func (s *Session) MaximumPacketSize() uint32 { return s.sizeMax }

// Quiet reports that the client wants no problem information in packets other
// than CONNACK, DISCONNECT and PUBLISH.
func (s *Session) Quiet() bool { return s.quiet }

// Paused reports that nothing that arrives may be parsed now: CONNACK has not
// left yet [MQTT-3.1.4-5 of 3.1.1 permits more; waiting is simpler to trust].
func (s *Session) Paused() bool { return s.phase == awaitAdmission }

// Online reports that the client is connected.
func (s *Session) Online() bool { return s.phase == online }

// Ended reports that the session is over.
func (s *Session) Ended() bool { return s.phase == ended }

// Doomed reports that the session will end as soon as it is admitted.
func (s *Session) Doomed() bool { return s.phase == ended || s.doom != nil }

// Waiting reports that messages wait for room in the transport or for
// acknowledgements.
func (s *Session) Waiting() bool { return len(s.queue) > 0 }

// Deadline is when the next Tick is due; zero: none.
func (s *Session) Deadline() time.Time {
	var at time.Time
	switch s.phase {
	case awaitConnect:
		return s.heard.Add(s.cfg.ConnectTimeout)
	case online:
		if s.keepAlive > 0 {
			at = s.heard.Add(s.keepAlive)
		}
		if !s.expires.IsZero() && (at.IsZero() || s.expires.Before(at)) {
			at = s.expires
		}
	}
	return at
}

// Step takes one input at now and appends the actions that follow to out.
func (s *Session) Step(in Input, now time.Time, out []Action) []Action {
	switch s.phase {
	case awaitConnect:
		return s.stepConnecting(&in, now, out)
	case awaitAdmission:
		return s.stepAdmission(&in, now, out)
	case online:
		return s.stepOnline(&in, now, out)
	}
	return out
}

func (s *Session) stepOnline(in *Input, now time.Time, out []Action) []Action {
	switch in.Kind {
	case Received:
		s.heard = now
		return s.received(in, now, out)
	case Garbled:
		if _, ok := in.Packet.(*packet.Connect); ok { // whatever is wrong with it
			return s.received(in, now, out)
		}
		return s.violation(in.Err, in.Text, out)
	case Committed:
		return s.committed(in.Token, in.Code, in.Codes, out)
	case Deliver:
		return s.deliver(in, now, out)
	case Drain:
		return s.drain(now, out)
	case Tick:
		return s.tick(now, out)
	case Close:
		return s.end(in.Ending, in.Code, true, out)
	case Lost:
		return s.end(in.Ending, 0, true, out)
	}
	return out
}

// received handles a packet of a connected client.
func (s *Session) received(in *Input, now time.Time, out []Action) []Action {
	p := in.Packet
	if err := packet.CheckFromClient(p); err != nil {
		var e *packet.Error
		if !errors.As(err, &e) { // CheckFromClient returns no other
			e = &packet.Error{Code: packet.ProtocolError, Message: err.Error()}
		}
		return s.violation(e, p.Type().String(), out)
	}
	switch p := p.(type) {
	case *packet.Publish:
		return s.published(p, now, out)
	case *packet.Puback:
		return s.acknowledged(p, in.Congested, now, out)
	case *packet.Subscribe:
		return s.subscribe(p, out)
	case *packet.Unsubscribe:
		return s.unsubscribe(p, out)
	case *packet.Pingreq:
		return append(out, Action{Kind: Send, Packet: &packet.Pingresp{}}) // [MQTT-3.12.4-1]
	case *packet.Disconnect:
		return s.disconnected(p, out)
	case *packet.Pubrel: // of a QoS 2 message that was never accepted
		return append(out, Action{Kind: Send, Packet: &packet.Pubcomp{PacketID: p.PacketID, ReasonCode: packet.PacketIdentifierNotFound}})
	case *packet.Pubrec: // for a QoS 2 message that was never sent
		if s.version == packet.V5 {
			return append(out, Action{Kind: Send, Packet: &packet.Pubrel{PacketID: p.PacketID, ReasonCode: packet.PacketIdentifierNotFound}})
		}
		return out
	case *packet.Pubcomp:
		return out
	case *packet.Connect: // [MQTT-3.1.0-2]
		return s.violation(&packet.Error{Code: packet.ProtocolError, Clause: "MQTT-3.1.0-2", Message: "a second CONNECT"}, "CONNECT", out)
	case *packet.Auth: // [MQTT-4.12.0-7]
		return s.violation(&packet.Error{Code: packet.ProtocolError, Clause: "MQTT-4.12.0-7", Message: "AUTH without an authentication method in CONNECT"}, "AUTH", out)
	}
	return s.violation(&packet.Error{Code: packet.ProtocolError, Clause: "2.1.2", Message: "a packet that only a server sends"}, p.Type().String(), out)
}

func (s *Session) tick(now time.Time, out []Action) []Action {
	if !s.expires.IsZero() && !now.Before(s.expires) {
		return s.end(Ending{disconnect.ClientAuthenticationError, disconnect.Evidence{
			Kind: disconnect.Timer, Detail: s.expiry,
		}}, packet.NotAuthorized, true, out)
	}
	if s.keepAlive > 0 && !now.Before(s.heard.Add(s.keepAlive)) { // [MQTT-3.1.2-22]
		return s.end(Ending{disconnect.ClientError, disconnect.Evidence{
			Kind:   disconnect.Timer,
			Detail: "no packet for " + s.keepAlive.String() + ", one and a half times the keep-alive",
		}}, packet.KeepAliveTimeout, true, out)
	}
	return out
}
