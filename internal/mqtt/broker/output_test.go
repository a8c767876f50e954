package broker

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// TestOutputIsCompacted: a transport that takes a little again and again, and
// never all, does not make the buffer larger than about twice what waits.
// Nothing is lost or changed.
func TestOutputIsCompacted(t *testing.T) {
	for _, c := range []struct {
		name  string
		chunk int  // bytes that come at once; as many are taken
		waits int  // bytes that wait throughout
		apart bool // what comes is an output of its own, to be joined
	}{
		{"together", 1000, 64 << 10, false}, {"apart", 1000, 64 << 10, true},
		{"little waits", 1000, 8, false}, {"little is taken", 8, 64 << 10, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var came, went uint64 // numbers of eight bytes each
			more := func(b []byte, n int) []byte {
				for ; n > 0; n -= 8 {
					b = binary.BigEndian.AppendUint64(b, came)
					came++
				}
				return b
			}
			o := &output{buf: more(nil, c.waits)}
			largest := 0
			for total := 0; total < 4<<20; total += c.chunk {
				var next *output
				if c.apart {
					next = &output{buf: more(nil, c.chunk)}
				} else {
					o.buf = more(o.buf, c.chunk)
				}
				for range c.chunk / 8 { // the transport
					if got := binary.BigEndian.Uint64(o.buf[o.from:]); got != went {
						t.Fatalf("%d bytes in, %d is taken instead of %d", total, got, went)
					}
					went++
					if o.from += 8; o.from == len(o.buf) {
						break
					}
				}
				o.join(next)
				largest = max(largest, len(o.buf))
			}
			if most := 2*(c.waits+c.chunk) + c.chunk; largest > most {
				t.Errorf("the buffer has grown to %d bytes while %d waited", largest, c.waits)
			}
			if rest := o.buf[o.from:]; !bytes.Equal(rest, binaryRange(went, came)) {
				t.Errorf("%d bytes are left, which are not what has not been taken", len(rest))
			}
		})
	}
}

func binaryRange(from, to uint64) (b []byte) {
	for ; from < to; from++ {
		b = binary.BigEndian.AppendUint64(b, from)
	}
	return b
}
