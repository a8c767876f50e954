package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"time"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// tableFile is one table read into memory, so that its damage can be looked at
// block by block. Tables are at most a few dozen MiB.
type tableFile struct {
	data []byte
}

func readTable(fsys vfs.FS, path string) (*tableFile, error) {
	data, err := readFile(fsys, path, 0)
	if err != nil {
		return nil, err
	}
	return &tableFile{data}, nil
}

// The parts of sstable.ReadableFile.
func (t *tableFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(t.data).ReadAt(p, off)
}
func (t *tableFile) Close() error                { return nil }
func (t *tableFile) Stat() (vfs.FileInfo, error) { return tableInfo{int64(len(t.data))}, nil }

type tableInfo struct{ size int64 }

func (tableInfo) Name() string           { return "table" }
func (i tableInfo) Size() int64          { return i.size }
func (tableInfo) Mode() os.FileMode      { return 0o600 }
func (tableInfo) ModTime() time.Time     { return time.Time{} }
func (tableInfo) IsDir() bool            { return false }
func (tableInfo) Sys() any               { return nil }
func (tableInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

// open returns a reader of the table.
func (t *tableFile) open() (*sstable.Reader, error) {
	readable, err := sstable.NewSimpleReadable(t)
	if err != nil {
		return nil, err
	}
	o := new(pebbledb.Options)
	o.EnsureDefaults()
	ro := o.MakeReaderOptions()
	ro.Filters = map[string]sstable.FilterPolicy{bloom.FilterPolicy(10).Name(): bloom.FilterPolicy(10)}
	return sstable.NewReader(context.Background(), readable, ro)
}

// validate reads every block and returns what is wrong with the first that is.
func (t *tableFile) validate() error {
	r, err := t.open()
	if err != nil {
		return err
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}

// blockError finds the block in the message of a checksum that does not hold:
// Pebble says it in no other way. A test sees to it that it still does.
var blockError = regexp.MustCompile(`block (\d+)/(\d+): crc32c checksum mismatch`)

// footerLen is more than a footer takes, which has a checksum of its own.
const footerLen = 64

// correct puts single flipped bits right, in memory, and returns where they
// were. An error says what is damaged beyond that.
func (t *tableFile) correct() (bits []int64, err error) {
	for {
		err = t.validate()
		if err == nil {
			return bits, nil
		}
		at, ok := t.correctOne(err)
		if !ok || len(bits) > 1<<10 {
			return bits, err
		}
		bits = append(bits, at)
	}
}

// correctOne puts the bit right that err complains of.
func (t *tableFile) correctOne(err error) (at int64, ok bool) {
	m := blockError.FindStringSubmatch(err.Error())
	if m == nil {
		return t.correctFooter()
	}
	offset, err1 := strconv.ParseInt(m[1], 10, 64)
	length, err2 := strconv.ParseInt(m[2], 10, 64)
	if err1 != nil || err2 != nil || offset+length+block.TrailerLen > int64(len(t.data)) {
		return 0, false
	}
	covered := t.data[offset : offset+length+1] // the type of the block included
	stored := t.data[offset+length+1:][:4]
	i, bit, ok := flippedBit(covered, binary.LittleEndian.Uint32(stored))
	if !ok {
		return 0, false
	}
	if i < len(covered) {
		covered[i] ^= 1 << bit
	} else {
		stored[i-len(covered)] ^= 1 << bit
	}
	return offset + int64(i), true
}

// correctFooter tries the bits of the end of the file.
func (t *tableFile) correctFooter() (int64, bool) {
	for i := max(0, len(t.data)-footerLen); i < len(t.data); i++ {
		for bit := range 8 {
			t.data[i] ^= 1 << bit
			if r, err := t.open(); err == nil {
				_ = r.Close() // it reads from memory
				return int64(i), true
			} else if blockError.MatchString(err.Error()) && bytes.Contains([]byte(err.Error()), []byte("checksum")) {
				// The footer holds, and a block behind it does not: two faults.
				return int64(i), true
			}
			t.data[i] ^= 1 << bit
		}
	}
	return 0, false
}

// damagedSpan returns the keys between the last one that can be read from the
// front and the first one from the back: [lower, upper), nil for what has no
// bound in this table. Ok is false if no key is lost.
func (t *tableFile) damagedSpan() (lower, upper []byte, lost bool) {
	r, err := t.open()
	if err != nil {
		return nil, nil, true
	}
	defer r.Close()
	it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return nil, nil, true
	}
	defer it.Close()
	for kv := it.First(); kv != nil; kv = it.Next() {
		if _, _, err := kv.Value(nil); err != nil {
			break
		}
		lower = append(lower[:0], kv.K.UserKey...)
	}
	if it.Error() == nil {
		if it2, err := r.NewRawRangeDelIter(context.Background(), sstable.NoFragmentTransforms, sstable.NoReadEnv); err != nil {
			return nil, nil, true // what was deleted by range may come back
		} else if it2 != nil {
			it2.Close()
		}
		return nil, nil, false
	}
	back, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return lower, nil, true
	}
	defer back.Close()
	for kv := back.Last(); kv != nil; kv = back.Prev() {
		if _, _, err := kv.Value(nil); err != nil {
			break
		}
		upper = append(upper[:0], kv.K.UserKey...)
	}
	return lower, upper, true
}

