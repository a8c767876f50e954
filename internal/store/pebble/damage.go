package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/event"
	"rollcall/internal/store"
)

// When a block of a table cannot be read, whoever reads it gets an error, and
// the committer looks at the table between two groups. If one bit has flipped
// it is put right in place: the checksum says which. Else the keys of the
// damaged blocks are set aside, in this order, because a reader must never
// find a key gone (and number its session from 1 again) before it can find the
// mark that says so:
//
//  1. the finding is recorded outside of the engine, the mark is committed;
//  2. when the mark is durable and visible, the span is cut out of all tables
//     and what could be read of it, in any of them, is put back, in one step.
//
// Until 2 the readers of the span go on getting errors.

// suspect is a table that somebody could not read.
type suspect struct {
	file   string
	marked *Finding // the mark of this finding is visible: cut it out
}

// suspectTable is called from wherever a table cannot be read, with Pebble's
// locks held maybe.
func (e *Engine) suspectTable(path string) {
	file := filepath.Base(path)
	e.mu.Lock()
	if !slices.ContainsFunc(e.suspects, func(s suspect) bool { return s.file == file }) && !e.hopeless[file] {
		e.suspects = append(e.suspects, suspect{file: file})
	}
	e.mu.Unlock()
	e.wake.Broadcast()
}

func (e *Engine) nextSuspect() (suspect, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, s := range e.suspects {
		if s.marked == nil && e.marking[s.file] {
			continue
		}
		e.suspects = slices.Delete(e.suspects, i, i+1)
		return s, true
	}
	return suspect{}, false
}

// hasSuspect reports whether there is something for treat. The caller holds
// mu.
func (e *Engine) hasSuspect() bool {
	return slices.ContainsFunc(e.suspects, func(s suspect) bool { return s.marked != nil || !e.marking[s.file] })
}

// treatDamage looks at the tables that somebody could not read. It is the
// committer's.
func (e *Engine) treatDamage() {
	for {
		s, ok := e.nextSuspect()
		if !ok {
			return
		}
		if err := e.treat(s); err != nil {
			e.opts.Log.Error("a damaged table cannot be set aside: its keys stay unreadable", "file", s.file, "err", err.Error())
			e.mu.Lock()
			e.hopeless[s.file] = true
			delete(e.marking, s.file)
			e.mu.Unlock()
		}
	}
}

func (e *Engine) treat(s suspect) error {
	if s.marked != nil {
		err := e.cut(s.marked)
		e.mu.Lock()
		delete(e.marking, s.file)
		e.mu.Unlock()
		return err
	}
	f, err := e.examine(s.file)
	if err != nil || f == nil {
		return err
	}
	if f.Outcome == SetAside {
		if f.Kept, err = e.findings.keep(f.File); err != nil {
			return err
		}
	}
	if err := e.found(*f); err != nil {
		return err
	}
	if f.Outcome != SetAside {
		return nil
	}
	if f.Loss.To == 0 {
		return e.cut(f)
	}
	f.At = event.Time{Time: e.opts.Clock.Now().UTC()}
	e.mu.Lock()
	e.marking[s.file] = true
	e.mu.Unlock()
	b := store.NewBatch(store.Reserve)
	l := f.loss()
	l.Stage(b)
	e.Submit(b, func(r store.Result) {
		e.mu.Lock()
		if r.Err != nil {
			delete(e.marking, s.file) // looked at again when it is read again
		} else {
			e.suspects = append(e.suspects, suspect{s.file, f})
		}
		e.mu.Unlock()
		e.wake.Broadcast()
	})
	return nil
}

// settleDamage is treatDamage for when the engine is being opened: nobody reads
// yet, so the cut need not wait for the mark, which start makes durable before
// anybody does. It reports whether anything was done.
func (e *Engine) settleDamage() bool {
	done := false
	for {
		s, ok := e.nextSuspect()
		if !ok {
			return done
		}
		f, err := e.examine(s.file)
		if err == nil && f != nil {
			f.At = event.Time{Time: e.opts.Clock.Now().UTC()}
			if f.Loss != nil {
				// Its index is not known yet: nothing above has been issued.
				known := e.account.now()
				f.Loss.To = max(f.Loss.To, known.issued, known.durable)
			}
			if f.Outcome == SetAside {
				f.Kept, err = e.findings.keep(f.File)
			}
			if err == nil {
				err = e.found(*f)
			}
			if err == nil && f.Outcome == SetAside {
				err = e.cut(f)
			}
		}
		if err != nil {
			e.opts.Log.Error("a damaged table cannot be set aside: its keys stay unreadable", "file", s.file, "err", err.Error())
			e.mu.Lock()
			e.hopeless[s.file] = true
			e.mu.Unlock()
			continue
		}
		done = done || f != nil
	}
}

