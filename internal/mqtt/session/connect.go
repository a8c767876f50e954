package session

import (
	"fmt"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/topic"
)

// stepConnecting waits for CONNECT. Nothing that happens here is a session's
// end: there is none yet.
func (s *Session) stepConnecting(in *Input, now time.Time, out []Action) []Action {
	switch in.Kind {
	case Received:
		c, ok := in.Packet.(*packet.Connect)
		if !ok { // [MQTT-3.1.0-1]
			return s.shut(out)
		}
		s.heard = now
		return s.connect(c, out)
	case Garbled:
		// A CONNECT that could be read far enough gets a CONNACK in its
		// dialect; anything else just closes.
		if c, ok := in.Packet.(*packet.Connect); ok && c != nil && c.Version != 0 {
			s.version = c.Version.Dialect()
			return s.refuse(in.Err.Code, in.Err.Message, out)
		}
		return s.shut(out)
	case Tick:
		if now.Before(s.Deadline()) {
			return out
		}
		return s.shut(out)
	case Close, Lost:
		return s.shut(out)
	}
	return out
}

func (s *Session) shut(out []Action) []Action {
	s.phase = ended
	return append(out, Action{Kind: Shut})
}

// refuse answers CONNECT with a failure and closes (3.1.4 of both versions).
func (s *Session) refuse(code packet.ReasonCode, text string, out []Action) []Action {
	if s.version == packet.V5 || packet.ConnackReturnCode(code) != packet.NoReturnCode {
		out = append(out, Action{Kind: Send, Packet: &packet.Connack{ReasonCode: code, ReasonString: text}})
	}
	return s.shut(out)
}

