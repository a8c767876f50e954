package session

import (
	"bytes"
	"fmt"

	"rollcall/internal/mqtt/packet"
)

// resolveAlias replaces a topic alias by the topic it stands for (3.3.2.3.4).
func (s *Session) resolveAlias(p *packet.Publish) *packet.Error {
	if p.TopicAlias == 0 {
		return nil
	}
	if p.TopicAlias > s.cfg.TopicAliasMaximum { // [MQTT-3.3.2-9]
		return &packet.Error{Code: packet.TopicAliasInvalid, Clause: "MQTT-3.3.2-9",
			Message: fmt.Sprintf("the topic alias is above %d", s.cfg.TopicAliasMaximum)}
	}
	if int(p.TopicAlias) >= len(s.topics) {
		if len(p.Topic) == 0 {
			return unknownAlias
		}
		s.topics = append(s.topics, make([][]byte, int(p.TopicAlias)+1-len(s.topics))...)
	}
	known := s.topics[p.TopicAlias]
	switch {
	case len(p.Topic) == 0 && known == nil:
		return unknownAlias
	case len(p.Topic) == 0:
		p.Topic = known
	case !bytes.Equal(known, p.Topic): // [MQTT-3.3.2-12]; messages may hold on to the old one
		s.topics[p.TopicAlias] = bytes.Clone(p.Topic)
	}
	return nil
}

// 0x94 is for aliases out of range.
var unknownAlias = &packet.Error{Code: packet.ProtocolError, Clause: "3.3.2.3.4", Message: "the topic alias has no topic yet"}

// aliasCost is the size of a Topic Alias; shorter topics are cheaper without.
const aliasCost = 3

// alias gives a message to the client its topic alias: the first topics that
// are longer than an alias get one, as many as both sides permit, and keep it
// for as long as the connection lasts [MQTT-3.3.2-11]. The first message of a
// topic carries both.
func (s *Session) alias(a *Action) {
	t := a.Message.Topic
	if len(t) <= aliasCost {
		return
	}
	if n, ok := s.aliases[string(t)]; ok {
		a.Alias, a.NoTopic = n, true
		return
	}
	if len(s.aliases) >= int(s.aliasMax) {
		return
	}
	a.Alias = uint16(len(s.aliases) + 1)
	if s.sizeMax != 0 && !s.fits(a) { // only because of the alias
		a.Alias = 0
		return
	}
	if s.aliases == nil {
		s.aliases = make(map[string]uint16)
	}
	s.aliases[string(t)] = a.Alias
}

// fits reports whether a message with an alias is within the client's Maximum
// Packet Size.
func (s *Session) fits(a *Action) bool {
	p := a.Message.Publish
	p.QoS, p.Retain, p.TopicAlias, p.SubscriptionIdentifiers = a.QoS, a.Retain, a.Alias, a.SubscriptionIDs
	n, err := p.Size(s.version)
	return err == nil && uint64(n) <= uint64(s.sizeMax)
}
