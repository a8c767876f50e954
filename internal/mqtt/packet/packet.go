package packet

// Packet is one MQTT control packet. Its implementations are pointers to the
// structs of this package.
type Packet interface {
	// Type returns the control packet type.
	Type() Type
	// Decode reads frame, which must be exactly one packet of the type, as
	// delimited by [Frame]. All fields are overwritten; after an error they
	// are undefined unless the packet says otherwise. The error is an *Error.
	Decode(v Version, frame []byte) error
	// AppendTo appends the packet encoded for version v, V311 or V5, to dst.
	// It returns dst unchanged with an *Error if the packet breaks a rule.
	AppendTo(dst []byte, v Version) ([]byte, error)
}

// Decode decodes frame into a new packet of its type. v is ignored for
// CONNECT, which tells its own version. With an error the packet is nil,
// except for CONNECT, whose Version may be needed to answer.
func Decode(v Version, frame []byte) (Packet, error) {
	if len(frame) == 0 {
		return nil, malformed("2.1.4", "the frame is not one whole packet")
	}
	p := newPacket(TypeOf(frame[0]))
	if p == nil {
		return nil, protocolError("2.1.2", "packet type 0 is reserved")
	}
	if err := p.Decode(v, frame); err != nil {
		if p.Type() != CONNECT {
			p = nil
		}
		return p, err
	}
	return p, nil
}

func newPacket(t Type) Packet {
	switch t {
	case CONNECT:
		return new(Connect)
	case CONNACK:
		return new(Connack)
	case PUBLISH:
		return new(Publish)
	case PUBACK:
		return new(Puback)
	case PUBREC:
		return new(Pubrec)
	case PUBREL:
		return new(Pubrel)
	case PUBCOMP:
		return new(Pubcomp)
	case SUBSCRIBE:
		return new(Subscribe)
	case SUBACK:
		return new(Suback)
	case UNSUBSCRIBE:
		return new(Unsubscribe)
	case UNSUBACK:
		return new(Unsuback)
	case PINGREQ:
		return new(Pingreq)
	case PINGRESP:
		return new(Pingresp)
	case DISCONNECT:
		return new(Disconnect)
	case AUTH:
		return new(Auth)
	}
	return nil
}

// problemInformation is a packet with a Reason String and User Properties
// that only explain, so that it can do without them.
type problemInformation interface {
	Packet
	// withoutProblemInformation returns a copy without User Properties and,
	// unless keepReason, without Reason String.
	withoutProblemInformation(keepReason bool) Packet
}

// AppendLimited appends p to dst in at most max bytes, the Maximum Packet Size
// of the receiver; max 0 means no limit. A packet that is too large loses its
// User Properties, then its Reason String ([MQTT-3.2.2-19], [MQTT-3.2.2-20],
// [MQTT-3.4.2-2], [MQTT-3.14.2-3] and their like), and CONNACK with it what
// only says that something is available, as the lack of it does; p itself is
// not changed. If that does not suffice, or p is of a type that cannot lose any, it returns dst unchanged and an error with
// the code PacketTooLarge: such a packet must not be sent [MQTT-3.1.2-24].
func AppendLimited(dst []byte, p Packet, v Version, max uint32) ([]byte, error) {
	out, err := p.AppendTo(dst, v)
	if err != nil || fits(dst, out, max) {
		return out, err
	}
	if t, ok := p.(problemInformation); ok && v == V5 {
		for _, keepReason := range []bool{true, false} {
			out, err = t.withoutProblemInformation(keepReason).AppendTo(dst, v)
			if err != nil || fits(dst, out, max) {
				return out, err
			}
		}
	}
	return out[:len(dst)], &Error{Code: PacketTooLarge, Clause: "MQTT-3.1.2-24", Message: "the packet exceeds the receiver's Maximum Packet Size"}
}

func fits(before, after []byte, max uint32) bool {
	return max == 0 || uint64(len(after)-len(before)) <= uint64(max)
}

// WithoutProblemInformation returns p without Reason String and User
// Properties, for a client that set Request Problem Information to 0
// [MQTT-3.1.2-29]. It returns p itself if its type has none, and for PUBLISH,
// CONNECT and what a client sends otherwise; p is not changed.
func WithoutProblemInformation(p Packet) Packet {
	if t, ok := p.(problemInformation); ok {
		return t.withoutProblemInformation(false)
	}
	return p
}

// checkVersion refuses to encode for a version that the codec doesn't speak.
func checkVersion(v Version) *Error {
	if v != V311 && v != V5 {
		return &Error{Code: UnsupportedProtocolVersion, Clause: "MQTT-3.1.2-2", Message: "no such protocol version"}
	}
	return nil
}

// maxReuse is the capacity up to which a slice of a packet is used again.
const maxReuse = 64

// reuse empties a slice of a struct that is decoded into again. It forgets
// what the elements point to, and the whole slice if one unusual packet made
// it large, so that a reused struct holds no frames and little memory.
func reuse[T any](s []T) []T {
	if cap(s) > maxReuse {
		return nil
	}
	clear(s)
	return s[:0]
}
