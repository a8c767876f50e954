package stored

import (
	"fmt"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// appendMessage appends a message: when it was received, from whom, and an
// MQTT 5 PUBLISH. What differs between receivers is left out; QoS and RETAIN are
// the publisher's.
func appendMessage(dst []byte, m *session.Message) ([]byte, error) {
	p := m.Publish
	return appendPublication(dst, m, &p)
}

// appendPublication is appendMessage with p, a copy of m.Publish, to work on.
func appendPublication(dst []byte, m *session.Message, p *packet.Publish) ([]byte, error) {
	p.Dup, p.TopicAlias, p.PacketID, p.SubscriptionIdentifiers = false, 0, 0, nil
	if p.QoS > packet.QoS0 {
		p.PacketID = 1 // the packet needs one
	}
	out := appendTime(append(dst, recordVersion), m.Received)
	out, _, err := packet.AppendPublish(appendText(out, m.From), packet.V5, p)
	if err != nil {
		return dst, fmt.Errorf("encode a message: %w", err)
	}
	return out, nil
}

// decodeMessage reads what appendMessage wrote and keeps value.
func decodeMessage(value []byte) (*session.Message, error) {
	d, err := decode(value, "message")
	if err != nil {
		return nil, err
	}
	m := &session.Message{Received: d.time(), From: d.str()}
	if err := d.err("message"); err != nil {
		return nil, err
	}
	if err := m.Publish.Decode(packet.V5, d.buf); err != nil {
		return nil, fmt.Errorf("%w: message: %w", errRecord, err)
	}
	m.PacketID, m.Dup, m.TopicAlias = 0, false, 0
	return m, nil
}
