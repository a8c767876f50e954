package packet

import "slices"

// Connect is the CONNECT packet. The byte slices alias the frame after Decode.
type Connect struct {
	// Version is the protocol level. Decode sets it even when it fails, to
	// what the client sent; it is 0 if the frame ends before the level or does
	// not begin with a protocol name of MQTT, in which case no CONNACK is due.
	// AppendTo ignores it and writes the version it is asked for.
	Version Version

	ClientID   string // empty asks the server to assign one
	CleanStart bool   // Clean Session in 3.1.1
	KeepAlive  uint16 // seconds, 0 is off

	UserName Optional[string]
	Password []byte // nil is absent
	Will     *Will  // nil is absent

	// What follows is MQTT 5 only. Decoding a 3.1.1 CONNECT leaves the
	// protocol's defaults.

	SessionExpiryInterval      uint32 // seconds, 0 ends with the connection, 0xFFFFFFFF never
	ReceiveMaximum             uint16 // 65,535 if absent; 0 is written as absent
	MaximumPacketSize          uint32 // bytes, 0 is no limit
	TopicAliasMaximum          uint16
	RequestResponseInformation bool
	NoProblemInformation       bool // Request Problem Information is 0; its default is 1
	AsksProblemInformation     bool // Request Problem Information is there and 1
	AuthenticationMethod       string
	AuthenticationData         []byte // nil is absent
	UserProperties             []UserProperty
}

// The bits of the Connect Flags.
const (
	connectReserved = 1 << 0
	connectClean    = 1 << 1
	connectWill     = 1 << 2
	connectWillQoS  = 3 << 3
	connectRetain   = 1 << 5
	connectPassword = 1 << 6
	connectUserName = 1 << 7
)

const connectProps = 1<<propSessionExpiryInterval | 1<<propReceiveMaximum | 1<<propMaximumPacketSize |
	1<<propTopicAliasMaximum | 1<<propRequestResponseInformation | 1<<propRequestProblemInformation |
	1<<propUserProperty | 1<<propAuthenticationMethod | 1<<propAuthenticationData

// defaultReceiveMaximum holds where the property is absent, section 3.1.2.11.3.
const defaultReceiveMaximum = 65535

// Type returns CONNECT.
func (*Connect) Type() Type { return CONNECT }

// Decode reads a CONNECT of any version; v is ignored. A level other than
// V311 and V5 gives an error with the code UnsupportedProtocolVersion and
// Version set to that level, whose [Version.Dialect] is the one to answer in.
func (c *Connect) Decode(_ Version, frame []byte) error {
	*c = Connect{ReceiveMaximum: defaultReceiveMaximum}
	_, r := open(frame, CONNECT)
	if c.protocol(&r); r.err != nil {
		return r.err
	}
	flags := r.byte()
	c.KeepAlive = r.uint16()
	c.checkFlags(&r, flags)
	if c.Version == V5 {
		c.properties(&r)
	}
	c.CleanStart = flags&connectClean != 0
	c.ClientID = string(r.name())
	if flags&connectWill != 0 {
		c.Will = decodeWill(&r, c.Version, flags)
	}
	if flags&connectUserName != 0 {
		c.UserName = Some(string(r.name())) // [MQTT-3.1.3-12]
	}
	if flags&connectPassword != 0 {
		c.Password = r.binary()
	}
	return r.end()
}

// protocol reads the protocol's name and level.
func (c *Connect) protocol(r *reader) {
	name := string(r.text())
	level := Version(r.byte())
	if r.err != nil {
		return
	}
	switch {
	case name == "MQIsdp" || name == "MQTT" && level != V311 && level != V5: // [MQTT-3.1.2-2]
		c.Version = level
		r.fail(&Error{Code: UnsupportedProtocolVersion, Clause: "MQTT-3.1.2-2", Message: "the protocol version is not supported"})
	case name != "MQTT":
		r.fail(&Error{Code: UnsupportedProtocolVersion, Clause: "MQTT-3.1.2-1", Message: "the protocol is not MQTT"})
	default:
		c.Version = level
	}
}

func (c *Connect) checkFlags(r *reader, flags byte) {
	switch {
	case r.err != nil:
	case flags&connectReserved != 0:
		r.fail(malformed("MQTT-3.1.2-3", "the reserved bit of the Connect Flags is set"))
	case flags&connectWillQoS == connectWillQoS:
		r.fail(malformed("MQTT-3.1.2-12", "the Will QoS is 3"))
	case flags&connectWill == 0 && flags&connectWillQoS != 0:
		r.fail(malformed("MQTT-3.1.2-11", "there is a Will QoS without a Will"))
	case flags&connectWill == 0 && flags&connectRetain != 0:
		r.fail(malformed("MQTT-3.1.2-13", "Will Retain is set without a Will"))
	case c.Version == V311 && flags&connectPassword != 0 && flags&connectUserName == 0:
		r.fail(malformed("3.1.1 MQTT-3.1.2-22", "there is a Password without a User Name"))
	}
}

