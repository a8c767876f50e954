package packet

// Pubrel is the PUBREL packet: the answer to a PUBREC.
type Pubrel Ack

// Type returns PUBREL.
func (*Pubrel) Type() Type { return PUBREL }

// Decode reads a PUBREL of version v. A 3.1.1 one has the reason code Success.
func (p *Pubrel) Decode(v Version, frame []byte) error { return (*Ack)(p).decode(PUBREL, v, frame) }

// AppendTo appends the packet in its shortest form.
func (p *Pubrel) AppendTo(dst []byte, v Version) ([]byte, error) {
	return (*Ack)(p).appendTo(PUBREL, dst, v)
}

func (p *Pubrel) withoutProblemInformation(keepReason bool) Packet {
	out := Pubrel((*Ack)(p).trimmed(keepReason))
	return &out
}
