package session

import (
	"bytes"
	"fmt"

	"rollcall/internal/clock"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/topic"
)

// published handles a PUBLISH.
func (s *Session) published(p *packet.Publish, in *Input, now clock.Instant, out []Action) []Action {
	if p.QoS > s.cfg.MaximumQoS { // [MQTT-3.2.2-11]
		return s.violation(&packet.Error{Code: packet.QoSNotSupported, Clause: "MQTT-3.2.2-11",
			Message: fmt.Sprintf("the highest QoS is %d", s.cfg.MaximumQoS)}, "PUBLISH", out)
	}
	if p.Retain && !s.cfg.RetainAvailable { // [MQTT-3.2.2-14]
		return s.violation(&packet.Error{Code: packet.RetainNotSupported, Clause: "MQTT-3.2.2-14",
			Message: "retained messages are not available"}, "PUBLISH", out)
	}
	alias := p.TopicAlias != 0
	if e := s.resolveAlias(p); e != nil {
		return s.violation(e, "PUBLISH", out)
	}
	if p.QoS == packet.QoS2 {
		if r := s.inbound.find(p.PacketID); r != nil { // [MQTT-4.3.3-10]
			return s.repeated(r, out)
		}
	}
	// 3.1.1 has no such limit: what bounds it is maxOwed, and the driver that
	// reads no further.
	if p.QoS > packet.QoS0 && s.version == packet.V5 && s.unacked >= uint32(s.cfg.ReceiveMaximum) { // [MQTT-3.3.4-8]
		return s.violation(&packet.Error{Code: packet.ReceiveMaximumExceeded, Clause: "MQTT-3.3.4-8",
			Message: fmt.Sprintf("more than %d unacknowledged messages", s.cfg.ReceiveMaximum)}, "PUBLISH", out)
	}
	if code, text := s.judgePublish(p); code != 0 {
		if s.version == packet.V5 && p.QoS > packet.QoS0 {
			return s.answer(s.take(p, code), out)
		}
		return s.violation(&packet.Error{Code: code, Message: text}, "PUBLISH", out)
	}
	a := Action{Kind: Route, Message: s.message(p, in, alias)}
	a.Message.Received = now.Wall
	if p.QoS > packet.QoS0 {
		a.Token = s.owe(s.take(p, 0))
	}
	if p.QoS == packet.QoS2 {
		a.PacketID = p.PacketID
	}
	return append(out, a)
}

// take counts a message of QoS 1 or 2 and returns what it is answered with
// [MQTT-3.3.4-1].
func (s *Session) take(p *packet.Publish, code packet.ReasonCode) ack {
	s.unacked++
	if p.QoS == packet.QoS1 {
		return ack{kind: packet.PUBACK, id: p.PacketID, code: code}
	}
	s.inbound.add(receipt{id: p.PacketID, state: taken, counted: true})
	return ack{kind: packet.PUBREC, id: p.PacketID, code: code}
}

// message returns p as a message, in the scratch if there is one.
func (s *Session) message(p *packet.Publish, in *Input, alias bool) *Message {
	m := in.Scratch
	if m != nil {
		frame := in.Frame
		if alias { // what came has the alias in it
			frame = nil
		}
		m.borrow(p, s.version, frame)
	} else {
		m = new(Message)
		p.CloneTo(&m.Publish)
	}
	s.sign(m)
	return m
}

// sign makes a message one of the client's.
func (s *Session) sign(m *Message) {
	m.From = s.id
	m.PacketID, m.Dup = 0, false // [MQTT-3.3.1-3]
	m.TopicAlias = 0             // [MQTT-3.3.2-10]
	if s.cfg.ExpiryZeroNever && m.MessageExpiryInterval.Value == 0 {
		m.MessageExpiryInterval = packet.Optional[uint32]{}
	}
}

// judgePublish returns why a message is not taken although the packet is
// legal, or 0.
func (s *Session) judgePublish(p *packet.Publish) (packet.ReasonCode, string) {
	if topic.ValidateName(p.Topic, s.cfg.Topics) != nil {
		return packet.TopicNameInvalid, "the topic is too long or too deep"
	}
	if s.reserved(p.Topic) {
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

func (s *Session) reserved(name []byte) bool {
	return len(name) > 0 && name[0] == '$' && !(s.cfg.BridgeStates && bytes.HasPrefix(name, bridgeStates))
}

// bridgeStates is where bridges of mosquitto publish that they are connected,
// and have their Will say that they are not.
var bridgeStates = []byte("$SYS/broker/connection/")
