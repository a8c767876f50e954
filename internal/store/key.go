package store

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
)

// DefaultPartitions is the number of partitions of a new store. It is fixed
// when the store is made.
const DefaultPartitions = 16

// Config is the partition of configuration: resources that operators write.
const Config uint8 = 0

// Table is the second byte of every key: whose key space it is. Each value is
// described in the keys.go of the package that owns it.
type Table uint8

// The key spaces. A value is never given a second meaning.
const (
	TableEngine     Table = 0x00 // the engine itself; batches cannot write it
	TableLoss       Table = 0x01 // marks of writes that were lost (see Loss)
	TableResource   Table = 0x10 // registry: clients, CA certificates
	TableName       Table = 0x11 // registry: index of authentication names
	TablePending    Table = 0x12 // registry: coalesced life-cycle events not yet staged
	TableCounter    Table = 0x13 // id counters of the configuration partition
	TableClientName Table = 0x14 // registry: index of clients' names
	TableClock      Table = 0x15 // the newest steady time, for the next start to compare
	TableSession    Table = 0x20 // presence: where each session name stands
	TableHistory    Table = 0x21 // presence: transitions by session and number
	TableTimeline   Table = 0x22 // presence: transitions in commit order
	TableOpen       Table = 0x23 // presence: sessions held, by incarnation
	TableBoot       Table = 0x24 // presence: boot counter of each node
	TableSub        Table = 0x30 // grid: event subscriptions
	TableEvent      Table = 0x31 // grid: events in commit order, by source
	TableCursor     Table = 0x40 // delivery: progress of each subscription
	TableRetry      Table = 0x41 // delivery: events waiting for another attempt
	TableTally      Table = 0x42 // delivery: counts of delivered, dropped, dead-lettered
	TableLog        Table = 0x43 // delivery: what the event log takes, by source

	TableSessionState Table = 0x50 // mqtt/stored: session state that outlives a connection
	TableFilter       Table = 0x51 // mqtt/stored: subscriptions of stored sessions
	TableDue          Table = 0x52 // mqtt/stored: sessions and Wills by when they are due
	TableWill         Table = 0x53 // mqtt/stored: Wills not yet published
	TableInbound      Table = 0x54 // mqtt/stored: QoS 2 packet ids that await PUBREL
	TableMessage      Table = 0x55 // mqtt/stored: messages with several targets
	TableQueue        Table = 0x56 // mqtt/stored: what waits for each session
	TableGarbage      Table = 0x57 // mqtt/stored: ended sessions whose queues are to be deleted
	TableRetained     Table = 0x58 // mqtt/stored: retained messages by topic
)

// tableNames are what people call the tables.
var tableNames = map[Table]string{
	TableEngine: "engine", TableLoss: "losses", TableResource: "resources", TableName: "names", TablePending: "pending events",
	TableCounter: "counters", TableClientName: "client names", TableClock: "clock", TableSession: "sessions", TableHistory: "history", TableTimeline: "timeline",
	TableOpen: "open sessions", TableBoot: "boots", TableSub: "event subscriptions", TableEvent: "events",
	TableCursor: "cursors", TableRetry: "retries", TableTally: "tallies", TableSessionState: "session state",
	TableFilter: "subscriptions", TableDue: "due", TableWill: "wills", TableInbound: "inbound", TableMessage: "messages",
	TableQueue: "queues", TableGarbage: "garbage", TableRetained: "retained messages",
}

// String returns what people call the table: a closed set, fit for labels.
func (t Table) String() string {
	if s, ok := tableNames[t]; ok {
		return s
	}
	return "unknown"
}

// Tables lists all tables in the order of their keys.
func Tables() []Table {
	return slices.Sorted(maps.Keys(tableNames))
}

// TableOf returns the table that a key is of; TableEngine if it is none.
func TableOf(key []byte) Table {
	if len(key) < 2 {
		return TableEngine
	}
	return Table(key[1])
}

// Partition maps a realm and a name within it to a partition of a store that
// has n. The mapping never changes (FNV-1a, 64 bit).
func Partition(n int, realm, name string) uint8 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(realm) {
		h = (h ^ uint64(realm[i])) * prime
	}
	h *= prime // the separator, a zero byte
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * prime
	}
	h ^= h >> 32
	return uint8(h % uint64(n))
}

// AppendKey begins a key: partition, table, realm.
func AppendKey(dst []byte, partition uint8, t Table, realm string) []byte {
	return AppendString(append(dst, partition, byte(t)), realm)
}

// AppendString appends s so that keys order as their strings do: a zero byte
// within becomes 0x00 0xFF, and 0x00 0x01 ends it.
func AppendString(dst []byte, s string) []byte {
	for i := range len(s) {
		dst = append(dst, s[i])
		if s[i] == 0 {
			dst = append(dst, 0xFF)
		}
	}
	return append(dst, 0, 1)
}

// AppendUint64 appends v big-endian, so that keys order as numbers do.
func AppendUint64(dst []byte, v uint64) []byte {
	return binary.BigEndian.AppendUint64(dst, v)
}

// TakeString reads what AppendString wrote and returns the rest of the key, or
// false if key does not begin with a whole string.
func TakeString(key []byte) (s string, rest []byte, ok bool) {
	var buf []byte
	for i := 0; i+1 < len(key); i++ {
		if key[i] != 0 {
			continue
		}
		switch key[i+1] {
		case 1:
			return string(append(buf, key[:i]...)), key[i+2:], true
		case 0xFF:
			buf = append(buf, key[:i+1]...)
			key = key[i+2:]
			i = -1
		default:
			return "", nil, false
		}
	}
	return "", nil, false
}

// TakeUint64 reads what AppendUint64 wrote and returns the rest of the key.
func TakeUint64(key []byte) (v uint64, rest []byte, ok bool) {
	if len(key) < 8 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(key), key[8:], true
}

// PrefixEnd returns the first key after all keys that begin with prefix, or
// nil if there is no such bound.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xFF {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

// SequencedSuffix is the number of bytes PutSequenced adds to its prefix:
// commit index (8) and ordinal within the batch (2), both big-endian.
const SequencedSuffix = 10

// SequencedKey is the key that PutSequenced(prefix, …) wrote at index and
// ordinal, the ordinal counting a batch's PutSequenced calls from 0.
func SequencedKey(prefix []byte, index uint64, ordinal uint16) []byte {
	k := make([]byte, len(prefix)+SequencedSuffix)
	PutSequence(k[copy(k, prefix):], index, ordinal)
	return k
}

// PutSequence writes what follows the prefix in a sequenced key to the first
// SequencedSuffix bytes of dst.
func PutSequence(dst []byte, index uint64, ordinal uint16) {
	binary.BigEndian.PutUint64(dst, index)
	binary.BigEndian.PutUint16(dst[8:], ordinal)
}

// Sequence reads index and ordinal off the end of a sequenced key.
func Sequence(key []byte) (index uint64, ordinal uint16, ok bool) {
	if len(key) < SequencedSuffix {
		return 0, 0, false
	}
	tail := key[len(key)-SequencedSuffix:]
	return binary.BigEndian.Uint64(tail), binary.BigEndian.Uint16(tail[8:]), true
}

// ID names a batch. It is unique among all batches ever submitted.
type ID [16]byte

// NewID returns a random ID.
func NewID() ID {
	var id ID
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64())
	return id
}
