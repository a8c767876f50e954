// Package session is the MQTT protocol of one client, server side, as a pure
// state machine: packets, ticks and outcomes of commits go in, actions come
// out. It has no socket, no clock and no goroutine, so conversations can be
// replayed, fuzzed and driven by any kind of transport.
//
// Its promises: nothing leaves before what it depends on is known to be
// durable (CONNACK before the claim, PUBACK and PUBREC before the message,
// PUBREL and PUBCOMP of a stored session before their step is stored);
// acknowledgements leave in the order in which their packets arrived, even if
// only the first had to wait; every session that was admitted ends exactly
// once, with one reason and its evidence. What outlives a connection is a
// [State], which the next one resumes.
package session

import (
	"errors"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
)

type phase uint8

const (
	awaitConnect   phase = iota // nothing has come yet
	awaitAdmission              // Admit or Authenticate is being answered, or the client is challenged
	online
	ended
)

// Session is the state of one client's session while it is connected. Its
// owner calls Step in order; it is not for concurrent use.
type Session struct {
	cfg *Config
	id  string // client id

	phase   phase
	version packet.Version
	assign  bool // the server made the client id
	quiet   bool // no problem information wanted
	reasons bool // the client asked for Reason Strings, rather than not to be spared them
	stored  bool // see Admission.Stored

	keepAlive   uint16 // seconds, effective; 0: none
	inflightMax uint16 // the window of the client
	aliasMax    uint16 // aliases that are set for the client
	nextID      uint16 // packet id that was taken last
	unacked     uint32 // QoS 1 and 2 messages from the client that are not acknowledged
	sizeMax     uint32 // the client's Maximum Packet Size; 0: none
	expiry      uint32 // effective session expiry
	outBytes    uint32 // of messages that wait, if the session is not stored

	heard    time.Duration // when the client was last heard from, or could not be (Heard); monotonic
	proof    *proof        // nil: does not end
	will     *packet.Will
	asked    *packet.Connect // until admitted
	rejected *Rejection      // nil: it was not
	doom     *doom           // ended before it was admitted
	auth     *exchange       // nil: no enhanced authentication
	topics   [][]byte        // by alias of the client's

	aliases map[string]uint16 // of the client's side
	subs    subscriptions
	inbound inbound
	acks    []ack  // owed to the client, oldest first
	first   uint64 // token of the first of them
	out     flights
}

// proof is a proof of identity that ends.
type proof struct {
	at     time.Time
	detail string
}

// doom is the end of a session that nobody has admitted yet.
type doom struct {
	ending Ending
	code   packet.ReasonCode // for CONNACK; 0: nobody is there to get one
}

// New returns a session whose transport was opened at now.
func New(cfg *Config, now clock.Instant) *Session {
	return &Session{cfg: cfg, heard: now.Mono, first: 1}
}

// ClientID returns the client id, also an assigned one; "" before CONNECT.
func (s *Session) ClientID() string { return s.id }

// UserName returns the user name of a client that is not admitted yet, or was
// rejected; "": none.
func (s *Session) UserName() string {
	switch {
	case s.asked != nil:
		return s.asked.UserName.Value
	case s.rejected != nil:
		return s.rejected.User
	}
	return ""
}

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

// Expiry is the effective session expiry in seconds, as of now.
func (s *Session) Expiry() uint32 { return s.expiry }

// Paused reports that nothing that arrives may be parsed now: CONNACK has not
// left yet [MQTT-3.1.4-5 of 3.1.1 permits more; waiting is simpler to trust],
// and it is not the client's turn in enhanced authentication either.
func (s *Session) Paused() bool { return s.phase == awaitAdmission && !s.challenged() }

// Online reports that the client is connected.
func (s *Session) Online() bool { return s.phase == online }

// Ended reports that the session is over.
func (s *Session) Ended() bool { return s.phase == ended }

// Doomed reports that the session will end as soon as it is admitted.
func (s *Session) Doomed() bool { return s.phase == ended || s.doom != nil }

// Waiting reports that messages wait for room in the transport or for
// acknowledgements.
func (s *Session) Waiting() bool { return s.out.waiting > 0 }

// Owed is the number of acknowledgements that have not left. A driver that
// reads no further while they are many bounds them; there are at most 65,535.
func (s *Session) Owed() int { return len(s.acks) }

// Room is how many QoS 1 and 2 messages the client may be sent at once; 0 while
// it is offline.
func (s *Session) Room() int {
	if s.phase != online {
		return 0
	}
	return max(0, int(s.inflightMax)-int(s.out.flying)-int(s.out.waiting))
}

// proofInterval is how often an identity whose proof ends is looked at: its end
// is wall time, and how far away that is changes with the clock.
const proofInterval = 10 * time.Minute

