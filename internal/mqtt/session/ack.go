package session

import (
	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
)

// maxOwed is how many acknowledgements may be owed: a client has no more
// packet ids.
const maxOwed = 65535

// ack is an acknowledgement that the client is owed.
type ack struct {
	kind    packet.Type
	code    packet.ReasonCode
	ready   bool
	echo    bool // repeats one; nothing depends on it
	failed  bool // the commit has failed
	id      uint16
	request *Request // of SUBACK and UNSUBACK
}

// owe queues an acknowledgement and returns the token that settles it.
func (s *Session) owe(a ack) uint64 {
	s.acks = append(s.acks, a)
	return s.first + uint64(len(s.acks)) - 1
}

// answer queues an acknowledgement that depends on nothing but those before
// it.
func (s *Session) answer(a ack, out []Action) []Action {
	a.ready = true
	s.acks = append(s.acks, a)
	if len(s.acks) > 1 && !s.acks[0].ready {
		return out
	}
	return s.flush(out)
}

// committed settles what a token stands for.
func (s *Session) committed(token uint64, code packet.ReasonCode, codes []packet.ReasonCode, out []Action) []Action {
	i := token - s.first
	if i >= uint64(len(s.acks)) {
		return out
	}
	a := &s.acks[i]
	if a.ready {
		return out
	}
	a.code, a.ready, a.failed = code, true, code.Failed()
	if a.request != nil {
		s.decided(a, codes)
	}
	return s.flush(out)
}

// flush sends every acknowledgement that has become due, in the order of
// arrival [MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT-4.6.0-4].
func (s *Session) flush(out []Action) []Action {
	due := 0
	for ; due < len(s.acks) && s.acks[due].ready; due++ {
		over := s.phase == ended // then nothing is sent, but State is to be right
		if next := s.acknowledge(&s.acks[due], s.acks[due+1:], out); !over {
			out = next
		}
	}
	s.first += uint64(due)
	// To the front, so that the slice is used again: nearly always there is
	// one acknowledgement and it is due.
	n := copy(s.acks, s.acks[due:])
	clear(s.acks[n:])
	if s.acks = s.acks[:n]; n == 0 && cap(s.acks) > 8 {
		s.acks = nil
	}
	return out
}

// acknowledge sends one. later are those that are owed after it.
func (s *Session) acknowledge(a *ack, later []ack, out []Action) []Action {
	if a.kind == packet.PUBREC && a.code == packet.NoMatchingSubscribers { // not said of QoS 2
		a.code = packet.Success
	}
	a.code = legal(a.kind, a.code)
	code := a.code
	switch a.kind {
	case packet.SUBACK:
		return append(out, Action{Kind: Send, Packet: &packet.Suback{PacketID: a.id, ReasonCodes: a.request.Codes}})
	case packet.UNSUBACK:
		return append(out, Action{Kind: Send, Packet: &packet.Unsuback{PacketID: a.id, ReasonCodes: a.request.Codes}})
	case packet.PUBACK:
		s.unacked--
	case packet.PUBREC:
		s.recorded(a, later)
	case packet.PUBREL, packet.PUBCOMP:
		if a.failed {
			return s.unstored(a.kind, out)
		}
		if a.kind == packet.PUBREL && !a.echo {
			s.released(a.id)
		} else if a.kind == packet.PUBCOMP && !a.echo {
			s.completed(a.id)
		}
	}
	if code.Failed() && s.version != packet.V5 && (a.kind == packet.PUBACK || a.kind == packet.PUBREC) {
		// 3.1.1 cannot say that a message was not taken [3.1.1 MQTT-3.3.5-2].
		return s.violation(&packet.Error{Code: code, Clause: "3.1.1 MQTT-3.3.5-2", Message: "the message was refused: " + code.String()}, "PUBLISH", out)
	}
	return append(out, Action{Kind: SendAck, Type: a.kind, PacketID: a.id, Code: code})
}

// legal returns code, or Unspecified error where packets of the type have no
// such code ([MQTT-3.4.2-1] and its like).
func legal(t packet.Type, code packet.ReasonCode) packet.ReasonCode {
	if t == packet.PUBREL || t == packet.PUBCOMP || t.Allows(code) {
		return code
	}
	return packet.UnspecifiedError
}

// unstored ends the session because a step of QoS 2 could not be stored, which
// the answer cannot say.
func (s *Session) unstored(t packet.Type, out []Action) []Action {
	return s.end(Ending{disconnect.ServerError, disconnect.Evidence{
		Kind: disconnect.Internal, Packet: t.String(), Detail: "a step of QoS 2 could not be stored",
	}}, packet.UnspecifiedError, true, out)
}
