package session

import (
	"slices"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/topic"
)

// subscribe handles a SUBSCRIBE. Filters that cannot be granted get their code
// here; the driver asks for the others.
func (s *Session) subscribe(p *packet.Subscribe, out []Action) []Action {
	if p.SubscriptionIdentifier != 0 && !s.cfg.SubscriptionIDAvailable { // 3.2.2.3.12
		return s.violation(&packet.Error{Code: packet.SubscriptionIdentifiersNotSupported, Clause: "3.2.2.3.12",
			Message: "subscription identifiers are not available"}, "SUBSCRIBE", out)
	}
	if s.version == packet.V5 && s.cfg.SharedAvailable {
		for i := range p.Subscriptions {
			if _, _, _, err := topic.ParseShared(p.Subscriptions[i].Filter); err != nil { // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
				return s.violation(&packet.Error{Code: packet.ProtocolError, Clause: "MQTT-4.8.2-1", Message: "a shared subscription without a share name or a filter"}, "SUBSCRIBE", out)
			}
		}
	}
	n := len(p.Subscriptions)
	r := &Request{Codes: make([]packet.ReasonCode, n), Subscriptions: make([]Subscription, n), Existed: make([]bool, n)}
	all := s.refuseAll(p)
	for i, sub := range p.Subscriptions { // [MQTT-3.8.4-5]
		sub.QoS = min(sub.QoS, s.cfg.MaximumQoS) // [MQTT-3.2.2-9] [MQTT-3.2.2-10]
		r.Subscriptions[i] = Subscription{Subscription: sub, ID: p.SubscriptionIdentifier}
		if r.Codes[i] = all; all != 0 {
			continue
		}
		if r.Codes[i] = s.judgeFilter(sub.Filter); r.Codes[i] != 0 {
			continue
		}
		old, have := s.subs.get(sub.Filter)
		if !have && s.cfg.MaxSubscriptions > 0 && s.subs.len() >= s.cfg.MaxSubscriptions {
			r.Codes[i] = packet.QuotaExceeded
			continue
		}
		if most := s.cfg.MaxSubscriptionBytes; !have && most > 0 && s.subs.bytes+topic.Weight(sub.Filter) > most {
			r.Codes[i] = packet.QuotaExceeded
			continue
		}
		if r.Existed[i] = have; have {
			if r.prior == nil {
				r.prior = make([]Subscription, n)
			}
			r.prior[i] = old
		}
		s.subs.put(r.Subscriptions[i])          // [MQTT-3.8.4-3]
		r.Codes[i] = packet.ReasonCode(sub.QoS) // [MQTT-3.8.4-7]
	}
	token := s.owe(ack{kind: packet.SUBACK, id: p.PacketID, request: r}) // [MQTT-3.8.4-2]
	return append(out, Action{Kind: Subscribe, Token: token, Request: r})
}

// decided notes what became of a SUBSCRIBE or UNSUBSCRIBE: what was not done
// is undone, last first.
func (s *Session) decided(a *ack, codes []packet.ReasonCode) {
	r := a.request
	for i := len(r.Codes) - 1; i >= 0; i-- {
		code := a.code // for all, where there are no codes
		if i < len(codes) {
			code = codes[i]
		}
		if r.Codes[i].Failed() || codes == nil && !code.Failed() {
			continue
		}
		before := r.Codes[i]
		r.Codes[i] = legal(a.kind, code) // [MQTT-3.9.3-2] [MQTT-3.11.3-2]
		if !code.Failed() || before.Failed() {
			continue
		}
		switch {
		case a.kind == packet.SUBACK && r.Existed[i]:
			s.subs.put(r.prior[i])
		case a.kind == packet.SUBACK:
			s.subs.remove(r.Subscriptions[i].Filter)
		case r.prior[i].Filter != "":
			s.subs.put(r.prior[i])
		}
	}
}

func (s *Session) refuseAll(p *packet.Subscribe) packet.ReasonCode {
	switch {
	case s.cfg.RefuseUserProps && len(p.UserProperties) > 0:
		return packet.ImplementationSpecificError
	case s.cfg.MaxFilters > 0 && len(p.Subscriptions) > s.cfg.MaxFilters:
		return packet.QuotaExceeded
	}
	return 0
}

// judgeFilter returns the failure code for a filter, or 0 (success).
func (s *Session) judgeFilter(filter string) packet.ReasonCode {
	_, inner, shared, err := topic.ParseShared(filter)
	switch {
	case err != nil:
		return packet.TopicFilterInvalid
	case shared && !s.cfg.SharedAvailable: // 3.2.2.3.13
		return packet.SharedSubscriptionsNotSupported
	case topic.ValidateFilter(inner, s.cfg.Topics) != nil:
		return packet.TopicFilterInvalid
	case s.reserved([]byte(inner)):
		return packet.NotAuthorized
	}
	return 0
}

// Revoke forgets a filter that the client may not subscribe to any more. It
// reports whether there was a subscription.
func (s *Session) Revoke(filter string) bool { return s.subs.remove(filter) }

// unsubscribe handles an UNSUBSCRIBE.
func (s *Session) unsubscribe(p *packet.Unsubscribe, out []Action) []Action {
	n := len(p.Filters)
	r := &Request{Codes: make([]packet.ReasonCode, n)}
	a := ack{kind: packet.UNSUBACK, id: p.PacketID, request: r} // [MQTT-3.10.4-5]
	if s.cfg.RefuseUserProps && len(p.UserProperties) > 0 {
		for i := range r.Codes {
			r.Codes[i] = packet.ImplementationSpecificError
		}
		return s.answer(a, out)
	}
	r.Filters, r.prior = slices.Clone(p.Filters), make([]Subscription, n)
	for i, f := range p.Filters { // [MQTT-3.10.4-6]
		r.prior[i], _ = s.subs.get(f)
		if !s.subs.remove(f) {
			r.Codes[i] = packet.NoSubscriptionExisted // [MQTT-3.11.3-2]
		}
	}
	return append(out, Action{Kind: Unsubscribe, Token: s.owe(a), Request: r})
}
