package packet

// Auth is the AUTH packet, MQTT 5 only. The byte slices alias the frame after
// Decode.
type Auth struct {
	ReasonCode           ReasonCode // Success, ContinueAuthentication or ReAuthenticate
	AuthenticationMethod string     // empty only in the shortest form
	AuthenticationData   []byte     // nil is absent
	ReasonString         string     // empty is absent
	UserProperties       []UserProperty
}

const authProps = 1<<propAuthenticationMethod | 1<<propAuthenticationData | 1<<propReasonString | 1<<propUserProperty

// Type returns AUTH.
func (*Auth) Type() Type { return AUTH }

// Decode reads an AUTH. For 3.1.1, where its type is reserved, it is
// malformed. Only Success without any properties may lack the method, as it may
// lack a body.
func (a *Auth) Decode(v Version, frame []byte) error {
	*a = Auth{UserProperties: reuse(a.UserProperties)}
	_, r := open(frame, AUTH)
	if v != V5 {
		r.fail(malformed("3.1.1 2.2.1", "packet type 15 is reserved"))
	}
	if len(r.b) == 0 {
		return r.end()
	}
	a.ReasonCode = ReasonCode(r.byte())
	if !AUTH.allows(a.ReasonCode) {
		r.fail(protocolError("MQTT-3.15.2-1", "the reason code does not belong in the packet"))
	}
	b := r.block()
	bare := len(b.b) == 0 && a.ReasonCode == Success
	for {
		id, ok := b.next(authProps, 1<<propUserProperty)
		if !ok {
			break
		}
		switch id {
		case propAuthenticationMethod:
			a.AuthenticationMethod = b.method()
		case propAuthenticationData:
			a.AuthenticationData = b.binary()
		case propReasonString:
			a.ReasonString = string(b.text())
		case propUserProperty:
			a.UserProperties = b.userProperty(a.UserProperties)
		}
	}
	if a.AuthenticationMethod == "" && !bare {
		b.fail(protocolError("3.15.2.2.2", "there is no Authentication Method"))
	}
	r.leave(&b)
	return r.end()
}

// AppendTo appends the packet. It is an error for 3.1.1, and without a method
// unless everything else is zero too.
func (a *Auth) AppendTo(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, AUTH)
	if v != V5 {
		w.fail(malformed("3.1.1 2.2.1", "packet type 15 is reserved"))
	}
	if a.AuthenticationMethod == "" {
		if a.ReasonCode != Success || a.AuthenticationData != nil || a.ReasonString != "" || len(a.UserProperties) > 0 {
			w.fail(protocolError("3.15.2.2.2", "there is no Authentication Method"))
		}
		return w.end()
	}
	w.reason(AUTH, a.ReasonCode)
	at := len(w.b)
	w.propText(propAuthenticationMethod, a.AuthenticationMethod)
	w.propBinary(propAuthenticationData, a.AuthenticationData)
	w.propText(propReasonString, a.ReasonString)
	w.userProperties(a.UserProperties)
	w.closeBlock(at)
	return w.end()
}

func (a *Auth) withoutProblemInformation(keepReason bool) Packet {
	out := *a
	out.UserProperties = nil
	if !keepReason {
		out.ReasonString = ""
	}
	return &out
}
