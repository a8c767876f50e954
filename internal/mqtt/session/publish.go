package session

import (
	"fmt"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/topic"
)

var userProps = &packet.Error{
	Code: packet.ImplementationSpecificError, Message: "user properties are supported on PUBLISH and Will only",
}

// ack is an acknowledgement that the client is owed.
type ack struct {
	kind  packet.Type
	id    uint16
	code  packet.ReasonCode
	codes []packet.ReasonCode
	ready bool
}

// owe queues an acknowledgement and returns the token that settles it.
func (s *Session) owe(a ack) uint32 {
	s.acks = append(s.acks, a)
	return s.first + uint32(len(s.acks)) - 1
}

// committed settles what a token stands for and sends every acknowledgement
// that has become due, in the order of arrival [MQTT-4.6.0-2].
func (s *Session) committed(token uint32, code packet.ReasonCode, codes []packet.ReasonCode, out []Action) []Action {
	i := token - s.first
	if i >= uint32(len(s.acks)) {
		return out
	}
	a := &s.acks[i]
	a.code, a.ready = code, true
	if codes != nil {
		a.codes = codes
	}
	due := 0
	for ; due < len(s.acks) && s.acks[due].ready; due++ {
		out = append(out, s.acks[due].action())
		if s.acks[due].kind == packet.PUBACK {
			s.unacknowledged--
		}
	}
	s.first += uint32(due)
	// To the front, so that the slice is used again: nearly always there is
	// one acknowledgement and it is due.
	n := copy(s.acks, s.acks[due:])
	clear(s.acks[n:])
	if s.acks = s.acks[:n]; n == 0 && cap(s.acks) > 16 {
		s.acks = nil
	}
	return out
}

func (a *ack) action() Action {
	switch a.kind {
	case packet.SUBACK:
		return Action{Kind: Send, Packet: &packet.Suback{PacketID: a.id, ReasonCodes: a.codes}}
	case packet.UNSUBACK:
		return Action{Kind: Send, Packet: &packet.Unsuback{PacketID: a.id, ReasonCodes: a.codes}}
	}
	return Action{Kind: SendPuback, PacketID: a.id, Code: a.code}
}

// published handles a PUBLISH.
func (s *Session) published(p *packet.Publish, now time.Time, out []Action) []Action {
	if p.QoS > s.cfg.MaximumQoS { // [MQTT-3.2.2-11]
		return s.violation(&packet.Error{Code: packet.QoSNotSupported, Clause: "MQTT-3.2.2-11",
			Message: fmt.Sprintf("the highest QoS is %d", s.cfg.MaximumQoS)}, "PUBLISH", out)
	}
	if p.Retain && !s.cfg.RetainAvailable { // [MQTT-3.2.2-14]
		return s.violation(&packet.Error{Code: packet.RetainNotSupported, Clause: "MQTT-3.2.2-14",
			Message: "retained messages are not available"}, "PUBLISH", out)
	}
	if e := s.resolveAlias(p); e != nil {
		return s.violation(e, "PUBLISH", out)
	}
	if p.QoS == packet.QoS1 && s.unacknowledged >= s.cfg.ReceiveMaximum { // [MQTT-3.3.4-7]
		return s.violation(&packet.Error{Code: packet.ReceiveMaximumExceeded, Clause: "MQTT-3.3.4-7",
			Message: fmt.Sprintf("more than %d unacknowledged messages", s.cfg.ReceiveMaximum)}, "PUBLISH", out)
	}
	if code, text := s.judgePublish(p); code != 0 {
		if s.version == packet.V5 && p.QoS == packet.QoS1 {
			s.unacknowledged++
			return s.committed(s.owe(ack{kind: packet.PUBACK, id: p.PacketID}), code, nil, out)
		}
		return s.violation(&packet.Error{Code: code, Message: text}, "PUBLISH", out)
	}
	m := s.newMessage(p.Clone())
	m.Received = now
	a := Action{Kind: Route, Message: m}
	if p.QoS == packet.QoS1 {
		s.unacknowledged++
		a.Token = s.owe(ack{kind: packet.PUBACK, id: p.PacketID})
	}
	return append(out, a)
}

// resolveAlias replaces a topic alias by the topic it stands for (3.3.2.3.4).
func (s *Session) resolveAlias(p *packet.Publish) *packet.Error {
	if p.TopicAlias == 0 {
		return nil
	}
	if p.TopicAlias > s.cfg.TopicAliasMaximum { // [MQTT-3.3.2-9]
		return &packet.Error{Code: packet.TopicAliasInvalid, Clause: "MQTT-3.3.2-9",
			Message: fmt.Sprintf("the topic alias is above %d", s.cfg.TopicAliasMaximum)}
	}
	if s.aliases == nil {
		s.aliases = make([][]byte, s.cfg.TopicAliasMaximum+1)
	}
	if len(p.Topic) > 0 {
		s.aliases[p.TopicAlias] = append([]byte(nil), p.Topic...)
		return nil
	}
	if s.aliases[p.TopicAlias] == nil {
		return &packet.Error{Code: packet.ProtocolError, Clause: "MQTT-3.3.2-7", Message: "the topic alias has no topic yet"}
	}
	p.Topic = s.aliases[p.TopicAlias]
	return nil
}

// judgePublish returns why a message is not taken although the packet is
// legal, or 0.
func (s *Session) judgePublish(p *packet.Publish) (packet.ReasonCode, string) {
	if topic.ValidateName(p.Topic, s.cfg.Topics) != nil {
		return packet.TopicNameInvalid, "the topic is too long or too deep"
	}
	if reserved(p.Topic) {
		return packet.NotAuthorized, "topics that begin with $ are reserved"
	}
	return s.judgeFields(p)
}

func (s *Session) judgeFields(p *packet.Publish) (packet.ReasonCode, string) {
	if most := s.cfg.MaxFieldBytes; most > 0 &&
		(len(p.ResponseTopic) > most || len(p.CorrelationData) > most || len(p.ContentType) > most) {
		return packet.QuotaExceeded, fmt.Sprintf("response topic, correlation data and content type have at most %d bytes each", most)
	}
	if most := s.cfg.MaxUserBytes; most > 0 {
		n := 0
		for _, u := range p.UserProperties {
			n += len(u.Name) + len(u.Value)
		}
		if n > most {
			return packet.QuotaExceeded, fmt.Sprintf("user properties have at most %d bytes together", most)
		}
	}
	if s.cfg.CheckPayload && p.CheckPayloadFormat() != nil {
		return packet.PayloadFormatInvalid, "the payload is not UTF-8"
	}
	return 0, ""
}
