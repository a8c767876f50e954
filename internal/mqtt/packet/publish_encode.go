package packet

import (
	"encoding/binary"
	"slices"
)

// Offsets tells where in an encoded PUBLISH the parts are that differ between
// receivers, counted from the packet's first byte; 0 is "not in the packet".
type Offsets struct {
	PacketID              int // two bytes, with QoS 1 and 2
	MessageExpiryInterval int // four bytes
}

// AppendTo appends the packet encoded for version v.
func (p *Publish) AppendTo(dst []byte, v Version) ([]byte, error) {
	out, _, err := AppendPublish(dst, v, p)
	return out, err
}

// AppendPublish appends p encoded for version v to dst and tells where to
// patch the copy for another receiver. It returns dst unchanged with an
// [*Error] if p breaks a rule.
func AppendPublish(dst []byte, v Version, p *Publish) (out []byte, at Offsets, err error) {
	if e := p.checkEncodable(v); e != nil {
		return dst, Offsets{}, e
	}
	if p.QoS > QoS0 && p.PacketID == 0 {
		return dst, Offsets{}, protocolError("MQTT-2.2.1-3", "the Packet Identifier is 0")
	}
	return p.append(dst, v)
}

// checkEncodable checks everything but the Packet Identifier.
func (p *Publish) checkEncodable(v Version) *Error {
	if e := checkVersion(v); e != nil {
		return e
	}
	switch {
	case p.QoS > QoS2:
		return malformed("MQTT-3.3.1-4", "the QoS is above 2")
	case p.QoS == QoS0 && p.Dup:
		return malformed("MQTT-3.3.1-2", "DUP is set on QoS 0")
	case p.QoS == QoS0 && p.PacketID != 0:
		return protocolError("MQTT-2.2.1-2", "a QoS 0 message has a Packet Identifier")
	case len(p.Topic) > maxText:
		return malformed("MQTT-4.7.3-3", "the Topic Name is longer than 65,535 bytes")
	}
	if len(p.Topic) != 0 || p.TopicAlias == 0 || v != V5 {
		if e := checkTopicName(p.Topic, v); e != nil {
			return e
		}
	}
	if v != V5 {
		return nil
	}
	if len(p.ResponseTopic) > maxText || len(p.CorrelationData) > maxText || len(p.ContentType) > maxText {
		return malformed("1.5.6", "a field is longer than 65,535 bytes")
	}
	if p.PayloadFormatIndicator.Value > 1 {
		return protocolError("3.3.2.3.2", "the Payload Format Indicator is above 1")
	}
	if hasWildcard(p.ResponseTopic) {
		return protocolError("MQTT-3.3.2-14", "the Response Topic contains a wildcard")
	}
	for _, id := range p.SubscriptionIdentifiers {
		if id == 0 || id > MaxRemainingLength {
			return protocolError("3.8.2.1.2", "a Subscription Identifier is out of range")
		}
	}
	for _, u := range p.UserProperties {
		if len(u.Name) > maxText || len(u.Value) > maxText {
			return malformed("1.5.7", "a User Property is longer than 65,535 bytes")
		}
	}
	return nil
}

// propertySize returns the size of the properties without their length.
func (p *Publish) propertySize() (n int) {
	if p.PayloadFormatIndicator.Set {
		n += 2
	}
	if p.MessageExpiryInterval.Set {
		n += 5
	}
	if p.TopicAlias != 0 {
		n += 3
	}
	if p.ResponseTopic != nil {
		n += 3 + len(p.ResponseTopic)
	}
	if p.CorrelationData != nil {
		n += 3 + len(p.CorrelationData)
	}
	if p.ContentType != nil {
		n += 3 + len(p.ContentType)
	}
	for _, id := range p.SubscriptionIdentifiers {
		n += 1 + varintSize(id)
	}
	for _, u := range p.UserProperties {
		n += 5 + len(u.Name) + len(u.Value)
	}
	return n
}

// Size returns how many bytes the packet takes encoded for version v, or why
// it cannot be. The Packet Identifier is not looked at.
func (p *Publish) Size(v Version) (int, error) {
	m := *p
	m.Dup, m.PacketID = false, 0
	if e := m.checkEncodable(v); e != nil {
		return 0, e
	}
	remaining, _, e := p.sizes(v)
	if e != nil {
		return 0, e
	}
	return 1 + varintSize(uint32(remaining)) + remaining, nil
}

// sizes returns the Remaining Length and the length of the properties.
func (p *Publish) sizes(v Version) (remaining, props int, err *Error) {
	remaining = 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > QoS0 {
		remaining += 2
	}
	if v == V5 {
		props = p.propertySize()
		remaining += props
		if props <= MaxRemainingLength {
			remaining += varintSize(uint32(props))
		}
	}
	if remaining > MaxRemainingLength {
		return 0, 0, &Error{Code: PacketTooLarge, Clause: "2.1.4", Message: "the packet is longer than the protocol allows"}
	}
	return remaining, props, nil
}

// append encodes a packet that has been checked. It leaves room for a Packet
// Identifier even if that is still 0.
func (p *Publish) append(dst []byte, v Version) ([]byte, Offsets, error) {
	remaining, props, e := p.sizes(v)
	if e != nil {
		return dst, Offsets{}, e
	}
	var at Offsets
	start := len(dst)
	b := slices.Grow(dst, 1+varintSize(uint32(remaining))+remaining)
	b = append(b, p.firstByte())
	b = appendVarint(b, uint32(remaining))
	b = appendBinary(b, p.Topic)
	if p.QoS > QoS0 {
		at.PacketID = len(b) - start
		b = binary.BigEndian.AppendUint16(b, p.PacketID)
	}
	if v == V5 {
		b = appendVarint(b, uint32(props))
		if p.MessageExpiryInterval.Set {
			at.MessageExpiryInterval = len(b) - start + 1
		}
		b = p.appendProperties(b)
	}
	return append(b, p.Payload...), at, nil
}

func (p *Publish) firstByte() byte {
	first := byte(PUBLISH)<<4 | byte(p.QoS)<<1
	if p.Dup {
		first |= publishDup
	}
	if p.Retain {
		first |= publishRetain
	}
	return first
}

// appendProperties appends the Message Expiry Interval first, where its
// offset is known.
func (p *Publish) appendProperties(b []byte) []byte {
	if p.MessageExpiryInterval.Set {
		b = append(b, propMessageExpiryInterval)
		b = binary.BigEndian.AppendUint32(b, p.MessageExpiryInterval.Value)
	}
	if p.PayloadFormatIndicator.Set {
		b = append(b, propPayloadFormatIndicator, p.PayloadFormatIndicator.Value)
	}
	if p.TopicAlias != 0 {
		b = append(b, propTopicAlias)
		b = binary.BigEndian.AppendUint16(b, p.TopicAlias)
	}
	if p.ResponseTopic != nil {
		b = appendBinary(append(b, propResponseTopic), p.ResponseTopic)
	}
	if p.CorrelationData != nil {
		b = appendBinary(append(b, propCorrelationData), p.CorrelationData)
	}
	if p.ContentType != nil {
		b = appendBinary(append(b, propContentType), p.ContentType)
	}
	for _, id := range p.SubscriptionIdentifiers {
		b = appendVarint(append(b, propSubscriptionIdentifier), id)
	}
	for _, u := range p.UserProperties {
		b = appendBinary(append(b, propUserProperty), u.Name)
		b = appendBinary(b, u.Value)
	}
	return b
}

func appendBinary(b, v []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
	return append(b, v...)
}
