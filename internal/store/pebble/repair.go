package pebble

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/event"
	"rollcall/internal/store"
)

// Pebble reads its manifest up to the first record that is damaged and takes
// that for the end, deletes the tables that it does not know of then, and does
// the same with the last 32 KiB of its newest log; what it meets elsewhere in a
// log it refuses to open. So these files are read here first, against the
// account: what Pebble would lose or stumble over is put right before it opens
// them, or the store is left exactly as it is.

// repair is one look at the files of a closed store.
type repair struct {
	fs       vfs.FS
	dir      string
	findings *findings
	account  state
	known    bool // there is an account
	readOnly bool // only report
	found    []Finding
	patched  map[string][]byte // read-only: what would be written, nil for what would be removed
	now      func() Finding    // a finding of this moment
	gone     []string          // logs that the account lists and that are not there
}

// run looks at everything that Pebble reads when it opens.
func (r *repair) run() error {
	names, err := r.fs.List(r.dir)
	if err != nil {
		return fmt.Errorf("store directory: %w", err)
	}
	slices.Sort(names)
	if err := r.options(names); err != nil {
		return err
	}
	if err := r.manifest(names); err != nil {
		return err
	}
	return r.logs(names)
}

// report records a finding.
func (r *repair) report(f Finding) error {
	at := r.now()
	f.At = at.At
	r.found = append(r.found, f)
	if r.readOnly {
		return nil
	}
	return r.findings.add(f)
}

func (r *repair) path(name string) string { return r.fs.PathJoin(r.dir, name) }

// replace writes a file anew, and keeps the one before if it was more than a
// bit.
func (r *repair) replace(name string, data []byte) error {
	if r.readOnly {
		r.patched[name] = data
		return nil
	}
	if err := writeFile(r.fs, r.path(name), data); err != nil {
		return fmt.Errorf("write %s anew: %w", name, err)
	}
	return nil
}

func (r *repair) keep(name string) (string, error) {
	if r.readOnly {
		return "", nil
	}
	return r.findings.keep(name)
}

// options looks at the file in which Pebble says how it was configured. It is
// written anew at every start, and ours never change.
func (r *repair) options(names []string) error {
	for _, name := range names {
		if !strings.HasPrefix(name, "OPTIONS-") {
			continue
		}
		text, err := readFile(r.fs, r.path(name), 1<<20)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		var o pebbledb.Options
		o.EnsureDefaults()
		err = o.CheckCompatibility(r.dir, string(text))
		if err == nil {
			continue
		}
		if r.readOnly {
			r.patched[name] = nil
		} else {
			if err := r.fs.Remove(r.path(name)); err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
		}
		if err := r.report(Finding{File: name, Outcome: Harmless, Cause: "the engine's note of its settings cannot be read"}); err != nil {
			return err
		}
	}
	return nil
}

// currentManifest returns the name of the manifest that counts, "" if none.
func currentManifest(names []string) string {
	current, newest := "", ""
	for _, n := range names {
		if rest, ok := strings.CutPrefix(n, "marker.manifest."); ok {
			if iter, name, ok := strings.Cut(rest, "."); ok && iter > newest {
				newest, current = iter, name
			}
		}
	}
	return current
}

