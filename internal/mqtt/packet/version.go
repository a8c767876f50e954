package packet

import "fmt"

// Version is the protocol level byte of CONNECT. Packets can be encoded and
// decoded for V311 and V5; other values only come out of a refused CONNECT.
type Version uint8

// The protocol versions that the codec speaks.
const (
	V311 Version = 4 // MQTT 3.1.1
	V5   Version = 5 // MQTT 5.0
)

// Dialect returns the version in which a CONNECT of level v is to be
// answered, even to refuse it: V311 for everything older than 5, V5 for 5 and
// whatever comes after. The levels 0x83 and 0x84 are 3.1 and 3.1.1 with the
// bit that some brokers set on bridge connections, so they count as older.
func (v Version) Dialect() Version {
	if v < V5 || v == 0x83 || v == 0x84 {
		return V311
	}
	return V5
}

// String returns "3.1.1", "5.0", or the level in hexadecimal.
func (v Version) String() string {
	switch v {
	case V311:
		return "3.1.1"
	case V5:
		return "5.0"
	}
	return fmt.Sprintf("0x%02X", uint8(v))
}

// QoS is a quality of service level, 0 to 2.
type QoS uint8

// The levels of quality of service.
const (
	QoS0 QoS = 0 // at most once
	QoS1 QoS = 1 // at least once
	QoS2 QoS = 2 // exactly once
)

// Type is the control packet type, the upper half of a frame's first byte.
type Type uint8

// The control packet types. Type 0 is reserved in both versions, AUTH in 3.1.1.
const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

// TypeOf returns the type of the packet that begins with the byte first.
func TypeOf(first byte) Type { return Type(first >> 4) }

// String returns the type's name as the specification spells it.
func (t Type) String() string {
	switch t {
	case CONNECT:
		return "CONNECT"
	case CONNACK:
		return "CONNACK"
	case PUBLISH:
		return "PUBLISH"
	case PUBACK:
		return "PUBACK"
	case PUBREC:
		return "PUBREC"
	case PUBREL:
		return "PUBREL"
	case PUBCOMP:
		return "PUBCOMP"
	case SUBSCRIBE:
		return "SUBSCRIBE"
	case SUBACK:
		return "SUBACK"
	case UNSUBSCRIBE:
		return "UNSUBSCRIBE"
	case UNSUBACK:
		return "UNSUBACK"
	case PINGREQ:
		return "PINGREQ"
	case PINGRESP:
		return "PINGRESP"
	case DISCONNECT:
		return "DISCONNECT"
	case AUTH:
		return "AUTH"
	}
	return fmt.Sprintf("reserved type %d", uint8(t))
}

// flags returns the lower half of the first byte that type t must have. It is
// meaningless for PUBLISH.
func (t Type) flags() byte {
	if t == PUBREL || t == SUBSCRIBE || t == UNSUBSCRIBE {
		return 0b0010
	}
	return 0
}
