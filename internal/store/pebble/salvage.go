package pebble

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/store"
)

// Salvaged says what Salvage did.
type Salvaged struct {
	Findings []Finding `json:"findings"` // what was corrected, set aside or lost
	Rebuilt  bool      `json:"rebuilt"`  // the list of tables could not be read: all tables and logs were merged
	Keys     uint64    `json:"keys"`     // in the new store
	Index    uint64    `json:"index"`    // commits of the new store go on above it
}

// Salvage copies all that can be read of a closed store into another directory,
// which must be empty or not exist, and marks what is lost there. The original
// is not changed. The copy opens.
func Salvage(from, to Options) (Salvaged, error) {
	if err := errors.Join(from.complete(), to.complete()); err != nil {
		return Salvaged{}, err
	}
	unlock, err := lockClosed(from)
	if err != nil {
		return Salvaged{}, err
	}
	defer unlock()
	if err := emptyDir(to.FS, to.Dir); err != nil {
		return Salvaged{}, err
	}
	from.Partitions = partitionsOf(from)
	to.Partitions = from.Partitions
	out, err := salvageCopy(from, to)
	if err == nil {
		return out, nil
	}
	to.Log.Warn("the store cannot be opened even with its damage set aside; merging its tables and logs", "err", err.Error())
	if err := to.FS.RemoveAll(to.Dir); err != nil {
		return Salvaged{}, fmt.Errorf("clear %s: %w", to.Dir, err)
	}
	return rebuild(from, to)
}

func emptyDir(fsys vfs.FS, dir string) error {
	names, err := fsys.List(dir)
	if err == nil && len(names) > 0 {
		return fmt.Errorf("%s is not empty: salvage writes to a new directory only", dir)
	}
	return nil
}

// partitionsOf returns the number of partitions that a store says it has.
func partitionsOf(o Options) int {
	if s, known, _, _, err := newAccount(o.FS, o.Dir).read(); err == nil && known && s.partitions > 0 {
		return int(s.partitions)
	}
	if f, ok, err := readFormat(o.FS, o.Dir); err == nil && ok && f.partitions > 0 && f.partitions < 256 {
		return f.partitions
	}
	return store.DefaultPartitions
}

// salvageCopy copies the files and opens the copy, which deals with what is
// damaged, and then looks at every table.
func salvageCopy(from, to Options) (Salvaged, error) {
	if err := copyStore(from, to); err != nil {
		return Salvaged{}, err
	}
	e, err := Open(to)
	if err != nil {
		return Salvaged{}, err
	}
	out, err := e.scrub()
	if err = errors.Join(err, e.Close()); err != nil {
		return Salvaged{}, err
	}
	return out, nil
}

// copyStore copies a store's files, but for the one that is only space.
func copyStore(from, to Options) error {
	if err := makeDir(to.FS, to.Dir, false); err != nil {
		return err
	}
	names, err := from.FS.List(from.Dir)
	if err != nil {
		return fmt.Errorf("store directory: %w", err)
	}
	for _, n := range names {
		src := from.FS.PathJoin(from.Dir, n)
		st, err := from.FS.Stat(src)
		if err != nil {
			return fmt.Errorf("copy %s: %w", n, err)
		}
		if st.IsDir() || n == ballastName || n == "LOCK" || filepath.Ext(n) == ".new" {
			continue
		}
		if err := copyFile(from.FS, src, to.FS, to.FS.PathJoin(to.Dir, n)); err != nil {
			return fmt.Errorf("copy %s: %w", n, err)
		}
	}
	list := newFindings(from.FS, from.Dir)
	if data, err := readFile(from.FS, list.path, 64<<20); err == nil {
		kept := newFindings(to.FS, to.Dir)
		if err := errors.Join(kept.makeDir(), writeFile(to.FS, kept.path, data)); err != nil {
			return err
		}
	}
	return syncDir(to.FS, to.Dir)
}

func copyFile(srcFS vfs.FS, src string, dstFS vfs.FS, dst string) error {
	data, err := readFile(srcFS, src, 0)
	if err != nil {
		return err
	}
	f, err := dstFS.Create(dst, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if len(data) > 0 {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// scrub looks at every table and counts what is left.
func (e *Engine) scrub() (out Salvaged, err error) {
	for range 100 {
		live, err := e.liveTables(nil, nil)
		if err != nil {
			return out, err
		}
		before := len(e.Findings())
		for _, l := range live {
			e.suspectTable(l.file)
		}
		for e.treating() {
			if err := e.commit(store.NewBatch(store.Reserve)); err != nil {
				return out, err
			}
		}
		if len(e.Findings()) == before {
			break
		}
	}
	s := e.Snapshot()
	defer s.Close()
	it := s.Iter(nil, nil)
	for it.Next() {
		out.Keys++
	}
	out.Findings, out.Index = e.Findings(), s.Index()
	return out, errors.Join(it.Err(), it.Close())
}

// treating reports whether there are tables to look at, or marks on their way.
func (e *Engine) treating() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.suspects) > 0 || len(e.marking) > 0
}

// rebuild makes a store of all that the tables and logs of another hold, newest
// version first. Which tables were still in use is not known: what was deleted
// a moment before may come back, and it is not known what is missing, so all
// keys are marked.
func rebuild(from, to Options) (Salvaged, error) {
	m, err := readAll(from)
	if err != nil {
		return Salvaged{}, err
	}
	e, err := Open(to)
	if err != nil {
		return Salvaged{}, err
	}
	out, err := e.fill(m)
	if err == nil {
		state, _, _, _, _ := newAccount(from.FS, from.Dir).read()
		out.Index = max(out.Index, state.issued, state.durable)
		err = e.found(Finding{
			File: "MANIFEST", Outcome: SetAside, Cause: "the list of the store's tables could not be read; all tables and logs were merged",
			Loss: &Loss{To: out.Index},
		})
	}
	for _, f := range m.findings {
		err = errors.Join(err, e.found(f))
	}
	out.Findings, out.Rebuilt = e.Findings(), true
	return out, errors.Join(err, e.Close())
}

// sources are the readable files of a store.
type sources struct {
	o        Options
	tables   []sourceTable
	logs     []version
	dels     []rangeDeletion
	findings []Finding
}

type sourceTable struct {
	name        string
	lower, last []byte
}

func readAll(o Options) (*sources, error) {
	names, err := o.FS.List(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("store directory: %w", err)
	}
	m := &sources{o: o}
	for _, n := range names {
		if filepath.Ext(n) != ".sst" {
			continue
		}
		t, err := m.table(n)
		if err != nil {
			return nil, err
		}
		lower, last, err := t.bounds()
		if err != nil {
			m.findings = append(m.findings, Finding{File: n, Outcome: SetAside, Cause: firstLine(err)})
			continue
		}
		m.tables = append(m.tables, sourceTable{n, lower, last})
	}
	for _, l := range logFiles(names) {
		data, err := readFile(o.FS, o.FS.PathJoin(o.Dir, l.name), 0)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", l.name, err)
		}
		for _, e := range scanRecords(data, uint32(l.number)).entries {
			m.record(e.data)
		}
	}
	return m, nil
}

