package session

import (
	"sync/atomic"
	"time"

	"rollcall/internal/mqtt/packet"
)

// Message is an application message on its way from one publisher to any
// number of subscribers.
//
// Most are stable: immutable, and free to be shared and used concurrently. A
// message that a session has put into Input.Scratch is borrowed: its bytes are
// those of the read buffer. It is for one goroutine, until Reset or until the
// buffer is used again; whoever needs it longer takes Keep.
type Message struct {
	packet.Publish
	From     string    // session that published it
	Received time.Time // when it was; what an expiry counts from

	// One encoding per version, QoS and RETAIN, made when first needed.
	encoded [encodings]atomic.Pointer[packet.Shared]
	loan    *loan // of a borrowed message
}

// encodings is the number of combinations of version, QoS and RETAIN.
const encodings = 2 * 3 * 2

// loan is what a borrowed message has and a stable one has not.
type loan struct {
	kept    *Message
	frame   []byte // the PUBLISH as it came, where it can be forwarded as it is
	version packet.Version
	made    uint16 // which of the encodings below are of this message
	encoded [encodings]packet.Shared
}

// maxReuse is the size in bytes up to which the buffers of a scratch are used
// again.
const maxReuse = 64 << 10

// borrow fills the scratch m with p, which frame was decoded to.
func (m *Message) borrow(p *packet.Publish, v packet.Version, frame []byte) {
	m.Reset()
	if m.loan == nil {
		m.loan = new(loan)
	}
	m.Publish = *p
	m.loan.version = v
	if !p.Dup && !p.Retain && p.TopicAlias == 0 && !p.MessageExpiryInterval.Set {
		m.loan.frame = frame
	}
}

// Reset forgets a borrowed message, so that no buffer is held on to. The
// driver calls it when the message has been routed. Sessions and Keep have
// what they need.
func (m *Message) Reset() {
	m.Publish, m.From = packet.Publish{}, ""
	l := m.loan
	if l == nil {
		return
	}
	l.kept, l.frame = nil, nil
	for i := range l.encoded {
		if l.made&(1<<i) != 0 {
			l.encoded[i].Release(maxReuse)
		}
	}
	l.made = 0
}

// Keep returns a stable message of the same content: m itself if it is stable,
// else a copy, which is made once however often it is asked for.
func (m *Message) Keep() *Message {
	l := m.loan
	if l == nil {
		return m
	}
	if l.kept == nil {
		l.kept = &Message{From: m.From, Received: m.Received}
		m.Publish.CloneTo(&l.kept.Publish)
	}
	return l.kept
}

// Borrowed reports whether the message must not be kept as it is.
func (m *Message) Borrowed() bool { return m.loan != nil }

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

// Encoded returns the PUBLISH for receivers of the version, encoded once. That
// of a borrowed message is valid as long as the message.
func (m *Message) Encoded(v packet.Version, qos packet.QoS, retain bool) (*packet.Shared, error) {
	i := int(qos) * 2
	if v == packet.V5 {
		i += 6
	}
	if retain {
		i++
	}
	if m.loan != nil {
		return m.encodeBorrowed(i, v, qos, retain)
	}
	slot := &m.encoded[i]
	if e := slot.Load(); e != nil {
		return e, nil
	}
	e := new(packet.Shared)
	if err := m.share(e, v, qos, retain); err != nil {
		return nil, err
	}
	slot.Store(e)
	return e, nil
}

func (m *Message) encodeBorrowed(i int, v packet.Version, qos packet.QoS, retain bool) (*packet.Shared, error) {
	l := m.loan
	e := &l.encoded[i]
	if l.made&(1<<i) != 0 {
		return e, nil
	}
	if l.frame != nil && v == l.version && qos == m.QoS && !retain {
		e.Adopt(l.frame, &m.Publish)
	} else if err := m.share(e, v, qos, retain); err != nil {
		return nil, err
	}
	l.made |= 1 << i
	return e, nil
}

func (m *Message) share(e *packet.Shared, v packet.Version, qos packet.QoS, retain bool) error {
	p := m.Publish
	p.QoS, p.Retain, p.TopicAlias = qos, retain, 0
	return e.Encode(v, &p)
}
