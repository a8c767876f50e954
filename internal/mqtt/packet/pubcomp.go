package packet

// Pubcomp is the PUBCOMP packet: the answer to a PUBREL.
type Pubcomp Ack

// Type returns PUBCOMP.
func (*Pubcomp) Type() Type { return PUBCOMP }

// Decode reads a PUBCOMP of version v. A 3.1.1 one has the reason code Success.
func (p *Pubcomp) Decode(v Version, frame []byte) error { return (*Ack)(p).decode(PUBCOMP, v, frame) }

// AppendTo appends the packet in its shortest form.
func (p *Pubcomp) AppendTo(dst []byte, v Version) ([]byte, error) {
	return (*Ack)(p).appendTo(PUBCOMP, dst, v)
}

func (p *Pubcomp) withoutProblemInformation(keepReason bool) Packet {
	out := Pubcomp((*Ack)(p).trimmed(keepReason))
	return &out
}
