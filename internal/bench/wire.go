package bench

import (
	"encoding/binary"
	"errors"
	"fmt"

	"rollcall/internal/mqtt/packet"
)

// stampSize is how many bytes of each payload the generator needs for itself:
// the publisher's number, the message's number and a time.
const stampSize = 16

// stamp is what a payload begins with.
type stamp struct {
	publisher uint32
	seq       uint32
	at        int64 // nanoseconds since the run's base
}

// template is a PUBLISH that is encoded once and patched for each message.
type template struct {
	frame   []byte
	id      int // offset of the Packet Identifier; 0 with QoS 0
	payload int // offset of the payload
}

// newTemplate encodes a PUBLISH of size bytes of payload, at least stampSize.
func newTemplate(v packet.Version, topic string, qos packet.QoS, publisher uint32, size int) (template, error) {
	payload := make([]byte, max(size, stampSize))
	for i := range payload {
		payload[i] = "0123456789abcdef"[i%16]
	}
	binary.BigEndian.PutUint32(payload, publisher)
	p := packet.Publish{QoS: qos, Topic: []byte(topic), Payload: payload}
	if qos > packet.QoS0 {
		p.PacketID = 1
	}
	frame, err := p.AppendTo(nil, v)
	if err != nil {
		return template{}, fmt.Errorf("encode a message for %q: %w", topic, err)
	}
	t := template{frame: frame, payload: len(frame) - len(payload)}
	if qos > packet.QoS0 {
		t.id = t.payload - 2
		if v == packet.V5 {
			t.id-- // behind it is the length of no properties
		}
	}
	return t, nil
}

// append appends the message seq, with the Packet Identifier id unless the
// template is of QoS 0.
func (t *template) append(dst []byte, id uint16, seq uint32, at int64) []byte {
	n := len(dst)
	dst = append(dst, t.frame...)
	b := dst[n:]
	if t.id > 0 {
		binary.BigEndian.PutUint16(b[t.id:], id)
	}
	binary.BigEndian.PutUint32(b[t.payload+4:], seq)
	binary.BigEndian.PutUint64(b[t.payload+8:], uint64(at))
	return dst
}

var (
	errLength  = errors.New("the broker sent a packet whose length is malformed")
	errTooLong = errors.New("the broker sent a packet larger than any that was published")
	errShort   = errors.New("the broker sent a packet that ends too early")
	errForeign = errors.New("a message arrived that this run did not publish")
)

// cut returns the length of the first whole packet in b and where its body
// begins; n is 0 if more bytes are needed. A packet longer than limit is
// refused as soon as its length is known.
func cut(b []byte, limit int) (body, n int, err error) {
	if len(b) < 2 {
		return 0, 0, nil
	}
	length := int(b[1])
	if body = 2; length >= 0x80 {
		length &= 0x7F
		for shift := 7; ; shift += 7 {
			if shift > 21 {
				return 0, 0, errLength
			}
			if body >= len(b) {
				return 0, 0, nil
			}
			x := b[body]
			body++
			length |= int(x&0x7F) << shift
			if x < 0x80 {
				break
			}
		}
	}
	if n = body + length; n > limit {
		return 0, 0, errTooLong
	}
	if n > len(b) {
		return 0, 0, nil
	}
	return body, n, nil
}

// readPublish reads what the generator needs of a PUBLISH: the Packet
// Identifier, 0 with QoS 0, and the stamp. first is the packet's first byte,
// body what follows the length.
func readPublish(v packet.Version, first byte, body []byte) (id uint16, s stamp, err error) {
	if len(body) < 2 {
		return 0, s, errShort
	}
	at := 2 + int(binary.BigEndian.Uint16(body))
	if first&0x06 != 0 {
		if len(body) < at+2 {
			return 0, s, errShort
		}
		id = binary.BigEndian.Uint16(body[at:])
		at += 2
	}
	if v == packet.V5 {
		length, width := readVarint(body, at)
		if width == 0 {
			return 0, s, errShort
		}
		at += width + length
	}
	if len(body) < at {
		return 0, s, errShort
	}
	payload := body[at:]
	if len(payload) < stampSize {
		return 0, s, errForeign
	}
	s.publisher = binary.BigEndian.Uint32(payload)
	s.seq = binary.BigEndian.Uint32(payload[4:])
	s.at = int64(binary.BigEndian.Uint64(payload[8:]))
	return id, s, nil
}

// readVarint reads a variable byte integer at an offset. A width of 0 says
// that there is none.
func readVarint(b []byte, at int) (value, width int) {
	for width < 4 && at < len(b) {
		x := b[at]
		value |= int(x&0x7F) << (7 * width)
		width++
		at++
		if x < 0x80 {
			return value, width
		}
	}
	return 0, 0
}

// readAck reads the Packet Identifier and the reason code of PUBACK, PUBREC,
// PUBREL and PUBCOMP; 3.1.1 has no reason.
func readAck(body []byte) (id uint16, code packet.ReasonCode, err error) {
	if len(body) < 2 {
		return 0, 0, errShort
	}
	if len(body) > 2 {
		code = packet.ReasonCode(body[2])
	}
	return binary.BigEndian.Uint16(body), code, nil
}

// The first bytes of the packets that the generator writes by hand.
const (
	firstPuback  = byte(packet.PUBACK) << 4
	firstPubrec  = byte(packet.PUBREC) << 4
	firstPubrel  = byte(packet.PUBREL)<<4 | 2
	firstPubcomp = byte(packet.PUBCOMP) << 4
	firstPingreq = byte(packet.PINGREQ) << 4
)

// appendAck appends one of the acknowledgements, which look alike in both
// versions when they say success.
func appendAck(dst []byte, first byte, id uint16) []byte {
	return append(dst, first, 2, byte(id>>8), byte(id))
}
