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

// Shared is a PUBLISH encoded once for many receivers, who differ in nothing
// but Packet Identifier, DUP and what is left of the Message Expiry Interval.
// It is immutable and safe for concurrent use.
type Shared struct {
	frame []byte
	at    Offsets
	head  int // bytes before the payload
}

// Share encodes p for version v. PacketID and Dup of p are ignored: each
// receiver gets its own. Encode another one per version, QoS, RETAIN and set
// of Subscription Identifiers.
func Share(v Version, p *Publish) (*Shared, error) {
	m := *p
	m.Dup, m.PacketID = false, 0
	if e := m.checkEncodable(v); e != nil {
		return nil, e
	}
	frame, at, err := m.append(nil, v)
	if err != nil {
		return nil, err
	}
	return &Shared{frame: frame, at: at, head: len(frame) - len(p.Payload)}, nil
}

// Len returns the size of the packet in bytes, the same for every receiver.
func (s *Shared) Len() int { return len(s.frame) }

// QoS returns the packet's QoS.
func (s *Shared) QoS() QoS { return QoS(s.frame[0] >> 1 & 3) }

// Head returns the number of bytes before the payload; only they differ
// between receivers.
func (s *Shared) Head() int { return s.head }

// Payload returns the payload as it is in the packet. It must not be changed.
func (s *Shared) Payload() []byte { return s.frame[s.head:] }

// AppendTo appends the packet to dst with the Packet Identifier id, which is
// ignored for QoS 0 and must not be 0 otherwise. If the message has a Message
// Expiry Interval, it is replaced by expiry, in seconds [MQTT-3.3.2-6].
func (s *Shared) AppendTo(dst []byte, id uint16, dup bool, expiry uint32) []byte {
	dst = slices.Grow(dst, len(s.frame))
	return append(s.AppendHead(dst, id, dup, expiry), s.frame[s.head:]...)
}

// AppendHead is AppendTo without the payload, for a writer that sends the
// payload from the shared bytes.
func (s *Shared) AppendHead(dst []byte, id uint16, dup bool, expiry uint32) []byte {
	start := len(dst)
	dst = append(dst, s.frame[:s.head]...)
	if dup && s.at.PacketID != 0 { // [MQTT-3.3.1-2]
		dst[start] |= publishDup
	}
	if s.at.PacketID != 0 {
		binary.BigEndian.PutUint16(dst[start+s.at.PacketID:], id)
	}
	if s.at.MessageExpiryInterval != 0 {
		binary.BigEndian.PutUint32(dst[start+s.at.MessageExpiryInterval:], expiry)
	}
	return dst
}

// MessageExpiryInterval returns the interval that the message was encoded
// with, in seconds.
func (s *Shared) MessageExpiryInterval() (seconds uint32, ok bool) {
	if s.at.MessageExpiryInterval == 0 {
		return 0, false
	}
	return binary.BigEndian.Uint32(s.frame[s.at.MessageExpiryInterval:]), true
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

// append encodes a packet that has been checked. It leaves room for a Packet
// Identifier even if that is still 0.
func (p *Publish) append(dst []byte, v Version) ([]byte, Offsets, error) {
	remaining, props := 2+len(p.Topic)+len(p.Payload), 0
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
		return dst, Offsets{}, &Error{Code: PacketTooLarge, Clause: "2.1.4", Message: "the packet is longer than the protocol allows"}
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
