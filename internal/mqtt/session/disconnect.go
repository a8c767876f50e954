package session

import (
	"fmt"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
)

var userProps = &packet.Error{
	Code: packet.ImplementationSpecificError, Message: "user properties are supported on PUBLISH and Will only",
}

// disconnected handles the client's DISCONNECT.
func (s *Session) disconnected(p *packet.Disconnect, out []Action) []Action {
	if p.SessionExpiryInterval.Value != 0 && s.expiry == 0 {
		return s.violation(&packet.Error{
			Code: packet.ProtocolError, Clause: "3.14.2.2.2",
			Message: "DISCONNECT sets a session expiry that CONNECT did not",
		}, "DISCONNECT", out)
	}
	if s.cfg.RefuseUserProps && len(p.UserProperties) > 0 {
		return s.violation(userProps, "DISCONNECT", out)
	}
	if p.SessionExpiryInterval.Set { // 3.14.2.2.2
		s.expiry = s.cfg.capExpiry(p.SessionExpiryInterval.Value)
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

// violation ends the session because the client broke a rule [MQTT-4.13.1-1].
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
	if s.phase == ended {
		return out
	}
	s.phase = ended
	if code != 0 && s.version == packet.V5 { // [MQTT-3.14.4-1]
		code = legal(packet.DISCONNECT, code) // [MQTT-3.14.2-1]
		p := &packet.Disconnect{ReasonCode: code}
		switch e.Reason {
		case disconnect.ClientError, disconnect.ClientAuthorizationError, disconnect.SessionOverflow:
			if s.reasons {
				p.ReasonString = e.Evidence.Detail
			}
		}
		out = append(out, Action{Kind: Send, Packet: p})
		if !e.Evidence.HasCode {
			e.Evidence.Code, e.Evidence.HasCode = uint8(code), true
		}
	}
	f := &Final{Ending: e, Expiry: s.expiry}
	if will && s.will != nil { // [MQTT-3.1.2-8]
		f.Will, f.WillDelay = s.lastWill()
	}
	s.will, s.topics, s.aliases = nil, nil, nil // [MQTT-3.3.2-10]
	return append(out, Action{Kind: End, Final: f}, Action{Kind: Shut})
}

// lastWill returns the Will as a message, and for how long it is to be held
// back: at most until the session ends (3.1.3.2.2).
func (s *Session) lastWill() (*Message, uint32) {
	delay := min(s.will.DelayInterval, s.expiry)
	if most := s.cfg.MaxWillDelay; most != 0 {
		delay = min(delay, most)
	}
	p := s.will.Publish()
	m := &Message{Publish: p}
	s.sign(m)
	return m, delay
}
