package packet

const (
	// MaxRemainingLength is the largest Remaining Length that four bytes can
	// express, 268,435,455.
	MaxRemainingLength = 1<<28 - 1
	// MaxFrameSize is the size in bytes of the largest packet there can be,
	// fixed header included.
	MaxFrameSize = MaxRemainingLength + 5
)

// Frame returns the length of the first whole packet in buf, fixed header
// included, or 0 if more bytes are needed to tell or to have it all. A packet
// longer than max bytes is refused with PacketTooLarge as soon as its length
// is known; max 0 means the protocol's own maximum.
//
// It refuses what the fixed header alone gives away as soon as the byte that
// does so is there: the reserved type, wrong flags, a Remaining Length that is
// too long or not minimal. It never looks past the header, so a returned n
// only promises that buf[:n] is worth decoding.
func Frame(buf []byte, max uint32) (n int, err error) {
	n, e := frame(buf, max)
	return n, orNil(e)
}

func frame(buf []byte, max uint32) (n int, err *Error) {
	if len(buf) == 0 {
		return 0, nil
	}
	if e := checkFirst(buf[0]); e != nil {
		return 0, e
	}
	length, size, e := uvarint(buf[1:])
	if e != nil {
		return 0, e
	}
	if size == 0 {
		return 0, nil
	}
	if t := TypeOf(buf[0]); length != 0 && (t == PINGREQ || t == PINGRESP) {
		return 0, malformed("3.12.1", "a ping has a body")
	}
	total := 1 + size + int(length)
	if max != 0 && uint64(total) > uint64(max) {
		return 0, &Error{Code: PacketTooLarge, Clause: "MQTT-3.2.2-15", Message: "the packet exceeds the Maximum Packet Size"}
	}
	if total > len(buf) {
		return 0, nil
	}
	return total, nil
}

// checkFirst judges the first byte of a packet.
func checkFirst(first byte) *Error {
	t, flags := TypeOf(first), first&0x0F
	switch {
	case t == 0:
		return protocolError("2.1.2", "packet type 0 is reserved")
	case t == PUBLISH:
		qos := flags >> 1 & 3
		if qos == 3 {
			return malformed("MQTT-3.3.1-4", "both QoS bits are set")
		}
		if qos == 0 && flags&publishDup != 0 {
			return malformed("MQTT-3.3.1-2", "DUP is set on QoS 0")
		}
	case flags != t.flags():
		return malformed(flagsClause(t), "reserved flags in the fixed header are wrong")
	}
	return nil
}

func flagsClause(t Type) string {
	switch t {
	case PUBREL:
		return "MQTT-3.6.1-1"
	case SUBSCRIBE:
		return "MQTT-3.8.1-1"
	case UNSUBSCRIBE:
		return "MQTT-3.10.1-1"
	case DISCONNECT:
		return "MQTT-3.14.1-1"
	case AUTH:
		return "MQTT-3.15.1-1"
	}
	return "MQTT-2.1.3-1"
}

// open checks that p is one whole packet of type want and returns its
// flags and a reader of what follows the fixed header.
func open(p []byte, want Type) (flags byte, r reader) {
	n, err := frame(p, 0)
	switch {
	case err != nil:
		r.err = err
	case n == 0 || n != len(p):
		r.fail(malformed("2.1.4", "the frame is not one whole packet"))
	case TypeOf(p[0]) != want:
		r.fail(protocolError("2.1.2", "the packet is of another type"))
	default:
		_, size, _ := uvarint(p[1:])
		r.b = p[1+size:]
	}
	if len(p) > 0 {
		flags = p[0] & 0x0F
	}
	return flags, r
}
