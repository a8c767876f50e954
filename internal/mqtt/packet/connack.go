package packet

// Connack is the CONNACK packet. The byte slices alias the frame after Decode.
type Connack struct {
	SessionPresent bool
	// ReasonCode is translated from and to the return code of 3.1.1.
	ReasonCode ReasonCode

	// MQTT 5 only. Where a property is Optional, the comment says what its
	// absence means.

	SessionExpiryInterval            Optional[uint32] // seconds; what the client asked for
	ReceiveMaximum                   uint16           // 65,535 if absent; 0 is written as absent
	MaximumQoS                       Optional[QoS]    // 0 or 1; absent is 2
	RetainAvailable                  Optional[bool]   // absent is true
	MaximumPacketSize                uint32           // bytes, 0 is no limit
	AssignedClientIdentifier         string           // empty is absent
	TopicAliasMaximum                uint16
	ReasonString                     string           // empty is absent
	WildcardSubscriptionAvailable    Optional[bool]   // absent is true
	SubscriptionIdentifiersAvailable Optional[bool]   // absent is true
	SharedSubscriptionAvailable      Optional[bool]   // absent is true
	ServerKeepAlive                  Optional[uint16] // seconds; what the client asked for
	ResponseInformation              string           // empty is absent
	ServerReference                  string           // empty is absent
	AuthenticationMethod             string           // empty is absent
	AuthenticationData               []byte           // nil is absent
	UserProperties                   []UserProperty
}

const connackProps = 1<<propSessionExpiryInterval | 1<<propReceiveMaximum | 1<<propMaximumQoS |
	1<<propRetainAvailable | 1<<propMaximumPacketSize | 1<<propAssignedClientIdentifier | 1<<propTopicAliasMaximum |
	1<<propReasonString | 1<<propUserProperty | 1<<propWildcardSubscriptionAvailable |
	1<<propSubscriptionIdentifierAvailable | 1<<propSharedSubscriptionAvailable | 1<<propServerKeepAlive |
	1<<propResponseInformation | 1<<propServerReference | 1<<propAuthenticationMethod | 1<<propAuthenticationData

// Type returns CONNACK.
func (*Connack) Type() Type { return CONNACK }

// Decode reads a CONNACK of version v.
func (c *Connack) Decode(v Version, frame []byte) error {
	*c = Connack{ReceiveMaximum: defaultReceiveMaximum}
	_, r := open(frame, CONNACK)
	flags := r.byte()
	if flags > 1 {
		r.fail(malformed("MQTT-3.2.2-1", "reserved Connect Acknowledge Flags are set"))
	}
	c.SessionPresent = flags == 1
	code := r.byte()
	if v == V5 {
		c.ReasonCode = ReasonCode(code)
		if !CONNACK.allows(c.ReasonCode) {
			r.fail(protocolError("MQTT-3.2.2-8", "the reason code does not belong in the packet"))
		}
		c.properties(&r)
	} else {
		var known bool
		if c.ReasonCode, known = connackReason(code); !known {
			r.fail(malformed("3.1.1 3.2.2.3", "the return code is reserved"))
		}
	}
	if c.SessionPresent && c.ReasonCode != Success {
		r.fail(protocolError("MQTT-3.2.2-6", "Session Present is set on a refusal"))
	}
	return r.end()
}

