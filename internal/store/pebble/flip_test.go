package pebble_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

// written is what a store acknowledged: the newest write of each key, and for
// deleted ones that.
type written map[string]cell

type cell struct {
	value []byte
	rev   uint64
	gone  bool
}

// damageable makes a store with tables on several levels, a log with commits
// that are in no table, and nothing closed: as a kill leaves it.
func damageable(t *testing.T, seed uint64) (*vfs.MemFS, written, uint64) {
	t.Helper()
	fs := vfs.NewCrashableMem()
	random := rand.New(rand.NewPCG(seed, 4))
	o := small(fs)
	e, err := pebble.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	w := make(written)
	var index uint64
	for range 900 {
		b := store.NewBatch(store.Normal)
		p := uint8(random.IntN(16))
		var keys []string
		for range 1 + random.IntN(4) {
			key := store.AppendKey(nil, p, []store.Table{store.TableSession, store.TableEvent, store.TableQueue}[random.IntN(3)], "realm")
			key = store.AppendUint64(key, uint64(random.IntN(40)))
			if slices.Contains(keys, string(key)) {
				continue
			}
			keys = append(keys, string(key))
			if random.IntN(8) == 0 {
				b.Delete(key)
				w[string(key)] = cell{gone: true}
				continue
			}
			v := make([]byte, 20+random.IntN(400))
			for i := range v {
				v[i] = byte(random.Uint32()) & 0x1F // compressible in part
			}
			b.Put(key, v)
			w[string(key)] = cell{value: v}
		}
		if index, err = store.Commit(t.Context(), e, b); err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			c := w[k]
			c.rev = index
			w[k] = c
		}
	}
	clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(seed, 5))})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return clone, w, index
}

const damageDir = "/var/lib/store"

// readAll reads every key, committing in between so that the committer treats
// the damage that is met.
func readAll(t *testing.T, e *pebble.Engine) (map[string]cell, error) {
	var last error
	for range 400 {
		if _, err := store.Commit(t.Context(), e, store.NewBatch(store.Reserve)); err != nil {
			return nil, fmt.Errorf("commit: %w", err)
		}
		got := make(map[string]cell)
		s := e.Snapshot()
		it := s.Iter(nil, nil)
		for it.Next() {
			if store.TableOf(it.Key()) != store.TableLoss {
				got[string(it.Key())] = cell{value: bytes.Clone(it.Value()), rev: uint64(it.Revision())}
			}
		}
		last = errors.Join(it.Err(), it.Close())
		for k, c := range got { // filters are read for these alone
			v, rev, err := s.Get([]byte(k))
			if err != nil || uint64(rev) != c.rev || !bytes.Equal(v, c.value) {
				last = errors.Join(last, err)
			}
		}
		s.Close()
		if last == nil {
			return got, nil
		}
		if !errors.Is(last, store.ErrDamaged) {
			return nil, last
		}
	}
	return nil, last
}

// judgeDamaged compares what is read with what was acknowledged: what differs
// must be marked as lost, and no index is given twice. It returns the number of
// keys lost.
func judgeDamaged(t *testing.T, e *pebble.Engine, w written, index uint64) (lost int, err error) {
	got, err := readAll(t, e)
	if err != nil {
		return 0, err
	}
	s := e.Snapshot()
	defer s.Close()
	losses, err := store.Losses(s)
	if err != nil {
		return 0, err
	}
	for k, want := range w {
		have, ok := got[k]
		if ok != want.gone && (!ok || have.rev == want.rev && bytes.Equal(have.value, want.value)) {
			continue
		}
		lost++
		if !slices.ContainsFunc(losses, func(l store.Loss) bool {
			return l.Covers([]byte(k)) && l.From < want.rev && want.rev <= l.To
		}) {
			return 0, fmt.Errorf("key %x has revision %d, %d was acknowledged, and no mark says that it may be lost: %+v", k, have.rev, want.rev, losses)
		}
		if n, err := store.LostWrites(s, []byte(k), store.Revision(have.rev)); err != nil || n == 0 {
			return 0, fmt.Errorf("key %x: %d writes are lost: %w", k, n, err)
		}
	}
	for k := range got {
		if _, ok := w[k]; !ok {
			return 0, fmt.Errorf("key %x was never written", k)
		}
	}
	next, err := store.Commit(t.Context(), e, putting(store.Normal, "after", 10))
	if err != nil {
		return 0, err
	}
	if next <= index {
		return 0, fmt.Errorf("index %d is given again: %d had been", next, index)
	}
	return lost, nil
}

// files lists a store's files with content.
func files(t *testing.T, fs vfs.FS) (names []string, sizes []int64) {
	t.Helper()
	all, err := fs.List(damageDir)
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(all)
	for _, n := range all {
		st, err := fs.Stat(fs.PathJoin(damageDir, n))
		if err != nil {
			t.Fatal(err)
		}
		if st.IsDir() || st.Size() == 0 {
			continue
		}
		names, sizes = append(names, n), append(sizes, st.Size())
	}
	return names, sizes
}

// kind groups files for the table of outcomes.
func kind(name string) string {
	switch ext := filepath.Ext(name); {
	case ext == ".log" || ext == ".sst":
		return "*" + ext
	case strings.Contains(name, "-"):
		return name[:strings.Index(name, "-")] + "-*"
	}
	return name
}

