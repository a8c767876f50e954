package packet

import (
	"encoding/binary"
	"slices"
)

// Shared is a PUBLISH encoded once for many receivers, who differ in nothing
// but Packet Identifier, DUP and what is left of the Message Expiry Interval.
// Once it is made it is immutable and safe for concurrent use.
type Shared struct {
	frame []byte
	at    Offsets
	head  int    // bytes before the payload
	own   []byte // memory of frame, unless that is adopted
}

// Share encodes p for version v. PacketID and Dup of p are ignored: each
// receiver gets its own. Encode another one per version, QoS, RETAIN and set
// of Subscription Identifiers.
func Share(v Version, p *Publish) (*Shared, error) {
	s := new(Shared)
	if err := s.Encode(v, p); err != nil {
		return nil, err
	}
	return s, nil
}

// Encode makes s what Share returns and uses the memory that s has from the
// Encode before. It is for whoever is the only one that knows s.
func (s *Shared) Encode(v Version, p *Publish) error {
	m := *p
	m.Dup, m.PacketID = false, 0
	if e := m.checkEncodable(v); e != nil {
		return e
	}
	frame, at, err := m.append(s.own[:0], v)
	if err != nil {
		return err
	}
	s.own, s.frame, s.at, s.head = frame, frame, at, len(frame)-len(p.Payload)
	return nil
}

// Adopt makes s the frame that p was decoded from, without copying it: s is
// valid until the frame changes. p must have neither DUP nor a Topic Alias nor
// a Message Expiry Interval. As Encode, it is for the only one that knows s.
func (s *Shared) Adopt(frame []byte, p *Publish) {
	s.frame, s.at, s.head = frame, Offsets{}, len(frame)-len(p.Payload)
	if p.QoS > QoS0 {
		_, size, _ := uvarint(frame[1:])
		s.at.PacketID = 1 + size + 2 + len(p.Topic)
	}
}

// Release forgets the packet and keeps the memory for the next Encode, if it
// is not more than max bytes.
func (s *Shared) Release(max int) {
	own := s.own
	if cap(own) > max {
		own = nil
	}
	*s = Shared{own: own}
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
