package session

import (
	"rollcall/internal/clock"
	"rollcall/internal/mqtt/packet"
)

// stepAdmission waits for Admitted or Refused, and for what the client and the
// server say to each other before in enhanced authentication. Whatever ends the
// connection while the server is asked is remembered: the claim may stand, and
// then so must its end.
func (s *Session) stepAdmission(in *Input, now clock.Instant, out []Action) []Action {
	if s.challenged() {
		return s.stepChallenged(in, now, out)
	}
	switch in.Kind {
	case Challenge:
		if s.doom != nil { // nothing is claimed yet
			return s.turnAway(out)
		}
		return s.challenge(in.Data, now, out)
	case Admitted:
		return s.admitted(in.Admission, now, out)
	case Refused:
		if s.doom != nil {
			return s.turnAway(out)
		}
		return s.refuse(in.Code, in.Text, out)
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

// turnAway ends a doomed session that was never admitted.
func (s *Session) turnAway(out []Action) []Action {
	if s.doom.code != 0 {
		return s.refuse(connackCode(s.doom.code), "", out)
	}
	return s.shut(out)
}

// connackCode is the code for CONNACK, which has not all of DISCONNECT's.
func connackCode(code packet.ReasonCode) packet.ReasonCode {
	if code == packet.NotAuthorized {
		return code
	}
	return packet.ServerUnavailable
}

// admitted answers CONNECT with what the server offers (3.2.2.3) and goes on
// where the session was left.
func (s *Session) admitted(a *Admission, now clock.Instant, out []Action) []Action {
	if a == nil {
		a = new(Admission)
	}
	c := s.asked
	s.phase = online
	s.asked = nil
	s.heard = now.Mono // the wait for the disk is not the client's
	s.stored = a.Stored
	s.prove(a)
	s.inflightMax = min(s.cfg.MaxInflight, c.ReceiveMaximum)        // [MQTT-3.3.4-9]
	s.aliasMax = min(s.cfg.ServerAliasMaximum, c.TopicAliasMaximum) // [MQTT-3.1.2-26] [MQTT-3.1.2-27]
	s.restore(a.State)
	if s.auth != nil {
		s.auth.running = false
	}
	if s.doom != nil {
		if s.doom.code != 0 {
			out = append(out, Action{Kind: Send, Packet: &packet.Connack{ReasonCode: connackCode(s.doom.code)}})
		}
		return s.end(s.doom.ending, 0, true, out)
	}
	out = append(out, Action{Kind: Send, Packet: s.connack(c, a)})
	return s.resume(now, out)
}

// prove notes when the proof of identity ends.
func (s *Session) prove(a *Admission) {
	s.proof = nil
	if !a.ExpiresAt.IsZero() {
		s.proof = &proof{a.ExpiresAt, a.ExpiryDetail}
	}
}

func (s *Session) connack(c *packet.Connect, a *Admission) *packet.Connack {
	cfg := s.cfg
	ack := &packet.Connack{SessionPresent: a.Resumed && !c.CleanStart} // [MQTT-3.2.2-2] [MQTT-3.2.2-3]
	s.keepAlive = c.KeepAlive
	if most := cfg.MaximumKeepAlive; most != 0 && (s.keepAlive == 0 || s.keepAlive > most) {
		s.keepAlive = most
		ack.ServerKeepAlive = packet.Some(most) // [MQTT-3.1.2-21]
	}
	if s.version != packet.V5 {
		return ack
	}
	if s.expiry != c.SessionExpiryInterval { // 3.2.2.3.2
		ack.SessionExpiryInterval = packet.Some(s.expiry)
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
		ack.AssignedClientIdentifier = s.id // [MQTT-3.1.3-7] [MQTT-3.2.2-16]
	}
	if s.auth != nil { // [MQTT-4.12.0-5]
		ack.AuthenticationMethod = s.auth.method
		ack.AuthenticationData = a.AuthData
	}
	return ack
}
