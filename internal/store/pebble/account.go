package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// accountName is the file that keeps account of the store from outside of it:
// of which commits were issued and durable, and of the log files that hold
// them. A storage engine cannot know what its own files have lost: the end of a
// log that is cut off, and a log that is gone, look like one that was never
// written. So at the next start the two are compared.
//
// It holds four slots. What must be true before something else happens is
// written to the first two, one after the other, each synced: that rarely
// happens (every 65,536 commits, and with each log file). The newest durable
// index is written to the other two in turn after every sync of the log and
// not synced: it survives the end of the process at once, and the loss of power
// after a while; until then it is too low, which is safe.
const accountName = "ACCOUNT"

const (
	accountSlots  = 4
	slotDistance  = 4096 // so that no slot shares a sector or a page with another
	slotSize      = 512
	accountMagic  = "rcacct\x00\x01"
	maxLogEntries = 24
)

// issueStep is how far ahead of the commits their bound is raised.
const issueStep = 1 << 16

// state is what a slot says.
type state struct {
	generation uint64 // of the slot; the highest counts
	issued     uint64 // no index above has been issued
	durable    uint64 // this index was durable, and maybe higher ones
	format     uint32
	partitions uint32
	manifest   uint64 // number of the manifest last synced, 0: unknown
	manifestAt uint64 // its size then
	logs       []logEntry
}

// logEntry is a log file that holds commits which may be nowhere else.
type logEntry struct {
	number uint64
	first  uint64 // index of its first commit
}

// logStart is where a log file may begin: a group of commits that makes Pebble
// begin a new file is in the old one if it is large, else in the new one. Zero
// is unknown.
type logStart struct{ with, after uint64 }

// account is the open file. Its methods may be called concurrently.
type account struct {
	fs   vfs.FS
	path string

	mu    sync.Mutex
	file  vfs.File // nil until begin
	state state
	turn  int                 // the lazy slot to write next
	next  logStart            // of a log file made now
	made  map[uint64]logStart // of the log files made and not yet synced
	gone  map[uint64]bool
}

// newAccount returns the account of a store's directory, not yet read.
func newAccount(fsys vfs.FS, dir string) *account {
	return &account{fs: fsys, path: fsys.PathJoin(dir, accountName), made: make(map[uint64]logStart), gone: make(map[uint64]bool)}
}

// read returns what the account says, and false if there is none. Slots with a
// flipped bit are put right. Corrected counts these, damaged
// those that could not be.
func (a *account) read() (s state, found bool, damaged, corrected int, err error) {
	data, err := readFile(a.fs, a.path, accountSlots*slotDistance)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, false, 0, 0, nil
	}
	if err != nil {
		return state{}, false, 0, 0, fmt.Errorf("read the store's account: %w", err)
	}
	for i := range accountSlots {
		at := i * slotDistance
		if len(data) < at+slotSize {
			break
		}
		slot := data[at : at+slotSize]
		if isZero(slot) {
			continue // never written
		}
		got, flipped, ok := decodeSlot(slot)
		if !ok {
			damaged++
			continue
		}
		if flipped {
			corrected++
		}
		if !found || got.generation > s.generation {
			s, found = got, true
		}
	}
	a.mu.Lock()
	a.state = s
	a.state.logs = slices.Clone(s.logs)
	a.mu.Unlock()
	return s, found, damaged, corrected, nil
}