// table reads a table, its flipped bits put right.
func (m *sources) table(name string) (*tableFile, error) {
	t, err := readTable(m.o.FS, m.o.FS.PathJoin(m.o.Dir, name))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	_, _ = t.correct() // what is damaged beyond that is passed over
	return t, nil
}

// record adds the writes of a log's record.
func (m *sources) record(repr []byte) {
	h, ok := batchrepr.ReadHeader(repr)
	if !ok {
		return
	}
	seq := uint64(h.SeqNum)
	r := batchrepr.Read(repr)
	for {
		kind, key, value, ok, err := r.Next()
		if err != nil || !ok {
			return
		}
		if kind == pebbledb.InternalKeyKindRangeDelete {
			m.dels = append(m.dels, rangeDeletion{bytes.Clone(key), bytes.Clone(value), seq})
		} else {
			m.logs = append(m.logs, version{bytes.Clone(key), bytes.Clone(value), seq, kind})
		}
		seq++
	}
}

// bounds returns the first and the last key that can be read.
func (t *tableFile) bounds() (lower, last []byte, err error) {
	r, err := t.open()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	_, err = t.versions(nil, nil, 0, func(v version) {
		if lower == nil {
			lower = v.key
		}
		last = v.key
	})
	if _, behind, lost := t.damagedSpan(); err != nil && lost && behind != nil {
		_, _ = t.versions(behind, nil, 0, func(v version) { last = v.key })
	}
	if lower == nil {
		return nil, nil, fmt.Errorf("nothing in it can be read: %w", err)
	}
	return lower, last, nil
}

// fill writes what the sources hold. It goes from one table's first key to the
// next one's, so that what it has in memory is about what overlaps one table.
func (e *Engine) fill(m *sources) (out Salvaged, err error) {
	var cuts [][]byte
	for _, t := range m.tables {
		cuts = append(cuts, t.lower)
	}
	slices.SortFunc(cuts, bytes.Compare)
	cuts = slices.CompactFunc(cuts, bytes.Equal)
	lower := []byte{}
	for i := 0; i <= len(cuts); i++ {
		var upper []byte
		if i < len(cuts) {
			upper = cuts[i]
		}
		all, err := m.newest(lower, upper)
		if err != nil {
			return out, err
		}
		if err := e.put(all, &out); err != nil {
			return out, err
		}
		lower = upper
	}
	return out, e.db.Flush()
}

// newest returns the newest versions of the keys in [lower, upper) that exist.
func (m *sources) newest(lower, upper []byte) ([]version, error) {
	n := newNewest()
	n.deletions = append(n.deletions, m.dels...)
	for _, s := range m.tables {
		if bytes.Compare(s.last, lower) < 0 || upper != nil && bytes.Compare(s.lower, upper) >= 0 {
			continue
		}
		t, err := m.table(s.name)
		if err != nil {
			return nil, err
		}
		n.addTable(t, lower, upper, 0)
	}
	for _, v := range m.logs {
		if bytes.Compare(v.key, lower) >= 0 && (upper == nil || bytes.Compare(v.key, upper) < 0) {
			n.add(v)
		}
	}
	return n.live(), nil
}

// put writes keys as they were stored, revisions included. The committer is
// idle.
func (e *Engine) put(all []version, out *Salvaged) error {
	b := e.db.NewBatch()
	for _, v := range all {
		rev, _, err := splitValue(v.value)
		if bytes.Equal(v.key, indexKey) {
			continue
		}
		if err != nil {
			continue // it cannot be read in the old store either
		}
		out.Keys++
		out.Index = max(out.Index, uint64(rev))
		if err := b.Set(v.key, v.value, nil); err != nil {
			return err
		}
		if b.Len() > maxGroupBytes {
			if err := e.db.Apply(b, fsyncWrites); err != nil {
				return fmt.Errorf("write to the new store: %w", err)
			}
			b = e.db.NewBatch()
		}
	}
	if err := e.db.Apply(b, fsyncWrites); err != nil {
		return fmt.Errorf("write to the new store: %w", err)
	}
	return nil
}