// change changes n bytes of a file from off on.
func change(t *testing.T, fs vfs.FS, name string, off int64, how func([]byte)) {
	t.Helper()
	path := fs.PathJoin(damageDir, name)
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, st.Size())
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	how(data[off:])
	f, err = fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, variable string, n int) int {
	if raced {
		n /= 10
	}
	if s := os.Getenv(variable); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s: %v", variable, err)
		}
	}
	return n
}

// campaign damages stores n times, each in one place of one of their files, and
// prints the outcomes by kind of file.
func campaign(t *testing.T, n int, how func(r *rand.Rand, data []byte), allowed func(kind, outcome string) bool) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 3))
	table := make(map[string]map[string]int)
	var fs *vfs.MemFS
	var w written
	var index uint64
	for i := range n {
		if i%250 == 0 {
			fs, w, index = damageable(t, random.Uint64())
		}
		clone := vfs.NewMem()
		if _, err := vfs.Clone(fs, clone, damageDir, damageDir, vfs.CloneSync); err != nil {
			t.Fatal(err)
		}
		names, sizes := files(t, clone)
		at := random.IntN(len(names))
		if random.IntN(2) == 0 { // by size, without the file that is only space
			at = bySize(random, names, sizes)
		}
		size := sizes[at]
		if names[at] == "BALLAST" {
			size = min(size, 4096)
		}
		off := random.Int64N(size)
		change(t, clone, names[at], off, func(p []byte) { how(random, p) })
		outcome, err := outcomeOf(t, clone, w, index)
		if err == nil && allowed != nil && !allowed(kind(names[at]), outcome) {
			err = errors.New("not what is promised")
		}
		if err != nil {
			t.Errorf("%d: byte %d of %s (%d bytes): %s: %v", i, off, names[at], sizes[at], outcome, err)
		}
		k := kind(names[at])
		if table[k] == nil {
			table[k] = make(map[string]int)
		}
		table[k][outcome]++
	}
	t.Log("\n" + outcomes(table))
}

func bySize(random *rand.Rand, names []string, sizes []int64) int {
	var total int64
	for i, n := range names {
		if n != "BALLAST" {
			total += sizes[i]
		}
	}
	at := random.Int64N(total)
	for i, n := range names {
		if n == "BALLAST" {
			continue
		}
		if at -= sizes[i]; at < 0 {
			return i
		}
	}
	return 0
}

// outcomeOf opens a damaged store and says what became of it.
func outcomeOf(t *testing.T, fs vfs.FS, w written, index uint64) (string, error) {
	report, err := pebble.Check(small(fs))
	if err != nil {
		return "", fmt.Errorf("check: %w", err)
	}
	outcome, prefix := "not in use", ""
	e, err := pebble.Open(small(fs))
	if (err == nil) != report.Opens() {
		return "", fmt.Errorf("check says %+v, and opening: %v", report, err)
	}
	if err != nil {
		if !errors.Is(err, store.ErrDamaged) {
			return "refused", err
		}
		o := small(fs)
		o.Dir = "/var/lib/salvaged"
		salvaged, err := pebble.Salvage(small(fs), o)
		if err != nil {
			return "refused", fmt.Errorf("salvage: %w", err)
		}
		if e, err = pebble.Open(o); err != nil {
			return "refused", fmt.Errorf("open what was salvaged: %w", err)
		}
		prefix = "refused, salvaged: "
		if salvaged.Rebuilt {
			prefix = "refused, salvaged by merging: "
		}
	}
	lost, err := judgeDamaged(t, e, w, index)
	for _, f := range e.Findings() {
		outcome = string(f.Outcome)
	}
	if outcome == "not in use" && len(report.Findings) > 0 {
		outcome = "not read; found by check"
	}
	if outcome != "not in use" && len(report.Findings) == 0 {
		err = errors.Join(err, errors.New("check did not find it"))
	}
	outcome = prefix + outcome
	if lost > 0 {
		outcome += fmt.Sprintf(", %d of %d keys lost", bucket(lost), len(w))
	}
	return outcome, errors.Join(err, e.Close())
}

// bucket rounds up to a power of four.
func bucket(n int) int {
	b := 1
	for b < n {
		b *= 4
	}
	return b
}

func outcomes(table map[string]map[string]int) string {
	var buf bytes.Buffer
	w := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "file\toutcome\tcount")
	var kinds []string
	for k := range table {
		kinds = append(kinds, k)
	}
	sort.Strings(kinds)
	for _, k := range kinds {
		var outs []string
		for o := range table[k] {
			outs = append(outs, o)
		}
		sort.Strings(outs)
		for _, o := range outs {
			fmt.Fprintf(w, "%s\t%s\t%d\n", k, o, table[k][o])
		}
	}
	w.Flush()
	return buf.String()
}

// A flipped bit, wherever it is, loses nothing, and the store serves at once.
func TestFlippedBits(t *testing.T) {
	campaign(t, count(t, "ROLLCALL_FLIPS", 200), func(r *rand.Rand, p []byte) {
		p[0] ^= 1 << r.IntN(8)
	}, func(_, outcome string) bool {
		return !strings.Contains(outcome, "lost") && !strings.Contains(outcome, "refused")
	})
}

// Damage that is wider than a bit loses what was there and no more, says so,
// and no number is given twice.
func TestSmearedSectors(t *testing.T) {
	campaign(t, count(t, "ROLLCALL_SMEARS", 50), func(r *rand.Rand, p []byte) {
		for i := range min(len(p), 64) {
			p[i] = byte(r.Uint32())
		}
	}, nil)
}
