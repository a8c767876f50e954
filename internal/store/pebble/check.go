package pebble

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/event"
)

// Report is what a check of a closed store found.
type Report struct {
	Dir   string `json:"directory"`
	Files int    `json:"files"` // read
	Bytes int64  `json:"bytes"`
	// Findings is the damage that there is now: Corrected means that it can be,
	// SetAside that a part would be lost, Fatal that the store does not open.
	Findings []Finding `json:"findings"`
	// Earlier is the damage that earlier starts have dealt with.
	Earlier []Finding `json:"earlier"`
}

// Opens reports whether the store can be opened as it is.
func (r *Report) Opens() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Outcome == Fatal })
}

// Loses reports whether some of the damage cannot be made good.
func (r *Report) Loses() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Outcome == Fatal || f.Outcome == SetAside })
}

// Check reads all of a store that is not open, and changes nothing. An error
// means that it could not look.
func Check(o Options) (Report, error) {
	if err := o.complete(); err != nil {
		return Report{}, err
	}
	unlock, err := lockClosed(o)
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	c := checker{o: o, report: Report{Dir: o.Dir, Findings: []Finding{}, Earlier: []Finding{}}}
	if err := c.run(); err != nil {
		return c.report, err
	}
	return c.report, nil
}

// lockClosed locks a store's directory.
func lockClosed(o Options) (unlock func(), err error) {
	if st, err := o.FS.Stat(o.Dir); err != nil || !st.IsDir() {
		return nil, fmt.Errorf("there is no store in %s", o.Dir)
	}
	lock, err := pebbledb.LockDirectory(o.Dir, o.FS)
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) || strings.Contains(err.Error(), "held by current process") {
			return nil, fmt.Errorf("the store in %s is in use by another process: stop the server first", o.Dir)
		}
		return nil, fmt.Errorf("lock the store in %s: %w", o.Dir, err)
	}
	return func() { _ = lock.Close() }, nil
}

type checker struct {
	o      Options
	report Report
}

func (c *checker) add(f Finding) {
	f.At = event.Time{Time: c.o.Clock.Now().UTC().Truncate(time.Second)}
	c.report.Findings = append(c.report.Findings, f)
}

func (c *checker) run() error {
	earlier := newFindings(c.o.FS, c.o.Dir)
	if err := earlier.read(); err != nil {
		return err
	}
	c.report.Earlier = append(c.report.Earlier, earlier.list()...)
	names, err := c.o.FS.List(c.o.Dir)
	if err != nil {
		return fmt.Errorf("store directory: %w", err)
	}
	for _, n := range names {
		if st, err := c.o.FS.Stat(c.o.FS.PathJoin(c.o.Dir, n)); err == nil && !st.IsDir() && n != ballastName {
			c.report.Files++
			c.report.Bytes += st.Size()
		}
	}
	a := newAccount(c.o.FS, c.o.Dir)
	state, known, damaged, corrected, err := a.read()
	if err != nil {
		return err
	}
	if damaged > 0 {
		c.add(Finding{File: accountName, Outcome: Harmless, Cause: "a part of the account of the log is damaged; another says the same"})
	}
	if corrected > 0 {
		c.add(Finding{File: accountName, Outcome: Corrected, Cause: "one bit has flipped"})
	}
	c.format(state, known)
	r := repair{fs: c.o.FS, dir: c.o.Dir, account: state, known: known, readOnly: true, patched: make(map[string][]byte),
		now: func() Finding { return Finding{At: event.Time{Time: c.o.Clock.Now().UTC().Truncate(time.Second)}} }}
	if err := r.run(); err != nil {
		return err
	}
	c.report.Findings = append(c.report.Findings, r.found...)
	return c.tables(names, c.live(&r))
}

func (c *checker) format(s state, known bool) {
	f, exists, err := readFormat(c.o.FS, c.o.Dir)
	text, _ := readFile(c.o.FS, c.o.FS.PathJoin(c.o.Dir, formatName), 1<<10)
	switch {
	case known && s.format == formatVersion && string(text) != fmt.Sprintf(formatLine, formatVersion, s.partitions):
		c.add(Finding{File: formatName, Outcome: Corrected, Cause: "the store's description is damaged or gone; the account knows it"})
	case err != nil || !exists:
		c.add(Finding{File: formatName, Outcome: Fatal, Cause: "the store's description is damaged or gone"})
	case f.version != formatVersion:
		c.add(Finding{File: formatName, Outcome: Fatal, Cause: fmt.Sprintf("the store has format %d, this version reads format %d", f.version, formatVersion)})
	}
}

