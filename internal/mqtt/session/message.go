package session

import (
	"sync/atomic"
	"time"

	"rollcall/internal/mqtt/packet"
)

// Message is an application message on its way from one publisher to any
// number of subscribers. It is immutable and may be shared.
type Message struct {
	packet.Publish
	From     string    // session that published it
	Received time.Time // when it was; what an expiry counts from

	// One encoding per version, QoS and RETAIN, made when first needed.
	encoded [2][3][2]atomic.Pointer[packet.Shared]
}

// newMessage takes p over, which must not alias a read buffer any more.
func (s *Session) newMessage(p *packet.Publish) *Message {
	m := &Message{Publish: *p, From: s.id}
	m.TopicAlias = 0 // [MQTT-3.3.2-7]
	if s.cfg.ExpiryZeroNever && m.MessageExpiryInterval.Value == 0 {
		m.MessageExpiryInterval = packet.Optional[uint32]{}
	}
	return m
}

// Expires returns when the message expires; zero: never.
func (m *Message) Expires() time.Time {
	if !m.MessageExpiryInterval.Set {
		return time.Time{}
	}
	return m.Received.Add(time.Duration(m.MessageExpiryInterval.Value) * time.Second)
}

// Size is the number of bytes that the message's content takes.
func (m *Message) Size() int {
	n := len(m.Topic) + len(m.Payload) + len(m.ResponseTopic) + len(m.CorrelationData) + len(m.ContentType)
	for _, u := range m.UserProperties {
		n += len(u.Name) + len(u.Value)
	}
	return n
}

// Encoded returns the PUBLISH for receivers of the version, encoded once.
func (m *Message) Encoded(v packet.Version, qos packet.QoS, retain bool) (*packet.Shared, error) {
	i, j := 0, 0
	if v == packet.V5 {
		i = 1
	}
	if retain {
		j = 1
	}
	slot := &m.encoded[i][qos][j]
	if e := slot.Load(); e != nil {
		return e, nil
	}
	p := m.Publish
	p.QoS, p.Retain = qos, retain
	e, err := packet.Share(v, &p)
	if err != nil {
		return nil, err
	}
	slot.Store(e)
	return e, nil
}
