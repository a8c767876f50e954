package packet

import (
	"slices"
	"unicode/utf8"
)

// Publish is the PUBLISH packet. The byte slices alias the frame after Decode.
type Publish struct {
	Dup      bool
	QoS      QoS
	Retain   bool
	PacketID uint16 // 0 with QoS 0, else not 0
	Topic    []byte // empty only with a Topic Alias
	Payload  []byte // nil if empty

	// MQTT 5 only.

	PayloadFormatIndicator  Optional[uint8]  // 0 unspecified bytes, 1 UTF-8
	MessageExpiryInterval   Optional[uint32] // seconds
	TopicAlias              uint16           // 0 is absent
	ResponseTopic           []byte           // nil is absent
	CorrelationData         []byte           // nil is absent
	ContentType             []byte           // nil is absent
	SubscriptionIdentifiers []uint32         // each 1 to 268,435,455, from a server only
	UserProperties          []UserProperty   // in the order of the packet
}

// The flags in the fixed header.
const (
	publishRetain = 1 << 0
	publishDup    = 1 << 3
)

const publishProps = 1<<propPayloadFormatIndicator | 1<<propMessageExpiryInterval | 1<<propTopicAlias |
	1<<propResponseTopic | 1<<propCorrelationData | 1<<propContentType | 1<<propSubscriptionIdentifier |
	1<<propUserProperty

// Type returns PUBLISH.
func (*Publish) Type() Type { return PUBLISH }

// Decode reads a PUBLISH of version v. It allocates only where the struct's
// slices are too small; those of more than 64 elements are not kept. Whether an indicated UTF-8 payload is UTF-8 is left to
// [Publish.CheckPayloadFormat], and whether the Topic Alias is known and
// within the maximum to the session.
func (p *Publish) Decode(v Version, frame []byte) error {
	*p = Publish{
		SubscriptionIdentifiers: reuse(p.SubscriptionIdentifiers),
		UserProperties:          reuse(p.UserProperties),
	}
	flags, r := open(frame, PUBLISH)
	p.Dup = flags&publishDup != 0
	p.QoS = QoS(flags >> 1 & 3)
	p.Retain = flags&publishRetain != 0
	p.Topic = r.name() // [MQTT-3.3.2-1]
	if p.QoS > QoS0 {
		p.PacketID = r.packetID()
	}
	if v == V5 {
		p.properties(&r)
	}
	if r.err == nil && (len(p.Topic) != 0 || p.TopicAlias == 0) {
		if e := checkTopicName(p.Topic, v); e != nil {
			r.fail(e)
		}
	}
	p.Payload = r.rest()
	return orNil(r.err)
}

func (p *Publish) properties(r *reader) {
	b := r.block()
	for {
		id, ok := b.next(publishProps, 1<<propUserProperty|1<<propSubscriptionIdentifier)
		if !ok {
			break
		}
		switch id {
		case propPayloadFormatIndicator:
			p.PayloadFormatIndicator = b.payloadFormat()
		case propMessageExpiryInterval:
			p.MessageExpiryInterval = Some(b.uint32())
		case propTopicAlias:
			p.TopicAlias = b.uint16()
			if p.TopicAlias == 0 && b.err == nil {
				b.fail(&Error{Code: TopicAliasInvalid, Clause: "MQTT-3.3.2-8", Message: "the Topic Alias is 0"})
			}
		case propResponseTopic:
			p.ResponseTopic = b.responseTopic()
		case propCorrelationData:
			p.CorrelationData = b.binary()
		case propContentType:
			p.ContentType = b.text() // [MQTT-3.3.2-19]
		case propSubscriptionIdentifier:
			p.SubscriptionIdentifiers = append(p.SubscriptionIdentifiers, b.subscriptionIdentifier())
		case propUserProperty:
			p.UserProperties = b.userProperty(p.UserProperties)
		}
	}
	r.leave(&b)
}

// checkTopicName judges a topic name that is known to be a UTF-8 Encoded
// String.
func checkTopicName(name []byte, v Version) *Error {
	switch {
	case len(name) == 0 && v == V5:
		return protocolError("3.3.2.1", "the Topic Name is empty and there is no Topic Alias")
	case len(name) == 0:
		return malformed("MQTT-4.7.3-1", "the Topic Name is empty")
	case hasWildcard(name): // 0x90 is for names that are correctly formed
		return malformed("MQTT-3.3.2-2", "the Topic Name contains a wildcard")
	}
	return nil
}

func (r *reader) payloadFormat() Optional[uint8] {
	if r.flag() {
		return Some[uint8](1)
	}
	return Some[uint8](0)
}

func (r *reader) responseTopic() []byte {
	b := r.text() // [MQTT-3.3.2-13]
	if hasWildcard(b) {
		r.fail(protocolError("MQTT-3.3.2-14", "the Response Topic contains a wildcard"))
	}
	return b
}

func (r *reader) subscriptionIdentifier() uint32 {
	id := r.varint()
	if id == 0 && r.err == nil {
		r.fail(protocolError("3.8.2.1.2", "the Subscription Identifier is 0"))
	}
	return id
}

// CheckPayloadFormat returns an [*Error] with the code PayloadFormatInvalid if
// the payload is said to be UTF-8 and is not, section 3.3.2.3.2.
func (p *Publish) CheckPayloadFormat() error {
	if p.PayloadFormatIndicator.Value == 1 && !utf8.Valid(p.Payload) {
		return &Error{Code: PayloadFormatInvalid, Clause: "3.3.2.3.2", Message: "the payload is not UTF-8"}
	}
	return nil
}

// Clone returns a copy that shares no memory with p or the frame; all its
// bytes are in one allocation.
func (p *Publish) Clone() *Publish {
	out := new(Publish)
	p.CloneTo(out)
	return out
}

// CloneTo is Clone into out, which is overwritten.
func (p *Publish) CloneTo(out *Publish) {
	n := len(p.Topic) + len(p.Payload) + len(p.ResponseTopic) + len(p.CorrelationData) + len(p.ContentType)
	for _, u := range p.UserProperties {
		n += len(u.Name) + len(u.Value)
	}
	buf := make([]byte, 0, n)
	*out = *p
	out.Topic, buf = carve(buf, p.Topic)
	out.Payload, buf = carve(buf, p.Payload)
	out.ResponseTopic, buf = carve(buf, p.ResponseTopic)
	out.CorrelationData, buf = carve(buf, p.CorrelationData)
	out.ContentType, buf = carve(buf, p.ContentType)
	out.SubscriptionIdentifiers = slices.Clone(p.SubscriptionIdentifiers)
	out.UserProperties = slices.Clone(p.UserProperties)
	for i, u := range p.UserProperties {
		out.UserProperties[i].Name, buf = carve(buf, u.Name)
		out.UserProperties[i].Value, buf = carve(buf, u.Value)
	}
}
