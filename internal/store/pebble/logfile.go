package pebble

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/record"
)

// Pebble writes its logs and its manifest as records, cut into chunks that do
// not cross blocks of 32 KiB: checksum(4), length(2), type(1), in logs the
// log's number(4), with newer types the offset known to be synced(8), payload.
// The checksum covers what follows the length. Package record reads a file up
// to its first fault; this reader goes on behind it, and puts right single
// bits.

const blockLen = 32 << 10

// chunkKinds are the types of chunks: what part of a record each is, and the
// length of its header.
var chunkKinds = [...]struct {
	part   chunkPart
	header int
}{
	1: {whole, 7}, 2: {first, 7}, 3: {middle, 7}, 4: {last, 7},
	5: {whole, 11}, 6: {first, 11}, 7: {middle, 11}, 8: {last, 11},
	9: {whole, 19}, 10: {first, 19}, 11: {middle, 19}, 12: {last, 19},
}

type chunkPart uint8

const (
	none chunkPart = iota
	whole
	first
	middle
	last
)

// entry is one whole record of a file.
type entry struct {
	offset int // of its first chunk
	end    int
	data   []byte
}

// fault is a part of a file that is not what was written.
type fault struct {
	offset, end int
	bit         bool // it was one bit, and has been put right in the data at hand
	proved      bool // a later chunk says that the log was synced beyond it
	before      int  // entries that precede it
}

// scan is what a file of records holds.
type scan struct {
	entries []entry
	// faults lists what could not be read or was put right, where sound chunks
	// follow it; bits that were put right also without.
	faults []fault
	// stop is where reading ended. What is behind may be preallocated space,
	// an older log's content, or damage.
	stop  int
	clean bool // the end of the file, or the mark that a writer leaves at the end, is at stop
}

// endAt makes the i-th fault the end of the file.
func (s *scan) endAt(i int) {
	f := s.faults[i]
	s.entries, s.faults, s.stop, s.clean = s.entries[:f.before], s.faults[:i], f.offset, false
}

// scanRecords reads data, which it changes where a single bit has flipped.
// Number is the log's, 0 for a manifest.
func scanRecords(data []byte, number uint32) scan {
	var s scan
	r := chunkReader{data: data, number: number}
	var record []byte
	start := -1
	for {
		c, ok := r.next()
		if !ok {
			from := r.at
			if r.ended() {
				s.stop, s.clean = r.at, start < 0
				return s
			}
			if c, ok = r.mend(); ok {
				s.faults = append(s.faults, fault{offset: from, end: r.at, bit: true, before: len(s.entries)})
			} else if r.resync() {
				s.faults = append(s.faults, fault{offset: from, end: r.at, before: len(s.entries)})
				record, start = nil, -1
				continue
			} else {
				s.stop = from
				if start >= 0 {
					s.stop = start
				}
				return s
			}
		}
		for i := range s.faults {
			s.faults[i].proved = s.faults[i].proved || c.synced > uint64(s.faults[i].offset)
		}
		switch c.part {
		case whole, first:
			record, start = nil, c.offset
		default:
			if start < 0 {
				continue // the rest of a record that began in a fault
			}
		}
		record = append(record, c.payload...)
		if c.part == whole || c.part == last {
			s.entries = append(s.entries, entry{start, r.at, record})
			record, start = nil, -1
		}
	}
}

type chunk struct {
	offset  int
	part    chunkPart
	synced  uint64 // the log was synced up to here when this was written
	payload []byte
}

type chunkReader struct {
	data   []byte
	number uint32
	at     int
}

// rest is the number of bytes left in the block at hand.
func (r *chunkReader) rest() int {
	return min(blockLen-r.at%blockLen, len(r.data)-r.at)
}

// skipPadding goes to the next block if no header fits into this one.
func (r *chunkReader) skipPadding() {
	for r.at < len(r.data) {
		n := r.rest()
		if r.at+n < len(r.data) || n == blockLen-r.at%blockLen { // a whole block's end
			if n < 7 || n < 19 && isZero(r.data[r.at:r.at+n]) {
				r.at += n
				continue
			}
		}
		return
	}
}

// next returns the chunk at hand, if it is sound, and goes on behind it.
func (r *chunkReader) next() (chunk, bool) {
	r.skipPadding()
	if r.rest() < 7 {
		return chunk{}, false
	}
	return r.take(int(binary.LittleEndian.Uint16(r.data[r.at+4:])))
}