// tables reads every block of every table that is in use; of all if that is not
// known.
func (c *checker) tables(names []string, live map[string][]livePart) error {
	for _, n := range names {
		if filepath.Ext(n) != ".sst" {
			continue
		}
		parts, used := live[n]
		if live != nil && !used {
			continue // half written when the process ended, or not deleted yet
		}
		t, err := readTable(c.o.FS, c.o.FS.PathJoin(c.o.Dir, n))
		if err != nil {
			return fmt.Errorf("read %s: %w", n, err)
		}
		bits, damage := t.correct()
		for _, at := range bits {
			c.add(Finding{File: n, Offset: at, Length: 1, Outcome: Corrected, Cause: "one bit has flipped"})
		}
		if damage == nil {
			continue
		}
		f := Finding{File: n, Outcome: SetAside, Cause: firstLine(damage)}
		if live != nil {
			f.Level = &parts[0].level
		}
		f.Offset, f.Length = blockOf(damage)
		lower, upper, lost := t.damagedSpan()
		if lost && live != nil && !slices.ContainsFunc(parts, func(p livePart) bool { return p.in(lower, upper) }) {
			continue // an earlier start has cut that part out
		}
		if !lost {
			f.Outcome = Corrected
		} else {
			f.Loss = &Loss{Lower: lower, Upper: upper}
			f.Tables = tablesIn(lower, upper)
		}
		c.add(f)
	}
	return nil
}

// live returns the tables that are in use and their levels, nil if that cannot
// be known. It lets Pebble see whether all are there.
func (c *checker) live(r *repair) map[string][]livePart {
	if slices.ContainsFunc(r.found, func(f Finding) bool { return f.Outcome == Fatal }) {
		return nil
	}
	db, err := pebbledb.Open(c.o.Dir, &pebbledb.Options{
		FS: patchedFS{c.o.FS, r.patched}, ReadOnly: true, ErrorIfNotExists: true, Logger: logger{c.o.Log, func(error) {}},
	})
	if err != nil {
		c.add(Finding{File: ".", Outcome: Fatal, Cause: firstLine(err)})
		return nil
	}
	defer db.Close() // it has written nothing
	levels, err := db.SSTables()
	if err != nil {
		c.add(Finding{File: ".", Outcome: Fatal, Cause: firstLine(err)})
		return nil
	}
	live := make(map[string][]livePart)
	for level, tables := range levels {
		for _, t := range tables {
			name := fmt.Sprintf("%06d.sst", uint64(t.BackingSSTNum))
			live[name] = append(live[name], livePart{level, t.Smallest.UserKey, t.Largest.UserKey})
		}
	}
	return live
}

// livePart is a part of a table's file that is in use.
type livePart struct {
	level       int
	lower, last []byte // its keys, last included
}

// in reports whether p has keys in [lower, upper); nil: without an end.
func (p livePart) in(lower, upper []byte) bool {
	return bytes.Compare(p.last, lower) >= 0 && (upper == nil || bytes.Compare(p.lower, upper) < 0)
}

// patchedFS shows a store as it would be repaired, without a change to it. Its
// lock, which the caller has, is given again.
type patchedFS struct {
	vfs.FS
	patched map[string][]byte
}

// Lock implements vfs.FS.
func (patchedFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// List implements vfs.FS.
func (p patchedFS) List(dir string) ([]string, error) {
	names, err := p.FS.List(dir)
	return slices.DeleteFunc(names, func(n string) bool {
		data, ok := p.patched[n]
		return ok && data == nil
	}), err
}

// Open implements vfs.FS.
func (p patchedFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	data, ok := p.patched[p.PathBase(name)]
	if !ok {
		return p.FS.Open(name, opts...)
	}
	return vfs.NewMemFile(data), nil
}