// open opens the account for writing, and makes it. What is noted from now on
// is written.
func (a *account) open() error {
	f, err := a.fs.OpenReadWrite(a.path, vfs.WriteCategoryUnspecified)
	made := errors.Is(err, fs.ErrNotExist)
	if made {
		f, err = a.fs.Create(a.path, vfs.WriteCategoryUnspecified)
	}
	if err != nil {
		return fmt.Errorf("open the store's account: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.file = f
	a.state.generation += 2 // above a lazy slot that was torn
	if made {
		if err := errors.Join(a.firm(), syncDir(a.fs, a.fs.PathDir(a.path))); err != nil {
			return fmt.Errorf("make the store's account: %w", err)
		}
	}
	return nil
}

// now returns what the account says.
func (a *account) now() state {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.state
	s.logs = slices.Clone(s.logs)
	return s
}

// begin says where the store stands now that it is open.
func (a *account) begin(s state, index uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.logs, s.manifest, s.manifestAt = a.state.logs, a.state.manifest, a.state.manifestAt
	s.generation = a.state.generation
	a.state, a.next = s, logStart{index + 1, index + 1}
	for n, start := range a.made {
		if start == (logStart{}) {
			a.made[n] = a.next
		}
	}
	for i := range a.state.logs {
		if l := &a.state.logs[i]; l.first == 0 {
			l.first = a.made[l.number].after
		}
	}
	if err := a.firm(); err != nil {
		return fmt.Errorf("write the store's account: %w", err)
	}
	return nil
}

// close ends writing.
func (a *account) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.firm()
	f := a.file
	a.file = nil
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("close the store's account: %w", err)
	}
	return nil
}

// issue raises the bound of what has been issued so that it covers index.
func (a *account) issue(index uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if index <= a.state.issued || a.file == nil {
		return nil
	}
	a.state.issued = index + issueStep
	return a.firm()
}

// noteDurable says that everything up to index is on disk.
func (a *account) noteDurable(index uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if index <= a.state.durable || a.file == nil {
		return nil
	}
	a.state.durable = index
	return a.lazy()
}

// noteNext says where a log file that is made from now on begins.
func (a *account) noteNext(with, after uint64) {
	a.mu.Lock()
	a.next = logStart{with, after}
	a.mu.Unlock()
}

// creating is told before a file is made.
func (a *account) creating(name string) {
	if n, ok := logNumber(name); ok {
		a.mu.Lock()
		a.made[n] = a.next
		delete(a.gone, n)
		a.mu.Unlock()
	}
}

