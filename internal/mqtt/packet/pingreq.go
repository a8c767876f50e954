package packet

// Pingreq is the PINGREQ packet, the question of a keep-alive exchange.
type Pingreq struct{}

// Type returns PINGREQ.
func (*Pingreq) Type() Type { return PINGREQ }

// Decode checks that frame is a PINGREQ, which has no body.
func (*Pingreq) Decode(_ Version, frame []byte) error {
	_, r := open(frame, PINGREQ)
	return r.end()
}

// AppendTo appends the two bytes of the packet, the same in both versions.
func (*Pingreq) AppendTo(dst []byte, _ Version) ([]byte, error) {
	return append(dst, byte(PINGREQ)<<4, 0), nil
}
