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
	codes := make([]packet.ReasonCode, len(p.Subscriptions))
	all := s.refuseAll(p)
	for i := range p.Subscriptions {
		sub := &p.Subscriptions[i]
		if codes[i] = all; all != 0 {
			continue
		}
		if codes[i] = s.judgeFilter(sub.Filter); codes[i] != 0 {
			continue
		}
		if _, have := s.subscriptions[sub.Filter]; !have {
			if s.cfg.MaxSubscriptions > 0 && len(s.subscriptions) >= s.cfg.MaxSubscriptions {
				codes[i] = packet.QuotaExceeded
				continue
			}
			if s.subscriptions == nil {
				s.subscriptions = make(map[string]struct{})
			}
			s.subscriptions[sub.Filter] = struct{}{}
		}
		sub.QoS = min(sub.QoS, s.cfg.MaximumQoS)
		codes[i] = packet.ReasonCode(sub.QoS)
	}
	token := s.owe(ack{kind: packet.SUBACK, id: p.PacketID, codes: codes})
	return append(out, Action{Kind: Subscribe, Token: token, Subscriptions: slices.Clone(p.Subscriptions), Codes: codes})
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
	case !shared && reserved([]byte(filter)):
		return packet.NotAuthorized
	}
	return 0
}

// Revoke forgets a filter that the driver did not grant after all.
func (s *Session) Revoke(filter string) { delete(s.subscriptions, filter) }

// unsubscribe handles an UNSUBSCRIBE.
func (s *Session) unsubscribe(p *packet.Unsubscribe, out []Action) []Action {
	codes := make([]packet.ReasonCode, len(p.Filters))
	if s.cfg.RefuseUserProps && len(p.UserProperties) > 0 {
		for i := range codes {
			codes[i] = packet.ImplementationSpecificError
		}
		token := s.owe(ack{kind: packet.UNSUBACK, id: p.PacketID})
		return s.committed(token, 0, codes, out)
	}
	for i, f := range p.Filters {
		if _, have := s.subscriptions[f]; !have {
			codes[i] = packet.NoSubscriptionExisted // [MQTT-3.11.3-2]
			continue
		}
		delete(s.subscriptions, f)
	}
	token := s.owe(ack{kind: packet.UNSUBACK, id: p.PacketID})
	return append(out, Action{Kind: Unsubscribe, Token: token, Filters: slices.Clone(p.Filters), Codes: codes})
}
