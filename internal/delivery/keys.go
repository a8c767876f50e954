package delivery

import (
	"encoding/binary"
	"errors"
	"fmt"

	"rollcall/internal/event"
	"rollcall/internal/store"
)

// The key spaces of this package, all in the partition of the event's source
// but for the tally:
//
//	event   p ‖ TableEvent ‖ realm ‖ index(8) ‖ ordinal(2)
//	        an event and the subscriptions that it is for; written by grid,
//	        deleted by retention
//	cursor  p ‖ TableCursor ‖ realm ‖ subscription(8)
//	        progress over the log; deleted with the subscription
//	retry   p ‖ TableRetry ‖ realm ‖ subscription(8) ‖ shelf(1) ‖ due(8) ‖ index(8) ‖ ordinal(2)
//	        an event that waits for its next attempt (shelf 0) or to be
//	        dead-lettered (shelf 1); deleted when it is settled
//	tally   0 ‖ TableTally ‖ realm ‖ subscription(8)
//	        counts; deleted with the subscription
//	segment p ‖ TableLog ‖ realm ‖ position(8)
//	        how much a stretch of the event log takes that ends there; deleted
//	        with its events; if it is missing, they are counted at the next start
//	low     p ‖ TableLog ‖ realm ‖ 0(8)
//	        up to where retention has deleted the log
//
// Every value begins with a version byte.

// position of an event in the log of one partition and source: commit index
// and ordinal, packed so that positions compare as numbers. 48 bits of index
// last for ninety years of 100,000 commits per second.
type position uint64

func at(index uint64, ordinal uint16) position { return position(index<<16 | uint64(ordinal)) }

// endOf is after every event of a commit.
func endOf(index uint64) position { return at(index, 0xFFFF) }

func (p position) index() uint64   { return uint64(p >> 16) }
func (p position) ordinal() uint16 { return uint16(p) }

// EventPrefix is the prefix of the event log of a source in one partition: what
// PutSequenced appends to.
func EventPrefix(partition uint8, realm string) []byte {
	return store.AppendKey(nil, partition, store.TableEvent, realm)
}

func eventKey(prefix []byte, p position) []byte {
	return store.SequencedKey(prefix, p.index(), p.ordinal())
}

func eventPosition(key []byte) (position, bool) {
	index, ordinal, ok := store.Sequence(key)
	return at(index, ordinal), ok
}

func cursorKey(partition uint8, realm string, id uint64) []byte {
	return store.AppendUint64(store.AppendKey(nil, partition, store.TableCursor, realm), id)
}

func tallyKey(realm string, id uint64) []byte {
	return store.AppendUint64(store.AppendKey(nil, store.Config, store.TableTally, realm), id)
}

func logPrefix(partition uint8, realm string) []byte {
	return store.AppendKey(nil, partition, store.TableLog, realm)
}

// logKey is the key of the segment that ends at p, and of the low-water mark if
// p is 0.
func logKey(prefix []byte, p position) []byte {
	return store.AppendUint64(append(make([]byte, 0, len(prefix)+8), prefix...), uint64(p))
}

func retryPrefix(partition uint8, realm string, id uint64) []byte {
	return store.AppendUint64(store.AppendKey(nil, partition, store.TableRetry, realm), id)
}

// shelfKind tells the two kinds of retry records apart.
type shelfKind uint8

const (
	waiting shelfKind = 0 // for another attempt
	dying   shelfKind = 1 // to be dead-lettered

	shelves = 2
)

func retryKey(prefix []byte, k shelfKind, due int64, p position) []byte {
	key := make([]byte, 0, len(prefix)+1+8+store.SequencedSuffix)
	key = append(append(key, prefix...), byte(k))
	key = store.AppendUint64(key, uint64(due))
	key = store.AppendUint64(key, p.index())
	return binary.BigEndian.AppendUint16(key, p.ordinal())
}

// retrySuffix reads what follows the prefix of a retry key.
func retrySuffix(suffix []byte) (k shelfKind, due int64, p position, ok bool) {
	if len(suffix) != 1+8+store.SequencedSuffix || suffix[0] >= shelves {
		return 0, 0, 0, false
	}
	p, ok = eventPosition(suffix)
	return shelfKind(suffix[0]), int64(binary.BigEndian.Uint64(suffix[1:])), p, ok
}

const recordVersion = 1

var errRecord = errors.New("delivery: malformed record")

// AppendRecord appends the value of an event in the log: the ids of the
// subscriptions that it is for, then the event.
func AppendRecord(dst []byte, subscriptions []uint64, e *event.Event) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, uint64(len(subscriptions)))
	for _, id := range subscriptions {
		dst = binary.AppendUvarint(dst, id)
	}
	return e.AppendBinary(dst)
}

