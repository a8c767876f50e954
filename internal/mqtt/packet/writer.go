package packet

import "encoding/binary"

// writer appends one packet to a buffer. Lengths are put in front of what
// they measure once that is known, by moving it up by one to four bytes: the
// packets written this way are small. PUBLISH computes its sizes instead.
type writer struct {
	b     []byte
	start int // where the packet begins
	err   *Error
}

func begin(dst []byte, t Type) writer {
	return writer{b: append(dst, byte(t)<<4|t.flags()), start: len(dst)}
}

func (w *writer) fail(e *Error) {
	if w.err == nil {
		w.err = e
	}
}

func (w *writer) byte(v byte)     { w.b = append(w.b, v) }
func (w *writer) uint16(v uint16) { w.b = binary.BigEndian.AppendUint16(w.b, v) }
func (w *writer) uint32(v uint32) { w.b = binary.BigEndian.AppendUint32(w.b, v) }

func (w *writer) packetID(id uint16) {
	if id == 0 {
		w.fail(protocolError("MQTT-2.2.1-3", "the Packet Identifier is 0"))
	}
	w.uint16(id)
}

// reason appends a reason code that type t may carry.
func (w *writer) reason(t Type, c ReasonCode) {
	if !t.allows(c) {
		w.fail(protocolError("2.4", "the reason code does not belong in the packet"))
	}
	w.byte(byte(c))
}

func (w *writer) binary(v []byte) {
	if len(v) > maxText {
		w.fail(malformed("1.5.6", "a field is longer than 65,535 bytes"))
		return
	}
	w.uint16(uint16(len(v)))
	w.b = append(w.b, v...)
}

func (w *writer) text(v string) {
	if len(v) > maxText {
		w.fail(malformed("1.5.4", "a string is longer than 65,535 bytes"))
		return
	}
	w.uint16(uint16(len(v)))
	w.b = append(w.b, v...)
}

// The prop methods append one property. Those for numbers and text leave it
// out where the value means that it is absent.

func (w *writer) propUint32(id byte, v uint32) {
	if v != 0 {
		w.byte(id)
		w.uint32(v)
	}
}

func (w *writer) propUint16(id byte, v uint16) {
	if v != 0 {
		w.byte(id)
		w.uint16(v)
	}
}

func (w *writer) propOptional32(id byte, v Optional[uint32]) {
	if v.Set {
		w.byte(id)
		w.uint32(v.Value)
	}
}

func (w *writer) propFlag(id byte, v Optional[bool]) {
	if v.Set {
		w.byte(id)
		w.bool(v.Value)
	}
}

func (w *writer) propText(id byte, v string) {
	if v != "" {
		w.byte(id)
		w.text(v)
	}
}

func (w *writer) propBinary(id byte, v []byte) {
	if v != nil {
		w.byte(id)
		w.binary(v)
	}
}

func (w *writer) userProperties(list []UserProperty) {
	for _, p := range list {
		w.byte(propUserProperty)
		w.binary(p.Name)
		w.binary(p.Value)
	}
}

func (w *writer) bool(v bool) {
	if v {
		w.byte(1)
	} else {
		w.byte(0)
	}
}

// closeBlock puts the length of what was appended since at in front of it.
func (w *writer) closeBlock(at int) {
	n := len(w.b) - at
	if n > MaxRemainingLength {
		w.fail(&Error{Code: PacketTooLarge, Clause: "2.1.4", Message: "the packet is longer than the protocol allows"})
		return
	}
	size := varintSize(uint32(n))
	var room [4]byte
	w.b = append(w.b, room[:size]...)
	copy(w.b[at+size:], w.b[at:at+n])
	putVarint(w.b[at:], uint32(n))
}

// end writes the Remaining Length and returns the buffer, which is as it was
// before begin if there was an error.
func (w *writer) end() ([]byte, error) {
	if w.err == nil {
		w.closeBlock(w.start + 1)
	}
	if w.err != nil {
		return w.b[:w.start], w.err
	}
	return w.b, nil
}

// varintSize returns how many bytes v takes as a Variable Byte Integer.
func varintSize(v uint32) int {
	switch {
	case v < 1<<7:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<21:
		return 3
	}
	return 4
}

// putVarint writes v, at most MaxRemainingLength, into b and returns its size.
func putVarint(b []byte, v uint32) int {
	i := 0
	for v >= 0x80 {
		b[i] = byte(v) | 0x80
		v >>= 7
		i++
	}
	b[i] = byte(v)
	return i + 1
}

func appendVarint(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}