// liveTable is a table of the present state of the store.
type liveTable struct {
	file        string
	level       int
	lower, last []byte // its keys, last included
	seq         uint64 // of all its keys, if it was taken in from outside; else 0
}

// liveTables lists the tables that have keys in [lower, upper), nil, nil
// meaning all.
func (e *Engine) liveTables(lower, upper []byte) ([]liveTable, error) {
	levels, err := e.db.SSTables()
	if err != nil {
		return nil, err
	}
	var all []liveTable
	for level, tables := range levels {
		for _, t := range tables {
			l := liveTable{
				file: fmt.Sprintf("%06d.sst", uint64(t.BackingSSTNum)), level: level,
				lower: t.Smallest.UserKey, last: t.Largest.UserKey,
			}
			if t.SmallestSeqNum == t.LargestSeqNum {
				l.seq = uint64(t.LargestSeqNum)
			}
			if upper != nil && bytes.Compare(l.lower, upper) >= 0 || bytes.Compare(l.last, lower) < 0 {
				continue
			}
			all = append(all, l)
		}
	}
	return all, nil
}

// examine looks at a table and corrects it, if that is possible. It returns
// what it found, nil if nothing is wrong or the table is not in use any more.
func (e *Engine) examine(file string) (*Finding, error) {
	pin, err := e.db.NewIter(nil) // keeps the files of the present state
	if err != nil {
		return nil, err
	}
	defer pin.Close()
	live, err := e.liveTables(nil, nil)
	if err != nil {
		return nil, err
	}
	live = slices.DeleteFunc(live, func(l liveTable) bool { return l.file != file })
	if len(live) == 0 {
		return nil, nil
	}
	path := e.opts.FS.PathJoin(e.opts.Dir, file)
	t, err := readTable(e.opts.FS, path)
	if err != nil {
		return nil, fmt.Errorf("read a damaged table: %w", err)
	}
	bits, damage := t.correct()
	if len(bits) > 0 {
		if err := writeAt(e.opts.FS, path, t.data, bits); err != nil {
			return nil, err
		}
	}
	f := &Finding{File: file, Level: &live[0].level, Outcome: Corrected, Cause: "one bit had flipped"}
	if len(bits) > 0 {
		f.Offset, f.Length = bits[0], 1
	}
	if damage == nil {
		if len(bits) == 0 {
			return nil, nil // a read that failed once
		}
		return f, nil
	}
	f.Outcome, f.Cause = SetAside, firstLine(damage)
	f.Offset, f.Length = blockOf(damage)
	lower, upper, lost := t.damagedSpan()
	if !lost { // a filter, say: the whole table is written anew
		lower, upper = nil, nil
	}
	f.Loss = &Loss{Lower: lower, Upper: upper, To: e.index}
	for _, l := range live { // the parts of it that are in use
		if lower == nil || bytes.Compare(lower, l.lower) < 0 {
			f.Loss.Lower = smaller(f.Loss.Lower, l.lower, lower == nil)
		}
		if upper == nil {
			f.Loss.Upper = larger(f.Loss.Upper, append(bytes.Clone(l.last), 0))
		}
	}
	if !lost {
		f.Loss.To = 0 // nothing is lost, but the span is cut out and put back
	}
	f.Tables = tablesIn(f.Loss.Lower, f.Loss.Upper)
	return f, nil
}

func smaller(a, b []byte, unset bool) []byte {
	if a == nil && unset || a != nil && bytes.Compare(b, a) < 0 {
		return b
	}
	return a
}

