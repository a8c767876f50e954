package store

import (
	"encoding/binary"
	"fmt"
)

// Class says which work a batch belongs to when space runs out.
type Class uint8

const (
	// Normal work is refused with ErrFull below the low-water mark.
	Normal Class = iota
	// Reserve work may use the reserve: disconnects, deletes, progress of
	// deliveries. It is what makes room or must not be lost.
	Reserve
)

// OpKind is the kind of one operation of a batch.
type OpKind uint8

// The operations. Their values are part of the encoding.
const (
	OpRequire      OpKind = 1 // Key has revision Rev (0: does not exist)
	OpPut          OpKind = 2 // Key = Value
	OpDelete       OpKind = 3 // Key does not exist any more
	OpDeleteRange  OpKind = 4 // no key in [Key, Value) exists any more
	OpPutSequenced OpKind = 5 // Key + commit index + ordinal = Value
)

// Op is one operation. Key and Value belong to the batch.
type Op struct {
	Kind  OpKind
	Key   []byte
	Value []byte // the upper bound for OpDeleteRange
	Rev   Revision
}

// encodingVersion is the first byte of an encoded batch.
const encodingVersion = 1

const headerLen = 1 + 16 + 1 // version, id, class

// MaxBatchSize bounds the encoding of one batch, in bytes. A larger one is
// invalid: a commit must stay short, for every other writer waits for it.
const MaxBatchSize = 16 << 20

// Batch is a set of operations that are applied together or not at all. All
// keys are of one partition. Requires are judged against the state before the
// batch, whatever their place in it; the other operations apply in order.
// A Batch is not for concurrent use.
type Batch struct {
	buf       []byte // the encoding, appended to as operations come
	count     int
	sequenced int
	partition int // -1 until the first key
	err       error
}

// NewBatch returns an empty batch with a fresh random id.
func NewBatch(c Class) *Batch { return NewBatchWithID(NewID(), c) }

// NewBatchWithID returns an empty batch with the given id.
func NewBatchWithID(id ID, c Class) *Batch {
	b := &Batch{buf: make([]byte, 0, 512), partition: -1}
	b.buf = append(b.buf, encodingVersion)
	b.buf = append(b.buf, id[:]...)
	b.buf = append(b.buf, byte(c))
	if c > Reserve {
		b.fail("an unknown class")
	}
	return b
}

// ID returns the batch's id.
func (b *Batch) ID() ID { return ID(b.buf[1:17]) }

// Class returns the batch's class.
func (b *Batch) Class() Class { return Class(b.buf[17]) }

// Len is the number of operations.
func (b *Batch) Len() int { return b.count }

// Size is the length of the encoding in bytes.
func (b *Batch) Size() int { return len(b.buf) }

// Partition returns the partition all keys are of, or false while there is no
// key.
func (b *Batch) Partition() (uint8, bool) { return uint8(b.partition), b.partition >= 0 }

// Err returns what is wrong with the batch, an ErrInvalid, or nil. Engines
// report it as the batch's outcome.
func (b *Batch) Err() error { return b.err }

// Require makes the batch fail with ErrConflict unless key has revision rev
// (0: unless it does not exist).
func (b *Batch) Require(key []byte, rev Revision) {
	b.op(OpRequire, key)
	b.buf = binary.BigEndian.AppendUint64(b.buf, uint64(rev))
}

// Put sets key to value.
func (b *Batch) Put(key, value []byte) {
	b.op(OpPut, key)
	b.bytes(value)
}

// Delete removes key. Removing what does not exist is no error.
func (b *Batch) Delete(key []byte) { b.op(OpDelete, key) }

// DeleteRange removes all keys in [lower, upper); nothing if upper is not
// above lower. It is for prefixes that nothing writes to any more. Both bounds
// are of one partition; upper may also be the end of that partition, as
// PrefixEnd gives it. It is never empty: no bound is no bound on the damage.
func (b *Batch) DeleteRange(lower, upper []byte) {
	b.op(OpDeleteRange, lower)
	b.checkUpper(upper)
	b.bytes(upper)
}

// PutSequenced puts value at prefix + commit index + ordinal, so that readers
// who follow a prefix by cursor never miss a late writer. It returns the
// ordinal (see SequencedKey).
func (b *Batch) PutSequenced(prefix, value []byte) uint16 {
	b.op(OpPutSequenced, prefix)
	b.bytes(value)
	n := uint16(b.sequenced)
	b.countSequenced()
	return n
}