func (r *repair) manifest(names []string) error {
	name := currentManifest(names)
	if name == "" {
		return nil
	}
	data, err := readFile(r.fs, r.path(name), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return r.fatal(Finding{File: name, Cause: "the list of the store's tables is gone"})
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	s := scanRecords(data, 0)
	synced := 0
	if n, ok := manifestNumber(name); ok && r.known && n == r.account.manifest {
		synced = int(r.account.manifestAt)
	}
	for i, f := range s.faults {
		// Records are synced one by one: none is begun before the last is whole.
		if !f.bit && f.before == len(s.entries) && f.offset >= synced {
			s.endAt(i) // it was being written when the power failed
			break
		}
		if !f.bit {
			return r.fatal(Finding{File: name, Offset: int64(f.offset), Length: int64(f.end - f.offset),
				Cause: "the list of the store's tables is damaged"})
		}
	}
	if s.stop < synced {
		return r.fatal(Finding{File: name, Offset: int64(s.stop), Length: int64(synced - s.stop),
			Cause: "the end of the list of the store's tables is damaged or gone"})
	}
	if len(s.faults) == 0 {
		return nil
	}
	if err := r.replace(name, data); err != nil {
		return err
	}
	return r.bits(name, s.faults)
}

func (r *repair) bits(name string, faults []fault) error {
	for _, f := range faults {
		if !f.bit {
			continue
		}
		if err := r.report(Finding{File: name, Offset: int64(f.offset), Length: int64(f.end - f.offset),
			Outcome: Corrected, Cause: "one bit had flipped"}); err != nil {
			return err
		}
	}
	return nil
}

func (r *repair) fatal(f Finding) error {
	f.Outcome = Fatal
	if err := r.report(f); err != nil {
		return err
	}
	if r.readOnly {
		return nil
	}
	return fmt.Errorf("%w: %s: %s: nothing was changed; run rollcall data salvage", store.ErrDamaged, f.File, f.Cause)
}

// logs looks at the log files: each must hold the commits up to where the next
// one begins, the newest up to the newest durable index.
func (r *repair) logs(names []string) error {
	all := logFiles(names)
	last := uint64(0) // the index that what has been read leads to
	scans := make([]scan, len(all))
	datas := make([][]byte, len(all))
	for i, l := range all {
		data, err := readFile(r.fs, r.path(l.name), 0)
		if err != nil {
			return fmt.Errorf("read %s: %w", l.name, err)
		}
		datas[i], scans[i] = data, scanRecords(data, uint32(l.number))
	}
	if err := r.missing(all); err != nil {
		return err
	}
	for i, l := range all {
		if first := r.firstOf(l.number); first > 0 {
			last = max(last, first-1)
		}
		if err := r.log(l.name, datas[i], scans[i], last, r.expected(all, scans, i), i == len(all)-1); err != nil {
			return err
		}
		last = max(last, lastIndex(scans[i].entries))
	}
	return nil
}

type logFile struct {
	name   string
	number uint64
}

func logFiles(names []string) (all []logFile) {
	for _, n := range names {
		if number, ok := logNumber(n); ok {
			all = append(all, logFile{n, number})
		}
	}
	slices.SortFunc(all, func(a, b logFile) int { return int(a.number) - int(b.number) })
	return all
}

// firstOf returns the index that the account says a log begins with, 0 if it
// does not say.
func (r *repair) firstOf(number uint64) uint64 {
	for _, e := range r.account.logs {
		if e.number == number {
			return e.first
		}
	}
	return 0
}

// listed reports whether the account says that a log holds commits.
func (r *repair) listed(number uint64) bool {
	return slices.ContainsFunc(r.account.logs, func(e logEntry) bool { return e.number == number })
}

// expected returns the index that the i-th log must lead to at least, and the
// one that it cannot lead beyond.
func (r *repair) expected(all []logFile, scans []scan, i int) (e expectation) {
	for _, l := range r.account.logs { // it led to the next one, which may be gone and is told of by itself
		if l.number > all[i].number && l.first > 0 && (i == len(all)-1 || l.number < all[i+1].number) {
			return expectation{l.first - 1, l.first - 1}
		}
	}
	if i == len(all)-1 {
		e.atMost = math.MaxUint64
		if r.known {
			e.atLeast, e.atMost = r.account.durable, r.account.issued
		}
		return e
	}
	for j := i + 1; j < len(all); j++ {
		if first := r.firstOf(all[j].number); first > 0 {
			return expectation{first - 1, first - 1}
		}
		if first := firstIndex(scans[j].entries); first != math.MaxUint64 {
			return expectation{0, first}
		}
	}
	return expectation{0, max(r.account.issued, r.account.durable)}
}

type expectation struct{ atLeast, atMost uint64 }

// log looks at one log and writes it anew if Pebble could not read all of it.
// Before is the index that what precedes it leads to.
func (r *repair) log(name string, data []byte, s scan, before uint64, want expectation, newest bool) error {
	number, _ := logNumber(name)
	if newest {
		// What was being written when the power failed may have holes.
		for i, f := range s.faults {
			if !f.bit && !f.proved && max(before, lastIndex(s.entries[:f.before])) >= want.atLeast {
				s.endAt(i)
				break
			}
		}
	}
	reached := max(before, lastIndex(s.entries))
	cut := reached < want.atLeast && r.listed(number)
	if len(s.faults) == 0 && !cut && (newest || s.clean) {
		return nil
	}
	var losses []Finding
	for _, f := range s.faults {
		if f.bit {
			continue
		}
		from := max(before, lastIndex(s.entries[:f.before]))
		to := firstIndex(s.entries[f.before:])
		if to == math.MaxUint64 {
			to = want.atMost
		}
		if to == from+1 && f.before < len(s.entries) && commitIndex(s.entries[f.before].data) == to {
			// The next commit follows the last one: what is damaged had none.
			to = from
		}
		losses = append(losses, Finding{File: name, Offset: int64(f.offset), Length: int64(f.end - f.offset),
			Loss: &Loss{From: from, To: to}, Cause: "a part of the log is damaged"})
	}
	if cut {
		losses = append(losses, Finding{File: name, Offset: int64(s.stop),
			Loss: &Loss{From: reached, To: want.atMost}, Cause: "the end of the log is damaged or gone"})
	}
	if len(losses) > 0 {
		kept, err := r.keep(name)
		if err != nil {
			return err
		}
		for i := range losses {
			losses[i].Kept, losses[i].Outcome = kept, SetAside
		}
	}
	if len(losses) == 0 && len(s.faults) == 0 { // only its end mark is damaged
		losses = append(losses, Finding{File: name, Offset: int64(s.stop), Outcome: Harmless, Cause: "the mark of the log's end is damaged"})
	}
	// The marks come first: after a crash in between the log is as it was.
	for _, l := range losses {
		if l.Loss != nil && l.Loss.To <= l.Loss.From {
			l.Loss, l.Outcome = nil, Harmless
		}
		if err := r.report(l); err != nil {
			return err
		}
	}
	if err := r.bits(name, s.faults); err != nil {
		return err
	}
	clean, err := encodeRecords(s.entries)
	if err != nil {
		return fmt.Errorf("write %s anew: %w", name, err)
	}
	return r.replace(name, clean)
}

// missing reports logs that the account lists and that are gone.
func (r *repair) missing(all []logFile) error {
	for i, e := range r.account.logs {
		if slices.ContainsFunc(all, func(l logFile) bool { return l.number == e.number }) {
			continue
		}
		name := fmt.Sprintf("%06d.log", e.number)
		r.gone = append(r.gone, name)
		loss := Loss{To: max(r.account.issued, r.account.durable)}
		if e.first > 0 {
			loss.From = e.first - 1
		}
		if i+1 < len(r.account.logs) && r.account.logs[i+1].first > 0 {
			loss.To = r.account.logs[i+1].first - 1
		}
		if loss.To <= loss.From {
			continue
		}
		err := r.report(Finding{File: name, Outcome: SetAside, Loss: &loss, Cause: "the log is gone"})
		if err != nil {
			return err
		}
	}
	return nil
}

// checkFormat reports whether there is a store already. It writes nothing,
// unless the file that says so is damaged and the account knows better.
func (e *Engine) checkFormat() (exists bool, err error) {
	f, exists, err := readFormat(e.opts.FS, e.opts.Dir)
	if a := e.account.now(); e.accounted && a.format == formatVersion && !e.formatIs(format{formatVersion, int(a.partitions)}) {
		if err := writeFormat(e.opts.FS, e.opts.Dir, format{formatVersion, int(a.partitions)}); err != nil {
			return false, err
		}
		if err := e.found(Finding{File: formatName, Outcome: Corrected, Cause: "the store's description was damaged or gone"}); err != nil {
			return false, err
		}
		f, exists, err = readFormat(e.opts.FS, e.opts.Dir)
	}
	if err != nil {
		return false, err
	}
	if exists {
		return true, f.check(e.opts.Dir, e.opts.Partitions)
	}
	// Without a format there may be what is left of a store whose making was
	// interrupted. It has no tables yet.
	names, err := e.opts.FS.List(e.opts.Dir)
	if err != nil {
		return false, fmt.Errorf("store directory: %w", err)
	}
	for _, n := range names {
		if filepath.Ext(n) == ".sst" {
			return false, fmt.Errorf("%s has tables but no %s file: it is not a store of this product, or damaged", e.opts.Dir, formatName)
		}
	}
	return false, nil
}

// formatIs reports whether the description says just that.
func (e *Engine) formatIs(f format) bool {
	text, err := readFile(e.opts.FS, e.opts.FS.PathJoin(e.opts.Dir, formatName), 1<<10)
	return err == nil && string(text) == fmt.Sprintf(formatLine, f.version, f.partitions)
}

// found logs and records a finding of now.
func (e *Engine) found(f Finding) error {
	f.At = event.Time{Time: e.opts.Clock.Now().UTC()}
	e.logFinding(&f)
	return e.findings.add(f)
}

func (e *Engine) logFinding(f *Finding) {
	attrs := []any{"file", f.File, "offset", f.Offset, "outcome", string(f.Outcome), "cause", f.Cause}
	if f.Loss != nil {
		attrs = append(attrs, "lostAfter", f.Loss.From, "lostTo", f.Loss.To)
	}
	if len(f.Tables) > 0 {
		attrs = append(attrs, "tables", strings.Join(f.Tables, ","))
	}
	if f.Outcome == Corrected || f.Outcome == Harmless {
		e.opts.Log.Warn("data on disk was damaged and has been put right: check the disk", attrs...)
		return
	}
	e.opts.Log.Error("data on disk is damaged", attrs...)
}