func (c *Connect) properties(r *reader) {
	b := r.block()
	for {
		id, ok := b.next(connectProps, 1<<propUserProperty)
		if !ok {
			break
		}
		switch id {
		case propSessionExpiryInterval:
			c.SessionExpiryInterval = b.uint32()
		case propReceiveMaximum:
			c.ReceiveMaximum = b.nonZero16("3.1.2.11.3")
		case propMaximumPacketSize:
			c.MaximumPacketSize = b.nonZero32("3.1.2.11.4")
		case propTopicAliasMaximum:
			c.TopicAliasMaximum = b.uint16()
		case propRequestResponseInformation:
			c.RequestResponseInformation = b.flag()
		case propRequestProblemInformation:
			c.AsksProblemInformation = b.flag()
			c.NoProblemInformation = !c.AsksProblemInformation
		case propUserProperty:
			c.UserProperties = b.userProperty(c.UserProperties)
		case propAuthenticationMethod:
			c.AuthenticationMethod = b.method()
		case propAuthenticationData:
			c.AuthenticationData = b.binary()
		}
	}
	if c.AuthenticationData != nil && c.AuthenticationMethod == "" {
		b.fail(protocolError("3.1.2.11.10", "there is Authentication Data without a method"))
	}
	r.leave(&b)
}

// method reads an Authentication Method. An empty one names no method, and so
// none that is supported.
func (r *reader) method() string {
	s := string(r.text())
	if s == "" && r.err == nil {
		r.fail(&Error{Code: BadAuthenticationMethod, Clause: "3.1.2.11.9", Message: "the Authentication Method is empty"})
	}
	return s
}

// AppendTo appends the packet as a client of version v sends it. It checks
// lengths and the combination of fields.
func (c *Connect) AppendTo(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, CONNECT)
	if e := checkVersion(v); e != nil {
		w.fail(e)
	}
	w.text("MQTT") // [MQTT-3.1.2-1]
	w.byte(byte(v))
	flags := c.flags()
	c.checkEncodable(&w, v)
	w.byte(flags)
	w.uint16(c.KeepAlive)
	if v == V5 {
		c.appendProperties(&w)
	}
	w.text(c.ClientID) // [MQTT-3.1.3-1]
	if c.Will != nil {
		c.Will.append(&w, v)
	}
	if c.UserName.Set {
		w.text(c.UserName.Value)
	}
	if c.Password != nil {
		w.binary(c.Password)
	}
	return w.end()
}

func (c *Connect) flags() (flags byte) {
	if c.CleanStart {
		flags |= connectClean
	}
	if c.Will != nil {
		flags |= connectWill | byte(c.Will.QoS&3)<<3
		if c.Will.Retain {
			flags |= connectRetain
		}
	}
	if c.Password != nil {
		flags |= connectPassword
	}
	if c.UserName.Set {
		flags |= connectUserName
	}
	return flags
}

func (c *Connect) checkEncodable(w *writer, v Version) {
	switch {
	case c.Will != nil && c.Will.QoS > QoS2:
		w.fail(malformed("MQTT-3.1.2-12", "the Will QoS is above 2"))
	case v == V311 && c.Password != nil && !c.UserName.Set:
		w.fail(malformed("3.1.1 MQTT-3.1.2-22", "there is a Password without a User Name"))
	case v == V5 && c.AuthenticationData != nil && c.AuthenticationMethod == "":
		w.fail(protocolError("3.1.2.11.10", "there is Authentication Data without a method"))
	}
}

func (c *Connect) appendProperties(w *writer) {
	at := len(w.b)
	w.propUint32(propSessionExpiryInterval, c.SessionExpiryInterval)
	if c.ReceiveMaximum != defaultReceiveMaximum {
		w.propUint16(propReceiveMaximum, c.ReceiveMaximum)
	}
	w.propUint32(propMaximumPacketSize, c.MaximumPacketSize)
	w.propUint16(propTopicAliasMaximum, c.TopicAliasMaximum)
	if c.RequestResponseInformation {
		w.propFlag(propRequestResponseInformation, Some(true))
	}
	if c.NoProblemInformation || c.AsksProblemInformation {
		w.propFlag(propRequestProblemInformation, Some(!c.NoProblemInformation))
	}
	w.userProperties(c.UserProperties)
	w.propText(propAuthenticationMethod, c.AuthenticationMethod)
	w.propBinary(propAuthenticationData, c.AuthenticationData)
	w.closeBlock(at)
}

// Clone returns a copy that shares no memory with c or the frame.
func (c *Connect) Clone() *Connect {
	out := *c
	out.Password = slices.Clone(c.Password)
	out.AuthenticationData = slices.Clone(c.AuthenticationData)
	out.UserProperties = cloneProperties(c.UserProperties)
	if c.Will != nil {
		out.Will = c.Will.Clone()
	}
	return &out
}