// version is one write of a key, or a deletion.
type version struct {
	key, value []byte
	seq        uint64
	kind       pebbledb.InternalKeyKind
}

// rangeDeletion deletes what was written to [start, end) before seq.
type rangeDeletion struct {
	start, end []byte
	seq        uint64
}

// versions calls f for what can be read of the table within [lower, upper),
// upper nil meaning no bound, and returns the range deletions. Seq, if not 0,
// replaces the numbers in the table.
func (t *tableFile) versions(lower, upper []byte, seq uint64, f func(version)) (deletions []rangeDeletion, err error) {
	r, err := t.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	transforms := sstable.NoTransforms
	it, err := r.NewIter(transforms, lower, upper, sstable.AssertNoBlobHandles)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	emit := func(kv *pebbledb.InternalKey, value []byte) {
		v := version{bytes.Clone(kv.UserKey), bytes.Clone(value), uint64(kv.SeqNum()), kv.Kind()}
		if seq != 0 {
			v.seq = seq
		}
		f(v)
	}
	kv := it.First()
	if lower != nil {
		kv = it.SeekGE(lower, 0)
	}
	for ; kv != nil; kv = it.Next() {
		if upper != nil && bytes.Compare(kv.K.UserKey, upper) >= 0 {
			break
		}
		value, _, verr := kv.Value(nil)
		if verr != nil {
			err = verr
			continue
		}
		emit(&kv.K, value)
	}
	if it.Error() != nil {
		err = errors.Join(err, it.Error())
	}
	dels, derr := t.deletions(r, lower, upper, seq)
	return dels, errors.Join(err, derr)
}

func (t *tableFile) deletions(r *sstable.Reader, lower, upper []byte, seq uint64) (all []rangeDeletion, err error) {
	it, err := r.NewRawRangeDelIter(context.Background(), sstable.NoFragmentTransforms, sstable.NoReadEnv)
	if err != nil || it == nil {
		return nil, err
	}
	defer it.Close()
	s, err := it.First()
	for ; err == nil && s != nil; s, err = it.Next() {
		d := rangeDeletion{start: bytes.Clone(s.Start), end: bytes.Clone(s.End)}
		if bytes.Compare(d.start, lower) < 0 {
			d.start = lower
		}
		if upper != nil && bytes.Compare(d.end, upper) > 0 {
			d.end = upper
		}
		if bytes.Compare(d.start, d.end) >= 0 {
			continue
		}
		for _, k := range s.Keys {
			d.seq = uint64(k.SeqNum())
			if seq != 0 {
				d.seq = seq
			}
			all = append(all, d)
		}
	}
	return all, err
}

// newest keeps the newest version of each key.
type newest struct {
	byKey     map[string]version
	deletions []rangeDeletion
}

func newNewest() *newest { return &newest{byKey: make(map[string]version)} }

func (n *newest) add(v version) {
	if have, ok := n.byKey[string(v.key)]; !ok || v.seq > have.seq {
		n.byKey[string(v.key)] = v
	}
}

// live returns the keys that exist, in no order.
func (n *newest) live() []version {
	var all []version
	for _, v := range n.byKey {
		switch v.kind {
		case pebbledb.InternalKeyKindSet, pebbledb.InternalKeyKindSetWithDelete:
		default:
			continue
		}
		if !n.deleted(v) {
			all = append(all, v)
		}
	}
	return all
}

func (n *newest) deleted(v version) bool {
	for i := range n.deletions {
		d := &n.deletions[i]
		if d.seq > v.seq && bytes.Compare(d.start, v.key) <= 0 && bytes.Compare(v.key, d.end) < 0 {
			return true
		}
	}
	return false
}

// writeAt changes bytes of a file in place, durably.
func writeAt(fsys vfs.FS, path string, data []byte, offsets []int64) error {
	f, err := fsys.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	for _, off := range offsets {
		if off >= int64(len(data)) {
			err = errors.Join(err, io.ErrUnexpectedEOF)
			break
		}
		if _, werr := f.WriteAt([]byte{data[off]}, off); werr != nil {
			err = errors.Join(err, werr)
			break
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("put bits of %s right: %w", path, err)
	}
	return nil
}
