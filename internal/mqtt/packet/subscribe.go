package packet

import "strings"

// Subscribe is the SUBSCRIBE packet. UserProperties alias the frame after
// Decode.
type Subscribe struct {
	PacketID      uint16         // never 0
	Subscriptions []Subscription // at least one

	// MQTT 5 only.

	SubscriptionIdentifier uint32 // 1 to 268,435,455; 0 is absent
	UserProperties         []UserProperty
}

// Subscription is one topic filter with its options.
type Subscription struct {
	// Filter is well-formed UTF-8; whether it is a legal topic filter is
	// judged per filter by the session, with package topic.
	Filter string
	QoS    QoS // maximum at which to deliver

	// MQTT 5 only.

	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    uint8 // 0 send at subscribe, 1 only if new, 2 never
}

// The bits of the Subscription Options.
const (
	optionQoS               = 3 << 0
	optionNoLocal           = 1 << 2
	optionRetainAsPublished = 1 << 3
	optionRetainHandling    = 3 << 4
	optionReserved          = 3 << 6
)

const subscribeProps = 1<<propSubscriptionIdentifier | 1<<propUserProperty

// Type returns SUBSCRIBE.
func (*Subscribe) Type() Type { return SUBSCRIBE }

// Decode reads a SUBSCRIBE of version v.
func (s *Subscribe) Decode(v Version, frame []byte) error {
	*s = Subscribe{Subscriptions: reuse(s.Subscriptions), UserProperties: reuse(s.UserProperties)}
	_, r := open(frame, SUBSCRIBE)
	s.PacketID = r.packetID()
	if v == V5 {
		s.properties(&r)
	}
	if len(r.b) == 0 && r.err == nil {
		r.fail(protocolError("MQTT-3.8.3-2", "there is no Topic Filter"))
	}
	for len(r.b) > 0 {
		sub := Subscription{Filter: r.filter()} // [MQTT-3.8.3-1]
		sub.options(&r, v)
		s.Subscriptions = append(s.Subscriptions, sub)
	}
	return r.end()
}

// filter reads a Topic Filter of at least one character.
func (r *reader) filter() string {
	f := string(r.name())
	if f == "" && r.err == nil {
		r.fail(malformed("MQTT-4.7.3-1", "the Topic Filter is empty"))
	}
	return f
}

// filter appends a Topic Filter.
func (w *writer) filter(f string) {
	if f == "" {
		w.fail(malformed("MQTT-4.7.3-1", "the Topic Filter is empty"))
	}
	w.text(f)
}

func (s *Subscribe) properties(r *reader) {
	b := r.block()
	for {
		id, ok := b.next(subscribeProps, 1<<propUserProperty)
		if !ok {
			break
		}
		switch id {
		case propSubscriptionIdentifier:
			s.SubscriptionIdentifier = b.subscriptionIdentifier()
		case propUserProperty:
			s.UserProperties = b.userProperty(s.UserProperties)
		}
	}
	r.leave(&b)
}

func (s *Subscription) options(r *reader, v Version) {
	o := r.byte()
	if r.err != nil {
		return
	}
	s.QoS = QoS(o & optionQoS)
	if v != V5 {
		if o > byte(QoS2) {
			r.fail(malformed("3.1.1 MQTT-3-8.3-4", "reserved bits of the Requested QoS are set"))
		}
		return
	}
	s.NoLocal = o&optionNoLocal != 0
	s.RetainAsPublished = o&optionRetainAsPublished != 0
	s.RetainHandling = o & optionRetainHandling >> 4
	if o&optionReserved != 0 {
		r.fail(malformed("MQTT-3.8.3-5", "reserved bits of the Subscription Options are set"))
	} else if e := s.check(); e != nil {
		r.fail(e)
	}
}

// check judges the options of an MQTT 5 subscription.
func (s *Subscription) check() *Error {
	switch {
	case s.QoS > QoS2:
		return protocolError("3.8.3.1", "the Maximum QoS is above 2")
	case s.RetainHandling > 2:
		return protocolError("3.8.3.1", "the Retain Handling is above 2")
	case s.NoLocal && strings.HasPrefix(s.Filter, "$share/"):
		return protocolError("MQTT-3.8.3-4", "No Local is set on a Shared Subscription")
	}
	return nil
}

// AppendTo appends the packet.
func (s *Subscribe) AppendTo(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, SUBSCRIBE)
	if e := checkVersion(v); e != nil {
		w.fail(e)
	}
	w.packetID(s.PacketID)
	if v == V5 {
		at := len(w.b)
		if s.SubscriptionIdentifier > MaxRemainingLength {
			w.fail(protocolError("3.8.2.1.2", "the Subscription Identifier is out of range"))
		} else if s.SubscriptionIdentifier != 0 {
			w.byte(propSubscriptionIdentifier)
			w.b = appendVarint(w.b, s.SubscriptionIdentifier)
		}
		w.userProperties(s.UserProperties)
		w.closeBlock(at)
	}
	if len(s.Subscriptions) == 0 {
		w.fail(protocolError("MQTT-3.8.3-2", "there is no Topic Filter"))
	}
	for i := range s.Subscriptions {
		sub := &s.Subscriptions[i]
		w.filter(sub.Filter)
		w.byte(sub.encode(&w, v))
	}
	return w.end()
}

func (s *Subscription) encode(w *writer, v Version) byte {
	if v != V5 {
		if s.QoS > QoS2 {
			w.fail(malformed("3.1.1 MQTT-3-8.3-4", "the Requested QoS is above 2"))
		}
		return byte(s.QoS)
	}
	if e := s.check(); e != nil {
		w.fail(e)
	}
	o := byte(s.QoS) | s.RetainHandling<<4
	if s.NoLocal {
		o |= optionNoLocal
	}
	if s.RetainAsPublished {
		o |= optionRetainAsPublished
	}
	return o
}