// take returns the chunk at hand as if it had length n.
func (r *chunkReader) take(n int) (chunk, bool) {
	b := r.data[r.at : r.at+r.rest()]
	kind := int(b[6])
	if kind >= len(chunkKinds) || chunkKinds[kind].part == none {
		return chunk{}, false
	}
	k := chunkKinds[kind]
	if k.header+n > len(b) {
		return chunk{}, false
	}
	if k.header > 7 && binary.LittleEndian.Uint32(b[7:]) != r.number {
		return chunk{}, false
	}
	if maskedCRC(b[6:k.header+n]) != binary.LittleEndian.Uint32(b) {
		return chunk{}, false
	}
	c := chunk{offset: r.at, part: k.part, payload: b[k.header : k.header+n]}
	if k.header == 19 {
		c.synced = binary.LittleEndian.Uint64(b[11:])
	}
	r.at += k.header + n
	return c, true
}

// ended reports whether the file ends here as a closed one does.
func (r *chunkReader) ended() bool {
	if r.at >= len(r.data) {
		return true
	}
	b := r.data[r.at : r.at+r.rest()]
	return len(b) >= 11 && b[6] == 5 && binary.LittleEndian.Uint32(b[7:]) == r.number+1 && isZero(b[:6])
}

// mend looks for one bit that makes the chunk at hand sound: in what the
// checksum covers, in the checksum, or in the length.
func (r *chunkReader) mend() (chunk, bool) {
	if r.rest() < 7 {
		return chunk{}, false
	}
	b := r.data[r.at : r.at+r.rest()]
	if len(b) < 19 && r.at+len(b) < len(r.data) && clearOneBit(b) { // padding
		return r.next()
	}
	n := int(binary.LittleEndian.Uint16(b[4:]))
	for bit := range 16 {
		if c, ok := r.take(n ^ 1<<bit); ok {
			b[4+bit/8] ^= 1 << (bit % 8)
			return c, true
		}
	}
	want := binary.LittleEndian.Uint32(b)
	for _, header := range []int{19, 11, 7} {
		if header+n > len(b) || n == 0 && want == 0 {
			continue
		}
		at, bit, ok := flippedBit(b[6:header+n], want)
		if !ok {
			continue
		}
		if at >= header+n-6 {
			at -= header + n - 6 + 6 // the checksum itself
		}
		b[6+at] ^= 1 << bit
		if c, ok := r.next(); ok {
			return c, true
		}
		b[6+at] ^= 1 << bit
	}
	return chunk{}, false
}

// clearOneBit makes b zero if one bit alone is set in it.
func clearOneBit(b []byte) bool {
	ones, where := 0, 0
	for i, v := range b {
		if v != 0 {
			where = i
		}
		ones += bits.OnesCount8(v)
	}
	if ones != 1 {
		return false
	}
	b[where] = 0
	return true
}

// resync goes to the next sound chunk behind the one at hand, if there is one.
func (r *chunkReader) resync() bool {
	for at := r.at + 1; at+7 <= len(r.data); at++ {
		kind := r.data[at+6]
		if kind == 0 || int(kind) >= len(chunkKinds) || at%blockLen+7 > blockLen {
			continue
		}
		probe := chunkReader{r.data, r.number, at}
		if c, ok := probe.next(); ok && c.offset == at && len(c.payload) > 0 {
			r.at = at
			return true
		}
	}
	return false
}

// encodeRecords writes records so that a reader finds them and a proper end.
func encodeRecords(entries []entry) ([]byte, error) {
	var buf bytes.Buffer
	w := record.NewWriter(&buf)
	for _, e := range entries {
		if _, err := w.WriteRecord(e.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// commitIndex returns the index that a record of a log brings the store to, or
// 0 if it is not one of our commits.
func commitIndex(repr []byte) uint64 {
	if len(repr) < batchrepr.HeaderLen {
		return 0
	}
	var index uint64
	r := batchrepr.Read(repr)
	for {
		_, key, value, ok, err := r.Next()
		if err != nil || !ok {
			return index
		}
		if bytes.Equal(key, indexKey) && len(value) == revisionLen {
			index = binary.BigEndian.Uint64(value)
		}
	}
}

// firstCommit returns the index of the first commit in a log's data, 0 if the
// data has none that is whole. It reads no further.
func firstCommit(data []byte, number uint32) uint64 {
	r := chunkReader{data: data, number: number}
	var record []byte
	for {
		c, ok := r.next()
		if !ok {
			return 0
		}
		if c.part == whole || c.part == first {
			record = record[:0]
		}
		record = append(record, c.payload...)
		if c.part == whole || c.part == last {
			if n := commitIndex(record); n > 0 {
				return n
			}
		}
	}
}

// lastIndex returns the highest index in a run of entries, 0 if none has one.
func lastIndex(entries []entry) uint64 {
	for i := len(entries) - 1; i >= 0; i-- {
		if n := commitIndex(entries[i].data); n > 0 {
			return n
		}
	}
	return 0
}

// firstIndex returns the lowest index in a run of entries, MaxUint64 if none
// has one.
func firstIndex(entries []entry) uint64 {
	for i := range entries {
		if n := commitIndex(entries[i].data); n > 0 {
			return n
		}
	}
	return math.MaxUint64
}
