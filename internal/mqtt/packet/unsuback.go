package packet

// Unsuback is the UNSUBACK packet. UserProperties alias the frame after
// Decode.
type Unsuback struct {
	PacketID uint16 // that of the UNSUBSCRIBE

	// MQTT 5 only.

	// ReasonCodes has one code for each filter of the UNSUBSCRIBE, in its
	// order.
	ReasonCodes    []ReasonCode
	ReasonString   string // empty is absent
	UserProperties []UserProperty
}

// Type returns UNSUBACK.
func (*Unsuback) Type() Type { return UNSUBACK }

// Decode reads an UNSUBACK of version v.
func (u *Unsuback) Decode(v Version, frame []byte) error {
	*u = Unsuback{ReasonCodes: reuse(u.ReasonCodes), UserProperties: reuse(u.UserProperties)}
	_, r := open(frame, UNSUBACK)
	u.PacketID = r.packetID()
	if v != V5 {
		return r.end()
	}
	b := r.block()
	u.ReasonString, u.UserProperties = b.problemInformation(u.UserProperties)
	r.leave(&b)
	if len(r.b) == 0 && r.err == nil {
		r.fail(protocolError("MQTT-3.11.3-1", "there is no reason code"))
	}
	for _, c := range r.rest() {
		if !UNSUBACK.allows(ReasonCode(c)) {
			r.fail(protocolError("MQTT-3.11.3-2", "the reason code does not belong in the packet"))
		}
		u.ReasonCodes = append(u.ReasonCodes, ReasonCode(c))
	}
	return r.end()
}

// AppendTo appends the packet, for 3.1.1 without reason codes.
func (u *Unsuback) AppendTo(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, UNSUBACK)
	if e := checkVersion(v); e != nil {
		w.fail(e)
	}
	w.packetID(u.PacketID)
	if v != V5 {
		return w.end()
	}
	w.problemInformation(u.ReasonString, u.UserProperties)
	if len(u.ReasonCodes) == 0 {
		w.fail(protocolError("MQTT-3.11.3-1", "there is no reason code"))
	}
	for _, c := range u.ReasonCodes {
		w.reason(UNSUBACK, c)
	}
	return w.end()
}

func (u *Unsuback) withoutProblemInformation(keepReason bool) Packet {
	out := *u
	out.UserProperties = nil
	if !keepReason {
		out.ReasonString = ""
	}
	return &out
}
