package session

import (
	"fmt"
	"slices"

	"rollcall/internal/clock"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/topic"
)

// stepConnecting waits for CONNECT. Nothing that happens here is a session's
// end: there is none yet.
func (s *Session) stepConnecting(in *Input, now clock.Instant, out []Action) []Action {
	switch in.Kind {
	case Received:
		c, ok := in.Packet.(*packet.Connect)
		if !ok { // [MQTT-3.1.0-1]
			return s.reject(NotConnect, 0, "the first packet is "+in.Packet.Type().String()+", not CONNECT", out)
		}
		s.heard = now.Mono
		return s.connect(c, out)
	case Garbled:
		// A CONNECT that could be read far enough gets a CONNACK in its
		// dialect; anything else just closes.
		if c, ok := in.Packet.(*packet.Connect); ok && c != nil && (c.Version != 0 || in.Err.Clause == "MQTT-3.1.2-2") { // 0 is a level, too
			s.version, s.reasons = c.Version.Dialect(), c.AsksProblemInformation
			return s.reject(Malformed, in.Err.Code, in.Err.Message, out)
		}
		return s.reject(Malformed, 0, in.Err.Message, out)
	case Tick:
		if now.Mono < s.Deadline(now) {
			return out
		}
		return s.reject(Late, 0, "no CONNECT within "+s.cfg.ConnectTimeout.String(), out)
	case Close, Lost:
		return s.shut(out)
	}
	return out
}

// Rejection is why a CONNECT was not even put to whoever decides about clients.
type Rejection struct {
	Kind RejectionKind
	Code packet.ReasonCode // of CONNACK; 0: there was none
	Text string            // for the operator
	User string            // the user name; "": none, or unknown
}

// RejectionKind is the kind of a Rejection.
type RejectionKind uint8

// The kinds.
const (
	NotConnect   RejectionKind = iota + 1 // the first packet is another one
	Malformed                             // it cannot be read
	NotSupported                          // it asks for what is not offered
	Late                                  // it did not come in time
)

// Rejected returns why the session refused to begin, or nil.
func (s *Session) Rejected() *Rejection { return s.rejected }

// reject refuses, and remembers why.
func (s *Session) reject(kind RejectionKind, code packet.ReasonCode, text string, out []Action) []Action {
	s.rejected = &Rejection{Kind: kind, Code: code, Text: text}
	if code == 0 {
		return s.shut(out)
	}
	return s.refuse(code, text, out)
}

func (s *Session) shut(out []Action) []Action {
	s.phase = ended
	s.asked, s.will = nil, nil
	return append(out, Action{Kind: Shut})
}

// refuse answers CONNECT with a failure and closes (3.1.4 of both versions).
func (s *Session) refuse(code packet.ReasonCode, text string, out []Action) []Action {
	if s.version == packet.V5 || packet.ConnackReturnCode(code) != packet.NoReturnCode {
		if !s.reasons {
			text = ""
		}
		if s.version == packet.V5 {
			code = legal(packet.CONNACK, code) // [MQTT-3.2.2-8]
		}
		out = append(out, Action{Kind: Send, Packet: &packet.Connack{ReasonCode: code, ReasonString: text}})
	}
	return s.shut(out)
}

func (s *Session) connect(c *packet.Connect, out []Action) []Action {
	s.version = c.Version
	s.sizeMax = c.MaximumPacketSize
	s.quiet, s.reasons = c.NoProblemInformation, c.AsksProblemInformation
	if code, text := s.judge(c); code != 0 {
		s.id = c.ClientID
		out = s.reject(NotSupported, code, text, out)
		s.rejected.User = c.UserName.Value
		return out
	}
	if c.ClientID == "" { // [MQTT-3.1.3-6]
		s.assign = true
		s.id = s.cfg.NewClientID()
	} else {
		s.id = c.ClientID
	}
	s.asked = c.Clone()
	s.will = s.asked.Will
	s.expiry = s.cfg.expiry(c)
	s.phase = awaitAdmission
	a := Action{Kind: Admit, Connect: s.asked, ClientID: s.id, Expiry: s.expiry}
	if method := s.asked.AuthenticationMethod; method != "" {
		s.auth = &exchange{method: method, running: true}
		a.Kind = Authenticate
		a.Auth = &Auth{Connect: s.asked, Method: method, Data: s.asked.AuthenticationData}
	}
	return append(out, a)
}

// judge returns why a CONNECT is refused before anybody is asked who it is
// from, or 0.
func (s *Session) judge(c *packet.Connect) (packet.ReasonCode, string) {
	cfg := s.cfg
	switch {
	case c.ClientID == "" && c.Version == packet.V311 && !c.CleanStart: // 3.1.1 [MQTT-3.1.3-8]
		return packet.ClientIdentifierNotValid, "a session that is kept needs a client id"
	case len(c.ClientID) > cfg.MaxClientID:
		return packet.ClientIdentifierNotValid, fmt.Sprintf("the client id is longer than %d bytes", cfg.MaxClientID)
	case c.AuthenticationMethod != "" && !slices.Contains(cfg.AuthMethods, c.AuthenticationMethod): // [MQTT-4.12.0-1]
		return packet.BadAuthenticationMethod, "the authentication method is not available"
	case cfg.RefuseUserProps && len(c.UserProperties) > 0:
		return packet.ImplementationSpecificError, "user properties on CONNECT are not supported"
	case c.Will == nil:
		return 0, ""
	}
	return s.judgeWill(c.Will)
}

func (s *Session) judgeWill(w *packet.Will) (packet.ReasonCode, string) {
	switch {
	case w.QoS > s.cfg.MaximumQoS: // [MQTT-3.2.2-12]
		return packet.QoSNotSupported, fmt.Sprintf("the highest QoS of a Will is %d", s.cfg.MaximumQoS)
	case w.Retain && !s.cfg.RetainAvailable: // [MQTT-3.2.2-13]
		return packet.RetainNotSupported, "retained messages are not available"
	case s.reserved(w.Topic):
		return packet.NotAuthorized, "topics that begin with $ are reserved"
	}
	p := w.Publish()
	if topic.ValidateName(w.Topic, s.cfg.Topics) != nil {
		return packet.TopicNameInvalid, "the Will Topic is too long or too deep"
	}
	if code, text := s.judgeFields(&p); code != 0 {
		return code, text
	}
	return 0, ""
}