// recordHas reports whether a record is for subscription id.
func recordHas(value []byte, id uint64) (bool, error) {
	found := false
	_, err := eachSubscription(value, func(have uint64) { found = found || have == id })
	return found, err
}

// eachSubscription calls f for every subscription of a record and returns the
// stored event.
func eachSubscription(value []byte, f func(id uint64)) (rest []byte, err error) {
	if len(value) == 0 || value[0] != recordVersion {
		return nil, errRecord
	}
	n, w := binary.Uvarint(value[1:])
	if w <= 0 {
		return nil, errRecord
	}
	rest = value[1+w:]
	for range n {
		id, w := binary.Uvarint(rest)
		if w <= 0 {
			return nil, errRecord
		}
		f(id)
		rest = rest[w:]
	}
	return rest, nil
}

func recordEvent(value []byte) (*event.Event, error) {
	rest, err := eachSubscription(value, func(uint64) {})
	if err != nil {
		return nil, err
	}
	return event.Decode(rest)
}

// retryRecord is what is known of an event that was attempted or given up.
// The zero value is that of an event never attempted.
type retryRecord struct {
	accepted int64 // when the event was accepted, Unix nanoseconds, 0: unknown
	due      int64 // when it is read back, Unix nanoseconds; in the key
	shelf    shelfKind
	attempts int
	outcome  Outcome // of the last attempt
	last     int64   // time of the last attempt, Unix nanoseconds, 0: none
	reason   Reason  // why it was given up, on the dying shelf
	since    int64   // when it was given up, Unix nanoseconds
}

// retryVersion adds the time of acceptance to what version 1 has.
const retryVersion = 2

func (r *retryRecord) append(dst []byte) []byte {
	dst = append(dst, retryVersion, byte(r.outcome), byte(r.reason))
	dst = binary.AppendUvarint(dst, uint64(r.attempts))
	dst = binary.AppendVarint(dst, r.last)
	dst = binary.AppendVarint(dst, r.since)
	return binary.AppendVarint(dst, r.accepted)
}

func decodeRetry(k shelfKind, due int64, value []byte) (retryRecord, error) {
	if len(value) < 3 || value[0] != recordVersion && value[0] != retryVersion || value[1] >= outcomes || value[2] >= reasons {
		return retryRecord{}, errRecord
	}
	r := retryRecord{due: due, shelf: k, outcome: Outcome(value[1]), reason: Reason(value[2])}
	v := value[3:]
	n, w := binary.Uvarint(v)
	if w <= 0 || n > 1<<20 {
		return retryRecord{}, errRecord
	}
	r.attempts, v = int(n), v[w:]
	if r.last, w = binary.Varint(v); w <= 0 {
		return retryRecord{}, errRecord
	}
	v = v[w:]
	if r.since, w = binary.Varint(v); w <= 0 {
		return retryRecord{}, errRecord
	}
	if value[0] == recordVersion {
		return r, nil
	}
	if r.accepted, w = binary.Varint(v[w:]); w <= 0 {
		return retryRecord{}, errRecord
	}
	return r, nil
}

// cursorRecord is the durable progress of a subscription in one partition.
type cursorRecord struct {
	position position // everything up to here is settled or has a retry record
	low      [shelves]int64
	// low: no retry record of that shelf is due before

	// The log has beyond events of the subscription after position and up to
	// counted, so that after a start only what came later has to be counted.
	counted position
	beyond  uint64
}

// cursorVersion adds counted and beyond to what version 1 has.
const cursorVersion = 2

func (c *cursorRecord) append(dst []byte) []byte {
	dst = append(dst, cursorVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.position))
	for _, low := range c.low {
		dst = binary.BigEndian.AppendUint64(dst, uint64(low))
	}
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.counted))
	return binary.BigEndian.AppendUint64(dst, c.beyond)
}

func decodeCursor(value []byte) (cursorRecord, error) {
	const old, size = 1 + 8 + 8*shelves, 1 + 8 + 8*shelves + 16
	if len(value) == 0 || !(value[0] == recordVersion && len(value) == old || value[0] == cursorVersion && len(value) == size) {
		return cursorRecord{}, fmt.Errorf("cursor: %w", errRecord)
	}
	c := cursorRecord{position: position(binary.BigEndian.Uint64(value[1:]))}
	for i := range c.low {
		c.low[i] = int64(binary.BigEndian.Uint64(value[9+8*i:]))
	}
	c.counted = c.position
	if value[0] == cursorVersion {
		c.counted = position(binary.BigEndian.Uint64(value[old:]))
		c.beyond = binary.BigEndian.Uint64(value[old+8:])
	}
	return c, nil
}
