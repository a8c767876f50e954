package stored

import (
	"encoding/binary"
	"fmt"
	"math"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// Ref names a queue entry for as long as it exists. Refs are comparable.
type Ref struct {
	Index          uint64 // commit index
	Message        uint64 // commit index of the message record; 0: there is none
	Ordinal        uint16
	MessageOrdinal uint16
	Partition      uint8
}

func (r Ref) sequence() sequence { return sequence{r.Index, r.Ordinal} }
func (r Ref) message() sequence  { return sequence{r.Message, r.MessageOrdinal} }

// Cursor returns the entry's place in the order of its session's queue.
func (r Ref) Cursor() Cursor { return Cursor{r.Index, r.Ordinal} }

// Entry is a message that waits for a session, or its identifier that does.
type Entry struct {
	Ref             Ref
	PacketID        uint16
	QoS             packet.QoS
	Retain          bool // RETAIN as it is to be sent
	Released        bool // PUBREC has come: only PUBREL is to be sent, and there is no Message
	SubscriptionIDs []uint32
	Share           string // the shared subscription's share name and filter; empty: none
	Size            int    // bytes that it counts for in the queue
	Expires         int64  // Unix nanoseconds; 0: never
	Message         *session.Message
}

// Target is a stored session that a message is for.
type Target struct {
	Session         string
	Epoch           uint64
	PacketID        uint16 // unique among the session's entries; 0 is none
	QoS             packet.QoS
	Retain          bool
	SubscriptionIDs []uint32
	Share           string
	Size            int // bytes that it counts for in the queue; 0: those of the message as it is stored
}

// entryVersion begins an entry that expires. Others are of recordVersion, as all
// were in the first format.
const entryVersion = 2

// The flags of an entry. A payload is inline, or in a message record of the
// same batch, or, after a move, in one of an earlier batch, or gone.
const (
	entryQoS      = 3 << 0
	entryRetain   = 1 << 2
	entryReleased = 1 << 3
	entryIDs      = 1 << 4
	entryShare    = 1 << 5
	entryPayload  = 3 << 6

	payloadNone   = 0 << 6
	payloadInline = 1 << 6
	payloadHere   = 2 << 6
	payloadThere  = 3 << 6
)

// appendEntry appends everything that comes before where the payload is. Size is
// that of the message as it is stored; expires is 0 or a time in nanoseconds.
func appendEntry(dst []byte, t *Target, payload byte, size int, expires int64) []byte {
	flags := byte(t.QoS)&entryQoS | payload
	if t.Retain {
		flags |= entryRetain
	}
	if len(t.SubscriptionIDs) > 0 {
		flags |= entryIDs
	}
	if t.Share != "" {
		flags |= entryShare
	}
	version := byte(recordVersion)
	if expires != 0 {
		version = entryVersion
	}
	if t.Size != 0 {
		size = t.Size
	}
	dst = append(dst, version, flags, byte(t.PacketID>>8), byte(t.PacketID))
	dst = binary.AppendUvarint(dst, uint64(size))
	if expires != 0 {
		dst = binary.AppendUvarint(dst, uint64(expires))
	}
	if flags&entryIDs != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(t.SubscriptionIDs)))
		for _, id := range t.SubscriptionIDs {
			dst = binary.AppendUvarint(dst, uint64(id))
		}
	}
	if flags&entryShare != 0 {
		dst = appendText(dst, t.Share)
	}
	return dst
}

// appendReleased appends an entry without payload.
func appendReleased(dst []byte, id uint16) []byte {
	return append(dst, recordVersion, byte(packet.QoS2)|entryReleased, byte(id>>8), byte(id), 0)
}

// header is the part of an entry that can be read without allocation.
type header struct {
	flags   byte
	id      uint16
	size    int
	expires int64
}

// entry begins an entry of any version.
func (d *decoder) entry(value []byte) (h header, err error) {
	*d = decoder{buf: value}
	version := d.byte()
	if version != recordVersion && version != entryVersion {
		return h, fmt.Errorf("%w: queue entry of version %d", errRecord, version)
	}
	h.flags = d.byte()
	h.id = uint16(d.byte())<<8 | uint16(d.byte())
	h.size = int(d.uintMax(math.MaxInt32))
	if version == entryVersion {
		h.expires = int64(d.uintMax(math.MaxInt64))
	}
	if h.flags&entryQoS == entryQoS {
		d.fail()
	}
	return h, d.err("queue entry")
}

// entryReader reads entries; it keeps nothing of one when it reads the next.
type entryReader struct {
	decoder
	header
	ids    []byte // encoded
	count  uint64 // of ids
	share  []byte
	inline []byte
}

// read reads the entry at seq of partition p and returns its Ref.
func (r *entryReader) read(p uint8, seq sequence, value []byte) (Ref, error) {
	ref := Ref{Index: seq.index, Ordinal: seq.ordinal, Partition: p}
	*r = entryReader{}
	var err error
	if r.header, err = r.decoder.entry(value); err != nil {
		return ref, err
	}
	if r.flags&entryIDs != 0 {
		r.count = r.uintMax(uint64(len(r.buf)))
		start := r.buf
		for range r.count {
			r.uintMax(packet.MaxRemainingLength)
		}
		r.ids = start[:len(start)-len(r.buf)]
	}
	if r.flags&entryShare != 0 {
		r.share = r.bytes()
	}
	switch r.flags & entryPayload {
	case payloadInline:
		r.inline, r.buf = r.buf, nil
	case payloadHere:
		ref.Message, ref.MessageOrdinal = seq.index, uint16(r.uintMax(math.MaxUint16))
	case payloadThere:
		ref.Message, ref.MessageOrdinal = r.uint(), uint16(r.uintMax(math.MaxUint16))
	}
	return ref, r.end("queue entry")
}

// entry returns what was read, without the message.
func (r *entryReader) entry(ref Ref) Entry {
	e := Entry{
		Ref: ref, PacketID: r.id, QoS: packet.QoS(r.flags & entryQoS),
		Retain: r.flags&entryRetain != 0, Released: r.flags&entryReleased != 0,
		Share: string(r.share), Size: r.size, Expires: r.expires,
	}
	if r.count > 0 {
		e.SubscriptionIDs = make([]uint32, 0, r.count)
		d := decoder{buf: r.ids}
		for range r.count {
			e.SubscriptionIDs = append(e.SubscriptionIDs, uint32(d.uint()))
		}
	}
	return e
}
