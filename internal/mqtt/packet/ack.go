package packet

// Ack is what PUBACK, PUBREC, PUBREL and PUBCOMP have in common: the four
// types are convertible to it and to each other. UserProperties alias the
// frame after Decode.
type Ack struct {
	PacketID uint16 // never 0

	// MQTT 5 only.

	ReasonCode     ReasonCode
	ReasonString   string // empty is absent
	UserProperties []UserProperty
}

const ackProps = 1<<propReasonString | 1<<propUserProperty

func (a *Ack) decode(t Type, v Version, frame []byte) error {
	old := a.ReasonString
	*a = Ack{UserProperties: reuse(a.UserProperties)}
	_, r := open(frame, t)
	a.PacketID = r.packetID()
	if v != V5 || len(r.b) == 0 { // Remaining Length 2 is Success
		return r.end()
	}
	a.ReasonCode = ReasonCode(r.byte())
	if !t.allows(a.ReasonCode) {
		r.fail(protocolError(ackClause(t), "the reason code does not belong in the packet"))
	}
	if len(r.b) == 0 { // Remaining Length 3 is no properties
		return r.end()
	}
	b := r.block()
	for {
		id, ok := b.next(ackProps, 1<<propUserProperty)
		if !ok {
			break
		}
		switch id {
		case propReasonString:
			b.string(&a.ReasonString, old)
		case propUserProperty:
			a.UserProperties = b.userProperty(a.UserProperties)
		}
	}
	r.leave(&b)
	return r.end()
}

func ackClause(t Type) string {
	switch t {
	case PUBACK:
		return "MQTT-3.4.2-1"
	case PUBREC:
		return "MQTT-3.5.2-1"
	case PUBREL:
		return "MQTT-3.6.2-1"
	}
	return "MQTT-3.7.2-1"
}

func (a *Ack) appendTo(t Type, dst []byte, v Version) ([]byte, error) {
	w := begin(dst, t)
	if e := checkVersion(v); e != nil {
		w.fail(e)
	}
	w.packetID(a.PacketID)
	if v == V5 {
		plain := a.ReasonString == "" && len(a.UserProperties) == 0
		if !plain || a.ReasonCode != Success {
			w.reason(t, a.ReasonCode)
		}
		if !plain {
			at := len(w.b)
			w.propText(propReasonString, a.ReasonString)
			w.userProperties(a.UserProperties)
			w.closeBlock(at)
		}
	}
	return w.end()
}

func (a *Ack) trimmed(keepReason bool) Ack {
	out := Ack{PacketID: a.PacketID, ReasonCode: a.ReasonCode}
	if keepReason {
		out.ReasonString = a.ReasonString
	}
	return out
}

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP without problem
// information. It does not allocate if dst has room for six bytes.
func AppendAck(dst []byte, v Version, t Type, id uint16, code ReasonCode) ([]byte, error) {
	if t < PUBACK || t > PUBCOMP {
		return dst, protocolError("2.1.2", "the packet is no acknowledgement")
	}
	a := Ack{PacketID: id, ReasonCode: code}
	return a.appendTo(t, dst, v)
}