func (s *Session) connect(c *packet.Connect, out []Action) []Action {
	s.version = c.Version
	s.sizeMax = c.MaximumPacketSize
	s.quiet = c.NoProblemInformation
	if code, text := s.judge(c); code != 0 {
		return s.refuse(code, text, out)
	}
	if c.ClientID == "" { // [MQTT-3.1.3-6]
		s.assign = true
		s.id = s.cfg.NewClientID()
	} else {
		s.id = c.ClientID
	}
	s.asked = c.Clone()
	s.will = s.asked.Will
	s.sessionExpiry = c.SessionExpiryInterval
	s.phase = awaitAdmission
	return append(out, Action{Kind: Admit, Connect: s.asked, ClientID: s.id})
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
	case c.AuthenticationMethod != "": // [MQTT-4.12.0-1]
		return packet.BadAuthenticationMethod, "enhanced authentication is not available"
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
	case reserved(w.Topic):
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

// stepAdmission waits for Admitted or Refused. Whatever ends the connection
// meanwhile is remembered: the claim may stand, and then so must its end.
func (s *Session) stepAdmission(in *Input, now time.Time, out []Action) []Action {
	switch in.Kind {
	case Admitted:
		s.phase = online
		if s.doom == nil {
			return s.admitted(in.Admission, now, out)
		}
		if s.doom.code != 0 {
			out = append(out, Action{Kind: Send, Packet: &packet.Connack{ReasonCode: s.doom.connack()}})
		}
		return s.end(s.doom.ending, 0, true, out)
	case Refused:
		if s.doom == nil {
			return s.refuse(in.Code, in.Text, out)
		}
		if s.doom.code != 0 {
			return s.refuse(s.doom.connack(), "", out)
		}
		return s.shut(out)
	case Close:
		s.condemn(in.Ending, in.Code)
	case Lost:
		s.condemn(in.Ending, 0)
	}
	return out
}

func (s *Session) condemn(e Ending, code packet.ReasonCode) {
	if s.doom == nil {
		s.doom = &doom{e, code}
	}
}

// connack is the code for CONNACK, which has not all of DISCONNECT's.
func (d *doom) connack() packet.ReasonCode {
	if d.code == packet.NotAuthorized {
		return d.code
	}
	return packet.ServerUnavailable
}

// admitted answers CONNECT with what the server offers (3.2.2.3).
func (s *Session) admitted(a Admission, now time.Time, out []Action) []Action {
	c, cfg := s.asked, s.cfg
	s.asked = nil
	s.heard = now // the wait for the disk is not the client's
	s.expires, s.expiry = a.ExpiresAt, a.ExpiryDetail
	s.inflightMax = min(cfg.MaxInflight, c.ReceiveMaximum) // [MQTT-3.3.4-9]
	keep := c.KeepAlive
	ack := &packet.Connack{} // Session Present stays 0: no state outlives a connection yet
	if cfg.MaximumKeepAlive != 0 && (keep == 0 || keep > cfg.MaximumKeepAlive) {
		keep = cfg.MaximumKeepAlive
		ack.ServerKeepAlive = packet.Some(keep) // [MQTT-3.1.2-21]
	}
	s.keepAlive = time.Duration(keep) * time.Second * 3 / 2
	if s.version == packet.V5 {
		if c.SessionExpiryInterval != 0 {
			ack.SessionExpiryInterval = packet.Some[uint32](0)
		}
		if cfg.ReceiveMaximum != 65535 {
			ack.ReceiveMaximum = cfg.ReceiveMaximum
		}
		if cfg.MaximumQoS < packet.QoS2 {
			ack.MaximumQoS = packet.Some(cfg.MaximumQoS)
		}
		ack.RetainAvailable = packet.Some(cfg.RetainAvailable)
		ack.WildcardSubscriptionAvailable = packet.Some(true)
		ack.SharedSubscriptionAvailable = packet.Some(cfg.SharedAvailable)
		ack.SubscriptionIdentifiersAvailable = packet.Some(cfg.SubscriptionIDAvailable)
		ack.MaximumPacketSize = cfg.MaximumPacketSize
		ack.TopicAliasMaximum = cfg.TopicAliasMaximum
		if s.assign {
			ack.AssignedClientIdentifier = s.id // [MQTT-3.2.2-16]
		}
	}
	return append(out, Action{Kind: Send, Packet: ack})
}

// disconnected handles the client's DISCONNECT.
func (s *Session) disconnected(p *packet.Disconnect, out []Action) []Action {
	if p.SessionExpiryInterval.Value != 0 && s.sessionExpiry == 0 {
		return s.violation(&packet.Error{
			Code: packet.ProtocolError, Clause: "3.14.2.2.2",
			Message: "DISCONNECT sets a session expiry that CONNECT did not",
		}, "DISCONNECT", out)
	}
	if s.cfg.RefuseUserProps && len(p.UserProperties) > 0 {
		return s.violation(userProps, "DISCONNECT", out)
	}
	detail := "the client disconnected"
	if p.ReasonCode != packet.NormalDisconnection {
		detail = fmt.Sprintf("the client disconnected: %s", p.ReasonCode)
	}
	return s.end(Ending{disconnect.ClientInitiatedDisconnect, disconnect.Evidence{
		Kind: disconnect.Packet, Packet: "DISCONNECT", Code: uint8(p.ReasonCode), HasCode: s.version == packet.V5,
		Detail: detail,
	}}, 0, p.ReasonCode != packet.NormalDisconnection, out) // [MQTT-3.14.4-3]
}

// violation ends the session because the client broke a rule.
func (s *Session) violation(e *packet.Error, name string, out []Action) []Action {
	if e == nil {
		e = &packet.Error{Code: packet.ProtocolError, Message: "protocol error"}
	}
	detail := e.Message
	if e.Clause != "" {
		detail += " [" + e.Clause + "]"
	}
	reason := disconnect.ClientError
	if e.Code == packet.NotAuthorized {
		reason = disconnect.ClientAuthorizationError
	}
	return s.end(Ending{reason, disconnect.Evidence{
		Kind: disconnect.Packet, Packet: name, Code: uint8(e.Code), HasCode: true, Detail: detail,
	}}, e.Code, true, out)
}

// end ends an admitted session: with a DISCONNECT where there is a code to
// give and a version that has it, then with its end, its Will if that is due,
// and the closing of the transport.
func (s *Session) end(e Ending, code packet.ReasonCode, will bool, out []Action) []Action {
	s.phase = ended
	if code != 0 && s.version == packet.V5 {
		p := &packet.Disconnect{ReasonCode: code}
		switch e.Reason {
		case disconnect.ClientError, disconnect.ClientAuthorizationError, disconnect.SessionOverflow:
			p.ReasonString = e.Evidence.Detail
		}
		out = append(out, Action{Kind: Send, Packet: p})
		if !e.Evidence.HasCode {
			e.Evidence.Code, e.Evidence.HasCode = uint8(code), true
		}
	}
	a := Action{Kind: End, Ending: e}
	if will && s.will != nil { // [MQTT-3.1.2-8]
		p := s.will.Publish()
		a.Will = s.newMessage(&p)
	}
	s.will, s.inflight, s.queue, s.acks, s.aliases = nil, nil, nil, nil, nil
	return append(out, a, Action{Kind: Shut})
}

func reserved(name []byte) bool { return len(name) > 0 && name[0] == '$' }
