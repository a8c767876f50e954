package packet

// Puback is the PUBACK packet: the answer to a PUBLISH of QoS 1.
type Puback Ack

// Type returns PUBACK.
func (*Puback) Type() Type { return PUBACK }

// Decode reads a PUBACK of version v. A 3.1.1 one has the reason code Success.
func (p *Puback) Decode(v Version, frame []byte) error { return (*Ack)(p).decode(PUBACK, v, frame) }

// AppendTo appends the packet in its shortest form.
func (p *Puback) AppendTo(dst []byte, v Version) ([]byte, error) {
	return (*Ack)(p).appendTo(PUBACK, dst, v)
}

func (p *Puback) withoutProblemInformation(keepReason bool) Packet {
	out := Puback((*Ack)(p).trimmed(keepReason))
	return &out
}
