package session

import (
	"fmt"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
)

// deliver handles a message that matched a subscription of the client.
func (s *Session) deliver(in *Input, now time.Time, out []Action) []Action {
	m := in.Message
	qos := min(m.QoS, in.QoS) // [MQTT-3.8.4-8]
	if why := s.undeliverable(m, qos, now); why != "" {
		return dropped(why, out)
	}
	if qos == packet.QoS0 {
		if in.Congested {
			return dropped("congested", out)
		}
		return append(out, s.outgoing(m, qos, 0, now))
	}
	if len(s.queue) == 0 && !in.Congested && len(s.inflight) < int(s.inflightMax) {
		return s.sendQoS1(m, now, out)
	}
	if len(s.queue) >= s.cfg.QueueMessages || s.queueLen+m.Size() > s.cfg.QueueBytes && len(s.queue) > 0 {
		return s.end(Ending{disconnect.SessionOverflow, disconnect.Evidence{
			Kind: disconnect.Limit,
			Detail: fmt.Sprintf("%d messages of %d bytes waited and %d were unacknowledged; the limit is %d messages or %d bytes",
				len(s.queue), s.queueLen, len(s.inflight), s.cfg.QueueMessages, s.cfg.QueueBytes),
		}}, packet.QuotaExceeded, true, out)
	}
	s.queue = append(s.queue, m)
	s.queueLen += m.Size()
	return out
}

// undeliverable says why a message can't be sent to this client at all.
func (s *Session) undeliverable(m *Message, qos packet.QoS, now time.Time) string {
	if at := m.Expires(); !at.IsZero() && !now.Before(at) { // [MQTT-3.3.2-5]
		return "expired"
	}
	e, err := m.Encoded(s.version, qos, false)
	if err != nil {
		return "encoding" // e.g. a topic of MQTT 5 that 3.1.1 cannot carry
	}
	if s.sizeMax != 0 && uint64(e.Len()) > uint64(s.sizeMax) { // [MQTT-3.1.2-25]
		return "too_large"
	}
	return ""
}

func dropped(why string, out []Action) []Action {
	return append(out, Action{Kind: Drop, Ending: Ending{Evidence: disconnect.Evidence{Detail: why}}})
}

func (s *Session) outgoing(m *Message, qos packet.QoS, id uint16, now time.Time) Action {
	a := Action{Kind: SendMessage, Message: m, QoS: qos, PacketID: id}
	if at := m.Expires(); !at.IsZero() { // [MQTT-3.3.2-6]
		a.Expiry = uint32((at.Sub(now) + time.Second - 1) / time.Second)
	}
	return a
}

func (s *Session) sendQoS1(m *Message, now time.Time, out []Action) []Action {
	if s.inflight == nil {
		s.inflight = make(map[uint16]struct{})
	}
	for { // [MQTT-2.2.1-3]; fewer than 65,535 are in flight, so one is free
		s.nextID++
		if _, used := s.inflight[s.nextID]; s.nextID != 0 && !used {
			break
		}
	}
	s.inflight[s.nextID] = struct{}{}
	return append(out, s.outgoing(m, packet.QoS1, s.nextID, now))
}

// drain sends what waits, as far as the client's window allows.
func (s *Session) drain(now time.Time, out []Action) []Action {
	for len(s.queue) > 0 && len(s.inflight) < int(s.inflightMax) {
		m := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		s.queueLen -= m.Size()
		if why := s.undeliverable(m, packet.QoS1, now); why != "" {
			out = dropped(why, out)
			continue
		}
		out = s.sendQoS1(m, now, out)
	}
	if len(s.queue) == 0 {
		s.queue = nil
	}
	return out
}

// acknowledged handles a PUBACK. While the transport is behind, what waits
// goes on waiting for Drain: a client that acknowledges and does not read must
// not make us send without bound.
func (s *Session) acknowledged(p *packet.Puback, congested bool, now time.Time, out []Action) []Action {
	if s.cfg.RefuseUserProps && len(p.UserProperties) > 0 {
		return s.violation(userProps, "PUBACK", out)
	}
	if p.ReasonCode.Failed() && s.cfg.FatalNegativeAck {
		return s.violation(&packet.Error{Code: packet.ImplementationSpecificError,
			Message: "the client answered a message with a failure: " + p.ReasonCode.String()}, "PUBACK", out)
	}
	if _, ok := s.inflight[p.PacketID]; !ok {
		return out // of an earlier connection, or a mistake that harms nobody
	}
	delete(s.inflight, p.PacketID)
	if congested {
		return out
	}
	return s.drain(now, out)
}
