package session

import (
	"fmt"
	"slices"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
)

// deliver handles a message that matched a subscription of the client.
func (s *Session) deliver(in *Input, now clock.Instant, out []Action) []Action {
	m := in.Message
	a := Action{Kind: SendMessage, Message: m, Retain: in.Retain, SubscriptionIDs: in.SubscriptionIDs,
		QoS: min(m.QoS, in.QoS)} // [MQTT-3.8.4-8]
	if a.QoS == packet.QoS0 {
		return s.deliverQoS0(&a, in, now, out)
	}
	o := &s.out
	if o.waiting == 0 && !in.Congested && o.flying < uint32(s.inflightMax) {
		if why := s.prepare(&a, now); why != 0 {
			return s.dropped(why, in.PacketID, out)
		}
		if a.PacketID = in.PacketID; a.PacketID == 0 {
			s.nextID = o.free(s.nextID)
			a.PacketID = s.nextID
		}
		f := s.out.push(flight{id: a.PacketID, qos: a.QoS, state: sent, retain: in.Retain, counted: true})
		o.flying++
		if s.stored || in.Share != "" {
			f.message, f.extra = m.Keep(), s.extra(in)
		}
		return append(out, a)
	}
	if why := s.undeliverable(&a, now); why != 0 {
		return s.dropped(why, in.PacketID, out)
	}
	if !s.stored {
		if s.full(m) {
			out = s.expireWaiting(now, out)
		}
		if s.full(m) {
			return s.overflow(out)
		}
		s.outBytes += uint32(m.Size())
	}
	o.push(flight{id: in.PacketID, qos: a.QoS, retain: in.Retain, message: m.Keep(), extra: s.extra(in)})
	o.waiting++
	return out
}

// full reports that a message cannot wait in the queue of a session that is not
// stored.
func (s *Session) full(m *Message) bool {
	waiting := int(s.out.waiting)
	return waiting >= s.cfg.QueueMessages || waiting > 0 && int(s.outBytes)+m.Size() > min(s.cfg.QueueBytes, 2<<30)
}

// expireWaiting gives up what has expired while it waited [MQTT-3.3.2-5].
func (s *Session) expireWaiting(now clock.Instant, out []Action) []Action {
	for i := range s.out.n {
		f := s.out.at(i)
		if f.state != waiting || f.again {
			continue
		}
		if at := f.message.Expires(); !at.IsZero() && !now.Wall.Before(at) {
			s.unqueue(f)
			out = s.giveUp(f, DropExpired, out)
		}
	}
	s.out.trim()
	return out
}

// extra returns what a message that is kept has besides, or nil.
func (s *Session) extra(in *Input) *extra {
	if in.Share == "" && (len(in.SubscriptionIDs) == 0 || s.version != packet.V5) {
		return nil
	}
	return &extra{ids: slices.Clone(in.SubscriptionIDs), share: in.Share}
}

func (s *Session) deliverQoS0(a *Action, in *Input, now clock.Instant, out []Action) []Action {
	if in.Congested {
		return s.dropped(DropCongested, in.PacketID, out)
	}
	if why := s.prepare(a, now); why != 0 {
		return s.dropped(why, in.PacketID, out)
	}
	out = append(out, *a)
	if s.stored && in.PacketID != 0 { // nobody will acknowledge it
		out = append(out, Action{Kind: Settle, PacketID: in.PacketID})
	}
	return out
}

func (s *Session) dropped(why DropReason, id uint16, out []Action) []Action {
	out = append(out, Action{Kind: Drop, Why: why})
	if s.stored && id != 0 {
		out = append(out, Action{Kind: Settle, PacketID: id})
	}
	return out
}

func (s *Session) overflow(out []Action) []Action {
	return s.end(Ending{disconnect.SessionOverflow, disconnect.Evidence{
		Kind: disconnect.Limit,
		Detail: fmt.Sprintf("%d messages of %d bytes waited and %d were unacknowledged; the limit is %d messages or %d bytes",
			s.out.waiting, s.outBytes, s.out.flying, s.cfg.QueueMessages, s.cfg.QueueBytes),
	}}, packet.QuotaExceeded, true, out)
}

// prepare completes a message that is sent now, or says why it cannot be.
func (s *Session) prepare(a *Action, now clock.Instant) DropReason {
	if why := s.undeliverable(a, now); why != 0 {
		return why
	}
	if at := a.Message.Expires(); !at.IsZero() { // [MQTT-3.3.2-6]
		a.Expiry = uint32(max(0, (at.Sub(now.Wall)+time.Second-1)/time.Second))
		a.Expiry = min(a.Expiry, a.Message.MessageExpiryInterval.Value) // whatever the clocks of two turns say
	}
	if s.aliasMax > 0 {
		s.alias(a)
	}
	return 0
}

// undeliverable says why a message can't be sent to this client at all, or 0.
func (s *Session) undeliverable(a *Action, now clock.Instant) DropReason {
	if at := a.Message.Expires(); !at.IsZero() && !now.Wall.Before(at) && !a.Dup { // [MQTT-3.3.2-5], but [MQTT-4.3.3-7]
		return DropExpired
	}
	var n int
	if len(a.SubscriptionIDs) > 0 && s.version == packet.V5 {
		p := a.Message.Publish
		p.QoS, p.Retain, p.SubscriptionIdentifiers, p.TopicAlias = a.QoS, a.Retain, a.SubscriptionIDs, 0
		size, err := p.Size(s.version)
		if err != nil {
			return DropEncoding
		}
		n = size
	} else {
		e, err := a.Message.Encoded(s.version, a.QoS, a.Retain)
		if err != nil {
			return DropEncoding
		}
		n = e.Len()
	}
	if s.sizeMax != 0 && uint64(n) > uint64(s.sizeMax) { // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
		return DropTooLarge
	}
	return 0
}

// puback handles a PUBACK.
func (s *Session) puback(p *packet.Ack, congested bool, now clock.Instant, out []Action) []Action {
	if e := s.judgeAck(p, "PUBACK"); e != nil {
		return s.violation(e, "PUBACK", out)
	}
	f := s.out.find(p.PacketID)
	switch {
	case f == nil:
		return out // of an earlier connection, or a mistake that harms nobody
	case f.qos != packet.QoS1:
		return s.violation(wrongAck, "PUBACK", out)
	}
	return s.settled(f, congested, now, out)
}

var wrongAck = &packet.Error{Code: packet.ProtocolError, Clause: "4.3", Message: "the packet does not belong to the message's QoS or step"}

// judgeAck returns why a PUBACK or PUBREC ends the connection, or nil.
func (s *Session) judgeAck(p *packet.Ack, name string) *packet.Error {
	if s.cfg.RefuseUserProps && len(p.UserProperties) > 0 {
		return userProps
	}
	if p.ReasonCode.Failed() && s.cfg.FatalNegativeAck {
		return &packet.Error{Code: packet.ImplementationSpecificError,
			Message: "the client answered a message with a failure: " + p.ReasonCode.String()}
	}
	return nil
}