func larger(a, b []byte) []byte {
	if a == nil || bytes.Compare(b, a) > 0 {
		return b
	}
	return a
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

func blockOf(err error) (offset, length int64) {
	if m := blockError.FindStringSubmatch(err.Error()); m != nil {
		fmt.Sscan(m[1], &offset)
		fmt.Sscan(m[2], &length)
	}
	return offset, length
}

// cut takes the span of a finding out of the store and puts back what can be
// read of it.
func (e *Engine) cut(f *Finding) error {
	if err := e.db.Flush(); err != nil {
		return fmt.Errorf("write tables: %w", err)
	}
	n, err := e.recut(f, f.Loss.Lower, f.Loss.Upper)
	if err != nil {
		return err
	}
	// The next view is one from after the cut. Marks may have been in it.
	e.Submit(e.lossBatch(nil), func(store.Result) {})
	e.opts.Log.Warn("keys of a damaged table were set aside; the rest serves",
		"file", f.File, "kept", f.Kept, "rescued", n, "tables", strings.Join(f.Tables, ","))
	return nil
}

func (e *Engine) recut(f *Finding, lower, upper []byte) (rescued int, err error) {
	all, err := e.rescue(lower, upper)
	if err != nil {
		return 0, err
	}
	e.views.noteCut(lower, upper)
	span := pebbledb.KeyRange{Start: lower, End: upper}
	if len(all) == 0 {
		return 0, e.db.Excise(context.Background(), span)
	}
	path := e.opts.FS.PathJoin(e.opts.Dir, setAsideDir, "rescued.sst")
	if err := e.writeTable(path, all); err != nil {
		return 0, fmt.Errorf("write what can be read: %w", err)
	}
	if _, err := e.db.IngestAndExcise(context.Background(), []string{path}, nil, nil, span); err != nil {
		return 0, fmt.Errorf("replace a damaged span: %w", err)
	}
	return len(all), nil
}

// rescue returns the newest readable version of every key in [lower, upper)
// that exists, in order.
func (e *Engine) rescue(lower, upper []byte) ([]version, error) {
	pin, err := e.db.NewIter(nil)
	if err != nil {
		return nil, err
	}
	defer pin.Close()
	live, err := e.liveTables(lower, upper)
	if err != nil {
		return nil, err
	}
	n := newNewest()
	for _, l := range live {
		t, err := readTable(e.opts.FS, e.opts.FS.PathJoin(e.opts.Dir, l.file))
		if err != nil {
			return nil, err
		}
		from, to := lower, upper
		if bytes.Compare(l.lower, from) > 0 {
			from = l.lower
		}
		if end := append(bytes.Clone(l.last), 0); to == nil || bytes.Compare(end, to) < 0 {
			to = end
		}
		n.addTable(t, from, to, l.seq)
	}
	all := n.live()
	slices.SortFunc(all, func(a, b version) int { return bytes.Compare(a.key, b.key) })
	return all, nil
}

// addTable adds what can be read of a table within [lower, upper).
func (n *newest) addTable(t *tableFile, lower, upper []byte, seq uint64) {
	dels, err := t.versions(lower, upper, seq, n.add)
	n.deletions = append(n.deletions, dels...)
	if err == nil {
		return
	}
	// It ended at the damage: go on behind it.
	if _, behind, lost := t.damagedSpan(); lost && behind != nil && (upper == nil || bytes.Compare(behind, upper) < 0) && bytes.Compare(behind, lower) > 0 {
		_, _ = t.versions(behind, upper, seq, n.add)
	}
}

// writeTable writes a table of keys in order, durably.
func (e *Engine) writeTable(path string, all []version) error {
	return writeTable(e.opts.FS, path, all)
}

func writeTable(fsys vfs.FS, path string, all []version) error {
	f, err := fsys.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	o := new(pebbledb.Options)
	o.EnsureDefaults()
	w := sstable.NewWriter(objstorageprovider.NewFileWritable(f), o.MakeWriterOptions(0, pebbledb.FormatTableFormatV6.MaxTableFormat()))
	for _, v := range all {
		if err := w.Set(v.key, v.value); err != nil {
			return errors.Join(err, w.Close())
		}
	}
	return w.Close()
}

// tablesIn names the tables that have keys in [lower, upper).
func tablesIn(lower, upper []byte) []string {
	var names []string
	for _, t := range store.Tables() {
		for p := range 256 {
			from := []byte{byte(p), byte(t)}
			to := store.PrefixEnd(from)
			if (upper == nil || bytes.Compare(from, upper) < 0) && (to == nil || bytes.Compare(lower, to) < 0) {
				names = append(names, t.String())
				break
			}
		}
	}
	return names
}
