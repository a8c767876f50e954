package packet

// Disconnect is the DISCONNECT packet. In 3.1.1 only a client sends it and it
// has no body. UserProperties alias the frame after Decode.
type Disconnect struct {
	// MQTT 5 only.

	ReasonCode            ReasonCode
	SessionExpiryInterval Optional[uint32] // seconds, from a client only; absent is that of CONNECT
	ReasonString          string           // empty is absent
	ServerReference       string           // empty is absent
	UserProperties        []UserProperty
}

const disconnectProps = 1<<propSessionExpiryInterval | 1<<propReasonString | 1<<propServerReference | 1<<propUserProperty

// Type returns DISCONNECT.
func (*Disconnect) Type() Type { return DISCONNECT }

// Decode reads a DISCONNECT of version v.
func (d *Disconnect) Decode(v Version, frame []byte) error {
	*d = Disconnect{UserProperties: reuse(d.UserProperties)}
	_, r := open(frame, DISCONNECT)
	if v != V5 || len(r.b) == 0 { // Remaining Length 0 is Normal disconnection
		return r.end()
	}
	d.ReasonCode = ReasonCode(r.byte())
	if !DISCONNECT.allows(d.ReasonCode) {
		r.fail(protocolError("MQTT-3.14.2-1", "the reason code does not belong in the packet"))
	}
	if len(r.b) == 0 { // Remaining Length 1 is no properties
		return r.end()
	}
	b := r.block()
	for {
		id, ok := b.next(disconnectProps, 1<<propUserProperty)
		if !ok {
			break
		}
		switch id {
		case propSessionExpiryInterval:
			d.SessionExpiryInterval = Some(b.uint32())
		case propReasonString:
			d.ReasonString = string(b.text())
		case propServerReference:
			d.ServerReference = string(b.text())
		case propUserProperty:
			d.UserProperties = b.userProperty(d.UserProperties)
		}
	}
	r.leave(&b)
	return r.end()
}

// AppendTo appends the packet in its shortest form.
func (d *Disconnect) AppendTo(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, DISCONNECT)
	if e := checkVersion(v); e != nil {
		w.fail(e)
	}
	if v != V5 {
		return w.end()
	}
	plain := !d.SessionExpiryInterval.Set && d.ReasonString == "" && d.ServerReference == "" && len(d.UserProperties) == 0
	if !plain || d.ReasonCode != NormalDisconnection {
		w.reason(DISCONNECT, d.ReasonCode)
	}
	if !plain {
		at := len(w.b)
		w.propOptional32(propSessionExpiryInterval, d.SessionExpiryInterval)
		w.propText(propReasonString, d.ReasonString)
		w.propText(propServerReference, d.ServerReference)
		w.userProperties(d.UserProperties)
		w.closeBlock(at)
	}
	return w.end()
}

func (d *Disconnect) withoutProblemInformation(keepReason bool) Packet {
	out := *d
	out.UserProperties = nil
	if !keepReason {
		out.ReasonString = ""
	}
	return &out
}