// synced is told of every sync of a file of the store: a log file counts from
// its first one on.
func (a *account) synced(name string, size uint64) error {
	if n, ok := manifestNumber(name); ok {
		a.mu.Lock()
		defer a.mu.Unlock()
		if n < a.state.manifest || n == a.state.manifest && size <= a.state.manifestAt {
			return nil
		}
		a.state.manifest, a.state.manifestAt = n, size
		if a.file == nil {
			return nil
		}
		return a.lazy()
	}
	n, ok := logNumber(name)
	if !ok {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.ContainsFunc(a.state.logs, func(l logEntry) bool { return l.number == n }) || a.gone[n] {
		return nil
	}
	a.state.logs = append(a.state.logs, logEntry{n, a.beginning(name, n)})
	slices.SortFunc(a.state.logs, func(a, b logEntry) int { return int(a.number) - int(b.number) })
	if a.file == nil {
		return nil
	}
	return a.firm()
}

// beginning returns the index of the first commit in a log file that has just
// been synced for the first time.
func (a *account) beginning(name string, n uint64) uint64 {
	start := a.made[n]
	if start.with == start.after {
		return start.after
	}
	for size := int64(64 << 10); ; size *= 8 { // of the file as much as has the first commit
		data, err := readFile(a.fs, name, size)
		if err != nil {
			return 0 // unknown
		}
		first := firstCommit(data, uint32(n))
		switch {
		case first == 0 && int64(len(data)) == size:
			continue
		case first == start.after-1:
			return start.with
		}
		return start.after
	}
}

// removing is told before a file is removed or used again under another name.
func (a *account) removing(name string) error {
	n, ok := logNumber(name)
	if !ok {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	kept := slices.DeleteFunc(a.state.logs, func(l logEntry) bool { return l.number == n })
	if len(kept) == len(a.state.logs) {
		return nil
	}
	a.state.logs = kept
	delete(a.made, n)
	a.gone[n] = true
	if a.file == nil {
		return nil
	}
	return a.firm()
}

// firm writes the state for certain. The caller holds mu.
func (a *account) firm() error {
	for i := range 2 {
		a.state.generation++
		if err := a.write(i); err != nil {
			return err
		}
		if err := a.file.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// lazy writes the state so that it survives the process. The caller holds mu.
func (a *account) lazy() error {
	a.state.generation++
	a.turn ^= 1
	return a.write(2 + a.turn)
}

func (a *account) write(slot int) error {
	_, err := a.file.WriteAt(a.state.encode(), int64(slot)*slotDistance)
	return err
}

// encode is a slot's content: magic, fields, log entries, zeros, checksum.
func (s *state) encode() []byte {
	b := make([]byte, 0, slotSize)
	b = append(b, accountMagic...)
	for _, v := range []uint64{s.generation, s.issued, s.durable, s.manifest, s.manifestAt} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = binary.BigEndian.AppendUint32(b, s.format)
	b = binary.BigEndian.AppendUint32(b, s.partitions)
	logs := s.logs
	if len(logs) > maxLogEntries {
		logs = logs[len(logs)-maxLogEntries:]
	}
	b = append(b, byte(len(logs)))
	for _, l := range logs {
		b = binary.BigEndian.AppendUint64(b, l.number)
		b = binary.BigEndian.AppendUint64(b, l.first)
	}
	b = b[:slotSize]
	binary.BigEndian.PutUint32(b[slotSize-4:], maskedCRC(b[:slotSize-4]))
	return b
}

// decodeSlot reads a slot, with one flipped bit put right if need be.
func decodeSlot(b []byte) (s state, flipped, ok bool) {
	b = slices.Clone(b)
	want := binary.BigEndian.Uint32(b[slotSize-4:])
	if maskedCRC(b[:slotSize-4]) != want {
		at, bit, ok := flippedBit(b[:slotSize-4], want)
		if !ok {
			return s, flipped, false
		}
		flipped = true
		if at < slotSize-4 {
			b[at] ^= 1 << bit
		}
	}
	if string(b[:len(accountMagic)]) != accountMagic {
		return s, flipped, false
	}
	b = b[len(accountMagic):]
	for _, v := range []*uint64{&s.generation, &s.issued, &s.durable, &s.manifest, &s.manifestAt} {
		*v, b = binary.BigEndian.Uint64(b), b[8:]
	}
	s.format, s.partitions, b = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), b[8:]
	n := int(b[0])
	if n > maxLogEntries {
		return s, flipped, false
	}
	b = b[1:]
	for range n {
		s.logs = append(s.logs, logEntry{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])})
		b = b[16:]
	}
	return s, flipped, true
}

func isZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// logNumber returns the number of a log file.
func logNumber(name string) (uint64, bool) {
	base, ok := strings.CutSuffix(filepath.Base(name), ".log")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(base, 10, 64)
	return n, err == nil
}

// manifestNumber returns the number of a manifest.
func manifestNumber(name string) (uint64, bool) {
	base, ok := strings.CutPrefix(filepath.Base(name), "MANIFEST-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(base, 10, 64)
	return n, err == nil
}

// readFile returns at most limit bytes of a file.
func readFile(fsys vfs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if limit == 0 {
		limit = math.MaxInt64 - 1
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// At once, and no more than once: logs are large.
	buf := bytes.NewBuffer(make([]byte, 0, min(limit, st.Size())+bytes.MinRead))
	_, err = buf.ReadFrom(io.LimitReader(f, limit))
	return buf.Bytes(), err
}

// writeFile replaces a file: it has the new content, durably, or the old one.
func writeFile(fsys vfs.FS, name string, data []byte) error {
	tmp, err := fsys.Create(name+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if len(data) > 0 {
		_, err = tmp.Write(slices.Clone(data)) // Write may change it
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(name+".new", name); err != nil {
		return err
	}
	return syncDir(fsys, fsys.PathDir(name))
}
