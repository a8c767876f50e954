package packet

// Pubrec is the PUBREC packet: the first answer to a PUBLISH of QoS 2.
type Pubrec Ack

// Type returns PUBREC.
func (*Pubrec) Type() Type { return PUBREC }

// Decode reads a PUBREC of version v. A 3.1.1 one has the reason code Success.
func (p *Pubrec) Decode(v Version, frame []byte) error { return (*Ack)(p).decode(PUBREC, v, frame) }

// AppendTo appends the packet in its shortest form.
func (p *Pubrec) AppendTo(dst []byte, v Version) ([]byte, error) {
	return (*Ack)(p).appendTo(PUBREC, dst, v)
}

func (p *Pubrec) withoutProblemInformation(keepReason bool) Packet {
	out := Pubrec((*Ack)(p).trimmed(keepReason))
	return &out
}