// Deadline is when the next Tick is due, by the monotonic reading; 0: never.
func (s *Session) Deadline(now clock.Instant) time.Duration {
	var at time.Duration
	switch s.phase {
	case awaitConnect:
		return s.heard + s.cfg.ConnectTimeout
	case awaitAdmission:
		if s.challenged() {
			return s.heard + s.cfg.ConnectTimeout
		}
	case online:
		if s.keepAlive > 0 {
			at = s.heard + s.patience()
		}
		if s.proof != nil {
			ends := now.Mono + min(s.proof.at.Sub(now.Wall), proofInterval)
			if at == 0 || ends < at {
				at = ends
			}
		}
	}
	return at
}

// Late reports that a Tick at now would end the session because nothing has
// come from the client. The driver then makes sure that it has read whatever
// has arrived, and gives Heard if it has not.
func (s *Session) Late(now clock.Instant) bool {
	return s.phase == online && s.keepAlive > 0 && now.Mono >= s.heard+s.patience()
}

// patience is one and a half times the keep-alive [MQTT-3.1.2-22].
func (s *Session) patience() time.Duration { return time.Duration(s.keepAlive) * time.Second * 3 / 2 }

// Step takes one input at now and appends the actions that follow to out.
func (s *Session) Step(in Input, now clock.Instant, out []Action) []Action {
	switch s.phase {
	case awaitConnect:
		return s.stepConnecting(&in, now, out)
	case awaitAdmission:
		return s.stepAdmission(&in, now, out)
	case online:
		return s.stepOnline(&in, now, out)
	}
	if in.Kind == Committed { // State is to be right
		s.committed(in.Token, in.Code, in.Codes, nil)
	}
	return out
}

func (s *Session) stepOnline(in *Input, now clock.Instant, out []Action) []Action {
	switch in.Kind {
	case Received:
		s.heard = now.Mono
		return s.received(in, now, out)
	case Garbled:
		if _, ok := in.Packet.(*packet.Connect); ok { // whatever is wrong with it
			return s.received(in, now, out)
		}
		if in.Text == "AUTH" && s.auth == nil && s.version == packet.V5 && in.Err.Clause != "MQTT-3.15.1-1" { // whatever its body
			return s.violation(s.judgeAuth(nil), in.Text, out)
		}
		return s.violation(in.Err, in.Text, out)
	case Challenge:
		return s.challenge(in.Data, now, out)
	case Reauthenticated:
		return s.reauthenticated(in.Admission, out)
	case Committed:
		return s.committed(in.Token, in.Code, in.Codes, out)
	case Deliver:
		return s.deliver(in, now, out)
	case Drain:
		return s.pump(now, out)
	case Heard:
		s.heard = now.Mono
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
func (s *Session) received(in *Input, now clock.Instant, out []Action) []Action {
	p := in.Packet
	if err := packet.CheckFromClient(p); err != nil {
		var e *packet.Error
		if !errors.As(err, &e) { // CheckFromClient returns no other
			e = &packet.Error{Code: packet.ProtocolError, Message: err.Error()}
		}
		return s.violation(e, p.Type().String(), out)
	}
	if len(s.acks) >= maxOwed {
		return s.violation(&packet.Error{Code: packet.QuotaExceeded, Message: "too many requests at once"}, p.Type().String(), out)
	}
	switch p := p.(type) {
	case *packet.Publish:
		return s.published(p, in, now, out)
	case *packet.Puback:
		return s.puback((*packet.Ack)(p), in.Congested, now, out)
	case *packet.Pubrec:
		return s.pubrec((*packet.Ack)(p), in.Congested, now, out)
	case *packet.Pubrel:
		return s.pubrel((*packet.Ack)(p), out)
	case *packet.Pubcomp:
		return s.pubcomp((*packet.Ack)(p), in.Congested, now, out)
	case *packet.Subscribe:
		return s.subscribe(p, out)
	case *packet.Unsubscribe:
		return s.unsubscribe(p, out)
	case *packet.Pingreq:
		return append(out, Action{Kind: Send, Packet: &packet.Pingresp{}}) // [MQTT-3.12.4-1]
	case *packet.Disconnect:
		return s.disconnected(p, out)
	case *packet.Connect: // [MQTT-3.1.0-2]
		return s.violation(&packet.Error{Code: packet.ProtocolError, Clause: "MQTT-3.1.0-2", Message: "a second CONNECT"}, "CONNECT", out)
	case *packet.Auth:
		return s.authOnline(p, out)
	}
	return s.violation(&packet.Error{Code: packet.ProtocolError, Clause: "2.1.2", Message: "a packet that only a server sends"}, p.Type().String(), out)
}

func (s *Session) tick(now clock.Instant, out []Action) []Action {
	if s.proof != nil && !now.Wall.Before(s.proof.at) {
		return s.end(Ending{disconnect.ClientAuthenticationError, disconnect.Evidence{
			Kind: disconnect.Timer, Detail: s.proof.detail,
		}}, packet.NotAuthorized, true, out)
	}
	if s.Late(now) { // [MQTT-3.1.2-22]
		return s.end(Ending{disconnect.ClientError, disconnect.Evidence{
			Kind:   disconnect.Timer,
			Detail: "no packet for " + s.patience().String() + ", one and a half times the keep-alive",
		}}, packet.KeepAliveTimeout, true, out)
	}
	return out
}
