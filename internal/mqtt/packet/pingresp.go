package packet

// Pingresp is the PINGRESP packet, the answer of a keep-alive exchange.
type Pingresp struct{}

// Type returns PINGRESP.
func (*Pingresp) Type() Type { return PINGRESP }

// Decode checks that frame is a PINGRESP, which has no body.
func (*Pingresp) Decode(_ Version, frame []byte) error {
	_, r := open(frame, PINGRESP)
	return r.end()
}

// AppendTo appends the two bytes of the packet, the same in both versions.
func (*Pingresp) AppendTo(dst []byte, _ Version) ([]byte, error) {
	return append(dst, byte(PINGRESP)<<4, 0), nil
}
