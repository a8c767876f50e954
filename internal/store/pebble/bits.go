package pebble

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is the checksum that Pebble stores beside chunks of its logs and
// blocks of its tables.
func maskedCRC(p []byte) uint32 { return mask(crc32.Checksum(p, castagnoli)) }

func mask(c uint32) uint32 { return (c>>15 | c<<17) + 0xa282ead8 }

func unmask(c uint32) uint32 {
	c -= 0xa282ead8
	return c<<15 | c>>17
}

// flippedBit finds the one bit of p that has to change for p to have the
// checksum want. At is len(p) or more where the bit is one of the checksum's
// own, so that p is right.
//
// A checksum is linear: what a bit contributes depends on its distance from
// the end alone. So one walk over p finds the bit, if there is one. Data that
// was damaged in another way looks like this by chance once in 2^32 / bits: one
// in 100,000 blocks of 4 KiB.
func flippedBit(p []byte, want uint32) (at int, bit uint8, ok bool) {
	stored := unmask(want)
	syndrome := crc32.Checksum(p, castagnoli) ^ stored
	if syndrome == 0 {
		return 0, 0, false
	}
	var effect [8]uint32 // of each bit of the byte at hand
	for b := range effect {
		effect[b] = castagnoli[1<<b]
	}
	for i := len(p) - 1; i >= 0; i-- {
		for b, e := range effect {
			if e == syndrome {
				return i, uint8(b), true
			}
			effect[b] = castagnoli[byte(e)] ^ e>>8
		}
	}
	computed := mask(crc32.Checksum(p, castagnoli))
	for b := range 32 {
		if computed == want^1<<b {
			return len(p) + b/8, uint8(b % 8), true
		}
	}
	return 0, 0, false
}
