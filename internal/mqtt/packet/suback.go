package packet

// Suback is the SUBACK packet. UserProperties alias the frame after Decode.
type Suback struct {
	PacketID uint16 // that of the SUBSCRIBE
	// ReasonCodes has one code for each filter of the SUBSCRIBE, in its order.
	// For 3.1.1 every failure is UnspecifiedError.
	ReasonCodes []ReasonCode

	// MQTT 5 only.

	ReasonString   string // empty is absent
	UserProperties []UserProperty
}

// Type returns SUBACK.
func (*Suback) Type() Type { return SUBACK }

// Decode reads a SUBACK of version v.
func (s *Suback) Decode(v Version, frame []byte) error {
	*s = Suback{ReasonCodes: reuse(s.ReasonCodes), UserProperties: reuse(s.UserProperties)}
	_, r := open(frame, SUBACK)
	s.PacketID = r.packetID()
	if v == V5 {
		b := r.block()
		s.ReasonString, s.UserProperties = b.problemInformation(s.UserProperties)
		r.leave(&b)
	}
	if len(r.b) == 0 && r.err == nil {
		r.fail(protocolError("MQTT-3.9.3-1", "there is no reason code"))
	}
	for _, c := range r.rest() {
		code := ReasonCode(c)
		if v != V5 && c > byte(GrantedQoS2) && code != UnspecifiedError {
			r.fail(malformed("3.1.1 MQTT-3.9.3-2", "the return code is reserved"))
		} else if !SUBACK.allows(code) {
			r.fail(protocolError("MQTT-3.9.3-2", "the reason code does not belong in the packet"))
		}
		s.ReasonCodes = append(s.ReasonCodes, code)
	}
	return r.end()
}

// problemInformation reads a block of only Reason String and User Properties.
func (r *reader) problemInformation(list []UserProperty) (reason string, props []UserProperty) {
	props = list
	for {
		id, ok := r.next(ackProps, 1<<propUserProperty)
		if !ok {
			return reason, props
		}
		switch id {
		case propReasonString:
			reason = string(r.text())
		case propUserProperty:
			props = r.userProperty(props)
		}
	}
}

// problemInformation appends a block of Reason String and User Properties.
func (w *writer) problemInformation(reason string, props []UserProperty) {
	at := len(w.b)
	w.propText(propReasonString, reason)
	w.userProperties(props)
	w.closeBlock(at)
}

// AppendTo appends the packet, for 3.1.1 with [SubackReturnCode].
func (s *Suback) AppendTo(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, SUBACK)
	if e := checkVersion(v); e != nil {
		w.fail(e)
	}
	w.packetID(s.PacketID)
	if v == V5 {
		w.problemInformation(s.ReasonString, s.UserProperties)
	}
	if len(s.ReasonCodes) == 0 {
		w.fail(protocolError("MQTT-3.9.3-1", "there is no reason code"))
	}
	for _, c := range s.ReasonCodes {
		if v != V5 {
			c = ReasonCode(SubackReturnCode(c))
		}
		w.reason(SUBACK, c)
	}
	return w.end()
}

func (s *Suback) withoutProblemInformation(keepReason bool) Packet {
	out := *s
	out.UserProperties = nil
	if !keepReason {
		out.ReasonString = ""
	}
	return &out
}