func (c *Connack) properties(r *reader) {
	b := r.block()
	for {
		id, ok := b.next(connackProps, 1<<propUserProperty)
		if !ok {
			break
		}
		switch id {
		case propSessionExpiryInterval:
			c.SessionExpiryInterval = Some(b.uint32())
		case propReceiveMaximum:
			c.ReceiveMaximum = b.nonZero16("3.2.2.3.3")
		case propMaximumQoS:
			c.MaximumQoS = Some(QoS0)
			if b.flag() {
				c.MaximumQoS.Value = QoS1
			}
		case propRetainAvailable:
			c.RetainAvailable = Some(b.flag())
		case propMaximumPacketSize:
			c.MaximumPacketSize = b.nonZero32("3.2.2.3.6")
		case propAssignedClientIdentifier:
			c.AssignedClientIdentifier = string(b.text())
		case propTopicAliasMaximum:
			c.TopicAliasMaximum = b.uint16()
		case propReasonString:
			c.ReasonString = string(b.text())
		case propUserProperty:
			c.UserProperties = b.userProperty(c.UserProperties)
		case propWildcardSubscriptionAvailable:
			c.WildcardSubscriptionAvailable = Some(b.flag())
		case propSubscriptionIdentifierAvailable:
			c.SubscriptionIdentifiersAvailable = Some(b.flag())
		case propSharedSubscriptionAvailable:
			c.SharedSubscriptionAvailable = Some(b.flag())
		case propServerKeepAlive:
			c.ServerKeepAlive = Some(b.uint16())
		case propResponseInformation:
			c.ResponseInformation = string(b.text())
		case propServerReference:
			c.ServerReference = string(b.text())
		case propAuthenticationMethod:
			c.AuthenticationMethod = b.method()
		case propAuthenticationData:
			c.AuthenticationData = b.binary()
		}
	}
	if c.AuthenticationData != nil && c.AuthenticationMethod == "" {
		b.fail(protocolError("3.2.2.3.18", "there is Authentication Data without a method"))
	}
	r.leave(&b)
}

// AppendTo appends the packet. For 3.1.1 the reason code is translated; it is
// an error if that gives [NoReturnCode].
func (c *Connack) AppendTo(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, CONNACK)
	if e := checkVersion(v); e != nil {
		w.fail(e)
	}
	if c.SessionPresent && c.ReasonCode != Success {
		w.fail(protocolError("MQTT-3.2.2-6", "Session Present is set on a refusal"))
	}
	w.bool(c.SessionPresent)
	if v == V5 {
		w.reason(CONNACK, c.ReasonCode)
		c.appendProperties(&w)
		return w.end()
	}
	code := ConnackReturnCode(c.ReasonCode)
	if code == NoReturnCode {
		w.fail(protocolError("3.1.1 MQTT-3.2.2-6", "no return code expresses the reason"))
	}
	w.byte(code)
	return w.end()
}

func (c *Connack) appendProperties(w *writer) {
	at := len(w.b)
	w.propOptional32(propSessionExpiryInterval, c.SessionExpiryInterval)
	if c.ReceiveMaximum != defaultReceiveMaximum {
		w.propUint16(propReceiveMaximum, c.ReceiveMaximum)
	}
	if c.MaximumQoS.Set && c.MaximumQoS.Value < QoS2 { // 2 is said by leaving it out
		w.byte(propMaximumQoS)
		w.byte(byte(c.MaximumQoS.Value))
	}
	w.propFlag(propRetainAvailable, c.RetainAvailable)
	w.propUint32(propMaximumPacketSize, c.MaximumPacketSize)
	w.propText(propAssignedClientIdentifier, c.AssignedClientIdentifier)
	w.propUint16(propTopicAliasMaximum, c.TopicAliasMaximum)
	w.propText(propReasonString, c.ReasonString)
	w.userProperties(c.UserProperties)
	w.propFlag(propWildcardSubscriptionAvailable, c.WildcardSubscriptionAvailable)
	w.propFlag(propSubscriptionIdentifierAvailable, c.SubscriptionIdentifiersAvailable)
	w.propFlag(propSharedSubscriptionAvailable, c.SharedSubscriptionAvailable)
	if c.ServerKeepAlive.Set {
		w.byte(propServerKeepAlive)
		w.uint16(c.ServerKeepAlive.Value)
	}
	w.propText(propResponseInformation, c.ResponseInformation)
	w.propText(propServerReference, c.ServerReference)
	if c.AuthenticationData != nil && c.AuthenticationMethod == "" {
		w.fail(protocolError("3.2.2.3.18", "there is Authentication Data without a method"))
	}
	w.propText(propAuthenticationMethod, c.AuthenticationMethod)
	w.propBinary(propAuthenticationData, c.AuthenticationData)
	w.closeBlock(at)
}

func (c *Connack) withoutProblemInformation(keepReason bool) Packet {
	out := *c
	out.UserProperties = nil
	if !keepReason {
		out.ReasonString = ""
		for _, f := range []*Optional[bool]{&out.RetainAvailable, &out.WildcardSubscriptionAvailable,
			&out.SubscriptionIdentifiersAvailable, &out.SharedSubscriptionAvailable} {
			if f.Value { // absent says the same
				*f = Optional[bool]{}
			}
		}
	}
	return &out
}
