package session

import (
	"slices"

	"rollcall/internal/clock"
	"rollcall/internal/mqtt/packet"
)

// exchange is enhanced authentication (4.12) of this connection.
type exchange struct {
	method  string
	running bool // since CONNECT, or since the client asked to authenticate again
	client  bool // it is the client's turn
}

// challenged reports that it is the client's turn.
func (s *Session) challenged() bool { return s.auth != nil && s.auth.client }

// challenge asks the client for more [MQTT-4.12.0-2] [MQTT-4.12.0-3].
func (s *Session) challenge(data []byte, now clock.Instant, out []Action) []Action {
	if s.auth == nil || !s.auth.running { // [MQTT-4.12.0-6]
		return out
	}
	s.auth.client = true
	if s.phase == awaitAdmission {
		s.heard = now.Mono
	}
	return append(out, s.sendAuth(packet.ContinueAuthentication, data))
}

func (s *Session) sendAuth(code packet.ReasonCode, data []byte) Action {
	return Action{Kind: Send, Packet: &packet.Auth{
		ReasonCode: code, AuthenticationMethod: s.auth.method, AuthenticationData: data, // [MQTT-4.12.0-5]
	}}
}

// stepChallenged waits for the client's AUTH before it is connected. Nobody is
// asked anything meanwhile, so whatever else comes just ends it.
func (s *Session) stepChallenged(in *Input, now clock.Instant, out []Action) []Action {
	switch in.Kind {
	case Received:
		switch p := in.Packet.(type) {
		case *packet.Auth:
			if e := s.judgeAuth(p); e != nil {
				return s.refuse(e.Code, e.Message, out) // [MQTT-4.12.0-4]
			}
			s.heard = now.Mono
			return append(out, s.answered(p))
		case *packet.Disconnect:
			return s.shut(out)
		}
		return s.refuse(packet.ProtocolError, "only AUTH and DISCONNECT may come before CONNACK", out) // [MQTT-3.1.2-30]
	case Garbled:
		code := packet.MalformedPacket
		if in.Err != nil && (in.Err.Code == packet.ProtocolError || in.Err.Code == packet.BadAuthenticationMethod ||
			in.Err.Code == packet.PacketTooLarge) {
			code = in.Err.Code
		}
		return s.refuse(code, "", out)
	case Tick:
		if now.Mono < s.Deadline(now) {
			return out
		}
		return s.shut(out)
	case Close:
		return s.refuse(connackCode(in.Code), "", out)
	case Lost:
		return s.shut(out)
	}
	return out
}

// judgeAuth returns what is wrong with an AUTH, or nil.
func (s *Session) judgeAuth(p *packet.Auth) *packet.Error {
	x := s.auth
	switch {
	case x == nil: // [MQTT-4.12.0-7]
		return &packet.Error{Code: packet.ProtocolError, Clause: "MQTT-4.12.0-7", Message: "AUTH without an authentication method in CONNECT"}
	case p.ReasonCode == packet.Success: // [MQTT-3.15.2-1]
		return &packet.Error{Code: packet.ProtocolError, Clause: "MQTT-3.15.2-1", Message: "only a server sends the reason code"}
	case p.AuthenticationMethod != x.method: // [MQTT-4.12.0-5] [MQTT-4.12.1-1], the code by 2.4
		return &packet.Error{Code: packet.BadAuthenticationMethod, Clause: "MQTT-4.12.1-1", Message: "the authentication method is not that of CONNECT"}
	case p.ReasonCode == packet.ContinueAuthentication && !x.client:
		return &packet.Error{Code: packet.ProtocolError, Clause: "4.12", Message: "AUTH answers no AUTH of the server"}
	case p.ReasonCode == packet.ReAuthenticate && (x.running || s.phase != online):
		return &packet.Error{Code: packet.ProtocolError, Clause: "4.12.1", Message: "AUTH begins an authentication while another is running"}
	case s.cfg.RefuseUserProps && len(p.UserProperties) > 0:
		return userProps
	}
	return nil
}

// answered hands the client's data on.
func (s *Session) answered(p *packet.Auth) Action {
	s.auth.running, s.auth.client = true, false
	return Action{Kind: Authenticate, ClientID: s.id, Expiry: s.expiry, Auth: &Auth{
		Method: s.auth.method, Data: slices.Clone(p.AuthenticationData), Again: s.phase == online,
	}}
}

// authOnline handles AUTH of a connected client: it authenticates again, and
// whatever else it does goes on (4.12.1).
func (s *Session) authOnline(p *packet.Auth, out []Action) []Action {
	if e := s.judgeAuth(p); e != nil { // [MQTT-4.12.1-2]
		return s.violation(e, "AUTH", out)
	}
	return append(out, s.answered(p))
}

// reauthenticated tells the client that it has proved itself again.
func (s *Session) reauthenticated(a *Admission, out []Action) []Action {
	if s.auth == nil || !s.auth.running || a == nil {
		return out
	}
	s.auth.running, s.auth.client = false, false
	s.prove(a)
	return append(out, s.sendAuth(packet.Success, a.AuthData))
}