// Encoded returns the versioned encoding. It is valid until the batch changes.
func (b *Batch) Encoded() []byte { return b.buf }

// Each calls f for every operation in order until f returns an error, and
// returns that error. A batch with an Err may hold fewer operations than were
// added to it.
func (b *Batch) Each(f func(Op) error) error {
	return each(b.buf[headerLen:], f)
}

// DecodeBatch reads what Encoded returned, keeping data, which must not change
// any more. It returns an ErrInvalid for what is not an encoding and for what
// no valid Batch encodes to, so that a decoded batch never has an Err.
func DecodeBatch(data []byte) (*Batch, error) {
	if len(data) < headerLen {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrInvalid, len(data))
	}
	if len(data) > MaxBatchSize {
		return nil, fmt.Errorf("%w: %d bytes are too many", ErrInvalid, len(data))
	}
	if data[0] != encodingVersion {
		return nil, fmt.Errorf("%w: encoding version %d is unknown", ErrInvalid, data[0])
	}
	if data[17] > byte(Reserve) {
		return nil, fmt.Errorf("%w: class %d is unknown", ErrInvalid, data[17])
	}
	b := &Batch{buf: data, partition: -1}
	err := each(data[headerLen:], func(o Op) error {
		b.check(o.Key)
		b.count++
		switch o.Kind {
		case OpPutSequenced:
			b.countSequenced()
		case OpDeleteRange:
			b.checkUpper(o.Value)
		}
		return b.err
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Batch) op(k OpKind, key []byte) {
	b.check(key)
	b.count++
	b.buf = append(b.buf, byte(k))
	b.bytes(key)
}

func (b *Batch) bytes(p []byte) {
	if len(b.buf)+len(p)+binary.MaxVarintLen64 > MaxBatchSize {
		b.fail("more than MaxBatchSize bytes")
		return // what is left is never applied: the batch has an error
	}
	b.buf = binary.AppendUvarint(b.buf, uint64(len(p)))
	b.buf = append(b.buf, p...)
}

func (b *Batch) check(key []byte) {
	switch {
	case len(key) < 2:
		b.fail("a key needs a partition and a table")
	case Table(key[1]) == TableEngine:
		b.fail("the engine's own table")
	case b.partition < 0:
		b.partition = int(key[0])
	case b.partition != int(key[0]):
		b.fail("keys of two partitions")
	}
}

func (b *Batch) checkUpper(upper []byte) {
	switch {
	case len(upper) == 0:
		b.fail("a range without an upper bound")
	case int(upper[0]) == b.partition:
	case int(upper[0]) == b.partition+1 && len(upper) == 1: // the partition's end
	default:
		b.fail("a range across partitions")
	}
}

func (b *Batch) countSequenced() {
	b.sequenced++
	if b.sequenced > 1<<16 {
		b.fail("more than 65536 sequenced puts")
	}
}

func (b *Batch) fail(why string) {
	if b.err == nil {
		b.err = fmt.Errorf("%w: %s", ErrInvalid, why)
	}
}

func each(p []byte, f func(Op) error) error {
	for len(p) > 0 {
		o := Op{Kind: OpKind(p[0])}
		var ok bool
		if o.Key, p, ok = takeBytes(p[1:]); !ok {
			return fmt.Errorf("%w: truncated key", ErrInvalid)
		}
		switch o.Kind {
		case OpRequire:
			if len(p) < 8 {
				return fmt.Errorf("%w: truncated revision", ErrInvalid)
			}
			o.Rev, p = Revision(binary.BigEndian.Uint64(p)), p[8:]
		case OpPut, OpDeleteRange, OpPutSequenced:
			if o.Value, p, ok = takeBytes(p); !ok {
				return fmt.Errorf("%w: truncated value", ErrInvalid)
			}
		case OpDelete:
		default:
			return fmt.Errorf("%w: operation %d is unknown", ErrInvalid, o.Kind)
		}
		if err := f(o); err != nil {
			return err
		}
	}
	return nil
}

func takeBytes(p []byte) (v, rest []byte, ok bool) {
	n, w := binary.Uvarint(p)
	if w <= 0 || uint64(len(p)-w) < n || (w > 1 && p[w-1] == 0) { // one encoding per length
		return nil, nil, false
	}
	p = p[w:]
	return p[:n:n], p[n:], true
}
