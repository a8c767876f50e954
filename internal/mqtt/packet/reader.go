package packet

import "encoding/binary"

// reader walks through the body of a packet. The first error sticks: from
// then on every read returns zero values, so that decoders read on and look
// at err once.
type reader struct {
	b    []byte
	seen uint64 // property identifiers met so far in a property block
	err  *Error
}

func (r *reader) fail(e *Error) {
	if r.err == nil {
		r.err = e
	}
	r.b = nil
}

func (r *reader) truncated() { r.fail(malformed("1.5", "the packet ends within a field")) }

func (r *reader) byte() byte {
	if len(r.b) < 1 {
		r.truncated()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uint16() uint16 {
	if len(r.b) < 2 {
		r.truncated()
		return 0
	}
	v := binary.BigEndian.Uint16(r.b)
	r.b = r.b[2:]
	return v
}

func (r *reader) uint32() uint32 {
	if len(r.b) < 4 {
		r.truncated()
		return 0
	}
	v := binary.BigEndian.Uint32(r.b)
	r.b = r.b[4:]
	return v
}

func (r *reader) varint() uint32 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		v := r.b[0]
		r.b = r.b[1:]
		return uint32(v)
	}
	v, n, err := uvarint(r.b)
	if err != nil {
		r.fail(err)
		return 0
	}
	if n == 0 {
		r.truncated()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// take returns the next n bytes, never nil unless it fails.
func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.truncated()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// binary reads Binary Data: two bytes of length and that many bytes.
func (r *reader) binary() []byte { return r.take(int(r.uint16())) }

// text reads a UTF-8 Encoded String.
func (r *reader) text() []byte {
	b := r.binary()
	if e := checkText(b); e != nil {
		r.fail(e)
		return nil
	}
	return b
}

// name reads a UTF-8 Encoded String that names something: a client, a user or
// a topic. Such names go into logs, addresses and events, so the leave of 1.5.4
// to refuse control characters is taken here, but not for other strings.
func (r *reader) name() []byte {
	b := r.binary()
	if isPlain(b) {
		return b
	}
	if e := checkText(b); e != nil {
		r.fail(e)
		return nil
	}
	if hasControl(b) {
		r.fail(malformed("1.5.4", "a name contains a control character"))
		return nil
	}
	return b
}

// rest returns what is left, nil if nothing is.
func (r *reader) rest() []byte {
	if len(r.b) == 0 {
		return nil
	}
	v := r.b[:len(r.b):len(r.b)]
	r.b = nil
	return v
}

// packetID reads a Packet Identifier, which is never 0.
func (r *reader) packetID() uint16 {
	id := r.uint16()
	if id == 0 && r.err == nil {
		r.fail(protocolError("MQTT-2.2.1-3", "the Packet Identifier is 0"))
	}
	return id
}

// end fails if anything is left and returns the first error as an error.
func (r *reader) end() error {
	if len(r.b) != 0 {
		r.fail(malformed("2.1.4", "bytes follow the end of the packet"))
	}
	return orNil(r.err)
}

// uvarint reads a Variable Byte Integer. size is 0 if b ends before it does.
func uvarint(b []byte) (v uint32, size int, err *Error) {
	for i := 0; i < 4; i++ {
		if i >= len(b) {
			return 0, 0, nil
		}
		c := b[i]
		v |= uint32(c&0x7F) << (7 * i)
		if c < 0x80 {
			if c == 0 && i > 0 {
				return 0, 0, malformed("MQTT-1.5.5-1", "a Variable Byte Integer is longer than it needs to be")
			}
			return v, i + 1, nil
		}
	}
	return 0, 0, malformed("1.5.5", "a Variable Byte Integer has more than four bytes")
}
