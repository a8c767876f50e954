package packet

// Unsubscribe is the UNSUBSCRIBE packet. UserProperties alias the frame after
// Decode.
type Unsubscribe struct {
	PacketID uint16   // never 0
	Filters  []string // at least one

	// MQTT 5 only.

	UserProperties []UserProperty
}

// Type returns UNSUBSCRIBE.
func (*Unsubscribe) Type() Type { return UNSUBSCRIBE }

// Decode reads an UNSUBSCRIBE of version v.
func (u *Unsubscribe) Decode(v Version, frame []byte) error {
	*u = Unsubscribe{Filters: reuse(u.Filters), UserProperties: reuse(u.UserProperties)}
	_, r := open(frame, UNSUBSCRIBE)
	u.PacketID = r.packetID()
	if v == V5 {
		b := r.block()
		for {
			if _, ok := b.next(1<<propUserProperty, 1<<propUserProperty); !ok {
				break
			}
			u.UserProperties = b.userProperty(u.UserProperties)
		}
		r.leave(&b)
	}
	if len(r.b) == 0 && r.err == nil {
		r.fail(protocolError("MQTT-3.10.3-2", "there is no Topic Filter"))
	}
	for len(r.b) > 0 {
		u.Filters = append(u.Filters, r.filter()) // [MQTT-3.10.3-1]
	}
	return r.end()
}

// AppendTo appends the packet.
func (u *Unsubscribe) AppendTo(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, UNSUBSCRIBE)
	if e := checkVersion(v); e != nil {
		w.fail(e)
	}
	w.packetID(u.PacketID)
	if v == V5 {
		at := len(w.b)
		w.userProperties(u.UserProperties)
		w.closeBlock(at)
	}
	if len(u.Filters) == 0 {
		w.fail(protocolError("MQTT-3.10.3-2", "there is no Topic Filter"))
	}
	for _, f := range u.Filters {
		w.filter(f)
	}
	return w.end()
}
