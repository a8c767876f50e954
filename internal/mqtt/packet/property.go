package packet

// Optional is a property that may be absent where absence means something
// else than the zero value. The zero Optional is absent.
type Optional[T any] struct {
	Value T
	Set   bool
}

// Some returns a property that is present with value v.
func Some[T any](v T) Optional[T] { return Optional[T]{Value: v, Set: true} }

// Or returns the value, or def if the property is absent.
func (o Optional[T]) Or(def T) T {
	if o.Set {
		return o.Value
	}
	return def
}

// UserProperty is a name and value pair. A packet may have several of one
// name; their order is kept.
type UserProperty struct {
	Name  []byte
	Value []byte
}

// The property identifiers of MQTT 5, table 2-4. All are below 64, so that a
// set of them is one word.
const (
	propPayloadFormatIndicator          = 0x01
	propMessageExpiryInterval           = 0x02
	propContentType                     = 0x03
	propResponseTopic                   = 0x08
	propCorrelationData                 = 0x09
	propSubscriptionIdentifier          = 0x0B
	propSessionExpiryInterval           = 0x11
	propAssignedClientIdentifier        = 0x12
	propServerKeepAlive                 = 0x13
	propAuthenticationMethod            = 0x15
	propAuthenticationData              = 0x16
	propRequestProblemInformation       = 0x17
	propWillDelayInterval               = 0x18
	propRequestResponseInformation      = 0x19
	propResponseInformation             = 0x1A
	propServerReference                 = 0x1C
	propReasonString                    = 0x1F
	propReceiveMaximum                  = 0x21
	propTopicAliasMaximum               = 0x22
	propTopicAlias                      = 0x23
	propMaximumQoS                      = 0x24
	propRetainAvailable                 = 0x25
	propUserProperty                    = 0x26
	propMaximumPacketSize               = 0x27
	propWildcardSubscriptionAvailable   = 0x28
	propSubscriptionIdentifierAvailable = 0x29
	propSharedSubscriptionAvailable     = 0x2A
)

// block reads the Property Length and returns a reader of the properties. A
// failure shows in the returned reader; pass that back to leave.
func (r *reader) block() reader {
	n := r.varint()
	b := r.take(int(n))
	return reader{b: b, err: r.err}
}

// leave takes over the error of a property block that has been read.
func (r *reader) leave(block *reader) {
	if block.err != nil {
		r.fail(block.err)
	}
}

// next reads the identifier of the next property and returns false at the end
// of the block or on an error. allowed has the bit of every identifier that
// the packet may carry, many of those that it may carry more than once.
func (r *reader) next(allowed, many uint64) (id uint32, ok bool) {
	if len(r.b) == 0 || r.err != nil {
		return 0, false
	}
	id = r.varint()
	if r.err != nil {
		return 0, false
	}
	bit := uint64(1) << (id & 63)
	if id > 63 || allowed&bit == 0 {
		r.fail(malformed("2.2.2.2", "a property does not belong in the packet"))
		return 0, false
	}
	if r.seen&bit != 0 && many&bit == 0 {
		r.fail(protocolError("2.2.2.2", "a property occurs more than once"))
		return 0, false
	}
	r.seen |= bit
	return id, true
}

// flag reads a property whose value is 0 or 1.
func (r *reader) flag() bool {
	v := r.byte()
	if v > 1 {
		r.fail(protocolError("2.2.2.2", "a property that is 0 or 1 has another value"))
	}
	return v == 1
}

// string reads text into *s and keeps the string that is there if it is
// equal, so that repeated texts cost no allocation.
func (r *reader) string(s *string, old string) {
	b := r.text()
	if string(b) == old {
		*s = old
		return
	}
	*s = string(b)
}

func (r *reader) userProperty(list []UserProperty) []UserProperty {
	name := r.text() // [MQTT-1.5.7-1]
	value := r.text()
	if r.err != nil {
		return list
	}
	return append(list, UserProperty{Name: name, Value: value})
}

// nonZero16 and nonZero32 read numbers that must not be 0.
func (r *reader) nonZero16(section string) uint16 {
	v := r.uint16()
	if v == 0 && r.err == nil {
		r.fail(protocolError(section, "a property that must not be 0 is 0"))
	}
	return v
}

func (r *reader) nonZero32(section string) uint32 {
	v := r.uint32()
	if v == 0 && r.err == nil {
		r.fail(protocolError(section, "a property that must not be 0 is 0"))
	}
	return v
}

// cloneProperties copies list and the bytes it points to.
func cloneProperties(list []UserProperty) []UserProperty {
	if list == nil {
		return nil
	}
	n := 0
	for _, p := range list {
		n += len(p.Name) + len(p.Value)
	}
	buf := make([]byte, 0, n)
	out := make([]UserProperty, len(list))
	for i, p := range list {
		out[i].Name, buf = carve(buf, p.Name)
		out[i].Value, buf = carve(buf, p.Value)
	}
	return out
}

// carve appends b to buf, which must have the room, and returns the copy. A
// nil b stays nil.
func carve(buf, b []byte) (part, rest []byte) {
	if b == nil {
		return nil, buf
	}
	n := len(buf)
	buf = append(buf, b...)
	return buf[n:len(buf):len(buf)], buf
}
