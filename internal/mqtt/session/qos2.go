package session

import (
	"slices"

	"rollcall/internal/clock"
	"rollcall/internal/mqtt/packet"
)

// inbound are the QoS 2 messages of the client's that have not been completed, by
// packet id. Few are in ascending order; a client chooses the order of its ids, so
// that of many each would have many to be moved: those are in no order, with an
// index.
type inbound struct {
	list  []receipt
	index map[uint16]int // where in list; nil while there are few
}

const fewReceipts = 64

// receipt is one of them.
type receipt struct {
	id      uint16
	state   receiptState
	counted bool // against the Receive Maximum of this connection
}

type receiptState uint8

const (
	taken      receiptState = iota // PUBREC has not left yet
	recorded                       // PUBREC has left
	completing                     // PUBREL has come, PUBCOMP has not left yet
)

func (b *inbound) search(id uint16) (int, bool) {
	if b.index != nil {
		i, ok := b.index[id]
		return i, ok
	}
	return slices.BinarySearchFunc(b.list, id, func(r receipt, id uint16) int { return int(r.id) - int(id) })
}

// find returns what is known of an id, or nil. It is valid until the next add or
// remove.
func (b *inbound) find(id uint16) *receipt {
	if i, ok := b.search(id); ok {
		return &b.list[i]
	}
	return nil
}

func (b *inbound) add(r receipt) {
	if b.index == nil && len(b.list) == fewReceipts {
		b.index = make(map[uint16]int, 2*fewReceipts)
		for i, f := range b.list {
			b.index[f.id] = i
		}
	}
	if b.index != nil {
		b.index[r.id] = len(b.list)
		b.list = append(b.list, r)
		return
	}
	i, _ := b.search(r.id)
	b.list = slices.Insert(b.list, i, r)
}

func (b *inbound) remove(id uint16) (r receipt, ok bool) {
	i, ok := b.search(id)
	if !ok {
		return r, false
	}
	r = b.list[i]
	if b.index == nil {
		b.list = slices.Delete(b.list, i, i+1)
	} else {
		last := len(b.list) - 1
		b.list[i] = b.list[last]
		b.index[b.list[i].id] = i
		b.list = b.list[:last]
		delete(b.index, id)
	}
	if len(b.list) == 0 && cap(b.list) > 16 {
		b.list, b.index = nil, nil
	}
	return r, true
}

// all returns them in the order of their ids.
func (b *inbound) all() []receipt {
	all := b.list
	if b.index != nil {
		all = slices.Clone(all)
		slices.SortFunc(all, func(a, b receipt) int { return int(a.id) - int(b.id) })
	}
	return all
}

// repeated answers a PUBLISH whose message has been taken already
// [MQTT-4.3.3-10]. A PUBREC that is owed yet answers both.
func (s *Session) repeated(r *receipt, out []Action) []Action {
	if r.state == taken {
		return out
	}
	return s.answer(ack{kind: packet.PUBREC, id: r.id, echo: true}, out)
}

// recorded notes that a PUBREC leaves. One with a failure frees the packet id
// [MQTT-4.3.3-9].
func (s *Session) recorded(a *ack, later []ack) {
	if a.echo {
		return
	}
	if !a.code.Failed() {
		if r := s.inbound.find(a.id); r != nil && r.state == taken {
			r.state = recorded
		}
		return
	}
	s.completed(a.id)
	for i := range later { // a PUBREL that did not wait for the PUBREC
		if l := &later[i]; l.id == a.id && l.kind == packet.PUBCOMP {
			l.code, l.ready, l.echo, l.failed = packet.PacketIdentifierNotFound, true, true, false
		}
	}
}

// completed frees a packet id of the client's.
func (s *Session) completed(id uint16) {
	if r, ok := s.inbound.remove(id); ok && r.counted {
		s.unacked--
	}
}

// pubrel handles a PUBREL: PUBCOMP once it is stored that the packet id is
// free [MQTT-4.3.3-11].
func (s *Session) pubrel(p *packet.Ack, out []Action) []Action {
	if s.cfg.RefuseUserProps && len(p.UserProperties) > 0 {
		return s.violation(userProps, "PUBREL", out)
	}
	r := s.inbound.find(p.PacketID)
	switch {
	case r == nil: // 3.1.1 knows no codes and completes what it does not know
		return s.answer(ack{kind: packet.PUBCOMP, id: p.PacketID, code: packet.PacketIdentifierNotFound, echo: true}, out)
	case r.state == completing:
		return s.answer(ack{kind: packet.PUBCOMP, id: p.PacketID, echo: true}, out)
	}
	r.state = completing
	a := ack{kind: packet.PUBCOMP, id: p.PacketID}
	if !s.stored {
		return s.answer(a, out)
	}
	return append(out, Action{Kind: Complete, PacketID: p.PacketID, Token: s.owe(a)})
}

// pubrec handles a PUBREC: PUBREL once it is stored that the client has the
// message [MQTT-4.3.3-4] [MQTT-4.3.3-6].
func (s *Session) pubrec(p *packet.Ack, congested bool, now clock.Instant, out []Action) []Action {
	if e := s.judgeAck(p, "PUBREC"); e != nil {
		return s.violation(e, "PUBREC", out)
	}
	f := s.out.find(p.PacketID)
	switch {
	case f == nil && p.ReasonCode.Failed():
		return out
	case f == nil: // PUBREL in 3.1.1 too: whoever has received must be released [3.1.1 MQTT-4.3.3-1]
		return s.answer(ack{kind: packet.PUBREL, id: p.PacketID, code: packet.PacketIdentifierNotFound, echo: true}, out)
	case f.qos != packet.QoS2:
		return s.violation(wrongAck, "PUBREC", out)
	case p.ReasonCode.Failed(): // [MQTT-4.4.0-2]
		return s.settled(f, congested, now, out)
	case f.state == releasing: // the PUBREL that is owed answers both
		return out
	case f.state == releasedState:
		return s.answer(ack{kind: packet.PUBREL, id: p.PacketID, echo: true}, out)
	}
	if f.state == waiting { // received on an earlier connection
		s.unqueue(f)
		s.out.launched(f, false)
	}
	f.state = releasing
	a := ack{kind: packet.PUBREL, id: p.PacketID}
	if !s.stored {
		return s.answer(a, out)
	}
	return append(out, Action{Kind: Release, PacketID: p.PacketID, Token: s.owe(a)})
}

// released notes that a PUBREL leaves.
func (s *Session) released(id uint16) {
	if f := s.out.find(id); f != nil && f.state == releasing {
		f.state = releasedState
		f.message, f.extra = nil, nil
	}
}

// pubcomp handles a PUBCOMP, whatever its code: the packet id is free.
func (s *Session) pubcomp(p *packet.Ack, congested bool, now clock.Instant, out []Action) []Action {
	if s.cfg.RefuseUserProps && len(p.UserProperties) > 0 {
		return s.violation(userProps, "PUBCOMP", out)
	}
	f := s.out.find(p.PacketID)
	switch {
	case f == nil:
		return out // of an earlier connection, or a mistake that harms nobody
	case f.state != releasedState:
		return s.violation(wrongAck, "PUBCOMP", out)
	}
	return s.settled(f, congested, now, out)
}
