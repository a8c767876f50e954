package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// codecVersion is the first byte of a stored event.
const codecVersion = 1

var errTruncated = errors.New("event: the stored event is truncated")

// AppendBinary appends e as it is stored: a version byte, then every field in
// order, strings and data preceded by their length. It never fails.
func (e *Event) AppendBinary(dst []byte) []byte {
	dst = append(dst, codecVersion)
	dst = appendString(dst, e.ID)
	dst = appendString(dst, e.Source)
	dst = appendString(dst, e.Type)
	dst = appendString(dst, e.Subject)
	dst = binary.AppendVarint(dst, e.Time.UnixNano())
	dst = appendString(dst, e.DataVersion)
	if e.Data == nil {
		dst = append(dst, 0)
	} else {
		dst = append(dst, 1)
		dst = binary.AppendUvarint(dst, uint64(len(e.Data)))
		dst = append(dst, e.Data...)
	}
	dst = appendString(dst, e.OutputID)
	return binary.AppendVarint(dst, e.Accepted.UnixNano())
}

// Decode reads what AppendBinary wrote. The event keeps no part of data. All
// of data must be used up.
func Decode(data []byte) (*Event, error) {
	if len(data) == 0 {
		return nil, errTruncated
	}
	if data[0] != codecVersion {
		return nil, fmt.Errorf("event: encoding version %d is unknown", data[0])
	}
	// One copy for all strings: they live and die with the event.
	r := reader{data: string(data[1:])}
	e := &Event{
		ID:      r.string(),
		Source:  r.string(),
		Type:    r.string(),
		Subject: r.string(),
		Time:    r.time(),
	}
	e.DataVersion = r.string()
	switch r.byte() {
	case 0:
	case 1:
		e.Data = []byte(r.string())
	default:
		r.bad = true
	}
	e.OutputID = r.string()
	e.Accepted = r.time()
	if r.bad {
		return nil, errTruncated
	}
	if len(r.data) > 0 {
		return nil, fmt.Errorf("event: %d bytes follow the stored event", len(r.data))
	}
	return e, nil
}

// Size estimates the bytes that e takes up in a delivery body.
func (e *Event) Size() int {
	return 160 + len(e.ID) + len(e.Source) + len(e.Type) + len(e.Subject) + len(e.DataVersion) + len(e.Data)
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

type reader struct {
	data string
	bad  bool
}

func (r *reader) byte() byte {
	if len(r.data) == 0 {
		r.bad = true
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

func (r *reader) uvarint() uint64 {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		b := r.byte()
		if r.bad || (shift == 63 && b > 1) {
			break
		}
		v |= uint64(b&0x7F) << shift
		if b < 0x80 {
			return v
		}
	}
	r.bad = true
	return 0
}

func (r *reader) string() string {
	n := r.uvarint()
	if r.bad || n > uint64(len(r.data)) {
		r.bad = true
		return ""
	}
	s := r.data[:n]
	r.data = r.data[n:]
	return s
}

func (r *reader) time() time.Time {
	u := r.uvarint()
	n := int64(u >> 1)
	if u&1 != 0 {
		n = ^n
	}
	return time.Unix(0, n).UTC()
}
