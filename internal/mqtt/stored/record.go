package stored

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// recordVersion begins every stored record of this package.
const recordVersion = 1

var errRecord = errors.New("stored: malformed record")

// decoder takes fields off a record in the order in which they were appended.
// It copies nothing but strings; after a mistake everything it returns is zero.
type decoder struct {
	buf []byte
	bad bool
}

// decode begins a record of the given name.
func decode(value []byte, name string) (decoder, error) {
	d := decoder{buf: value}
	if v := d.byte(); v != recordVersion {
		return d, fmt.Errorf("%w: %s of version %d", errRecord, name, v)
	}
	return d, nil
}

func (d *decoder) fail() { d.bad, d.buf = true, nil }

func (d *decoder) byte() byte {
	if len(d.buf) < 1 {
		d.fail()
		return 0
	}
	v := d.buf[0]
	d.buf = d.buf[1:]
	return v
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.buf)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

// uintMax reads a number that is at most limit.
func (d *decoder) uintMax(limit uint64) uint64 {
	v := d.uint()
	if v > limit {
		d.fail()
		return 0
	}
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uint()
	if uint64(len(d.buf)) < n {
		d.fail()
		return nil
	}
	v := d.buf[:n:n]
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) str() string { return string(d.bytes()) }

// time reads what appendTime wrote: zero is the zero time.
func (d *decoder) time() time.Time {
	if len(d.buf) < 8 {
		d.fail()
		return time.Time{}
	}
	v := int64(binary.BigEndian.Uint64(d.buf))
	d.buf = d.buf[8:]
	if v == 0 {
		return time.Time{}
	}
	return time.Unix(0, v).UTC()
}

func (d *decoder) err(name string) error {
	if d.bad {
		return fmt.Errorf("%w: %s", errRecord, name)
	}
	return nil
}

// end is err for a record that must be read to its end by now.
func (d *decoder) end(name string) error {
	if len(d.buf) != 0 {
		d.fail()
	}
	return d.err(name)
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendTime(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.BigEndian.AppendUint64(dst, 0)
	}
	return binary.BigEndian.AppendUint64(dst, uint64(t.UnixNano()))
}
