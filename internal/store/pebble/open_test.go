package pebble_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
	"rollcall/internal/store/storetest"
)

// wantError opens and expects an error with the given words.
func wantError(t *testing.T, o pebble.Options, words ...string) {
	t.Helper()
	e, err := pebble.Open(o)
	if err == nil {
		_ = e.Close()
		t.Fatalf("opened; want an error about %v", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("got %q, want it to mention %q", err, w)
		}
	}
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	w, m := storetest.NewWorkload(3, 3000), storetest.NewModel()
	for range 5 {
		o := pebble.Options{Dir: dir}
		pebble.SetMemTableSize(&o, 256<<10)
		e := open(t, o)
		s := e.Snapshot()
		if err := m.Compare(s); err != nil {
			t.Fatal(err)
		}
		s.Close()
		ch := make(chan store.Result, 600)
		for range cap(ch) {
			b := w.Next(m)
			m.Apply(b)
			e.Submit(b, func(r store.Result) { ch <- r })
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if len(ch) != cap(ch) {
			t.Fatalf("%d outcomes", len(ch))
		}
	}
}

// The index of an empty batch, which leaves no other trace, is not given again.
func TestIndexRisesAcrossReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	last := uint64(0)
	for range 3 {
		e := open(t, pebble.Options{Dir: dir})
		for range 2 {
			index, err := store.Commit(t.Context(), e, store.NewBatch(store.Normal))
			if err != nil || index <= last {
				t.Fatalf("index %d after %d, error %v", index, last, err)
			}
			last = index
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	e := open(t, pebble.Options{Dir: dir})
	wantError(t, pebble.Options{Dir: dir}, dir, "in use by another process")
	if _, err := store.Commit(t.Context(), e, store.NewBatch(store.Normal)); err != nil {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, pebble.Options{Dir: dir}).Close(); err != nil {
		t.Fatal(err)
	}
}

// Of two processes, the second is refused too.
func TestLockAcrossProcesses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if got := heldByChild(t, dir, func() { wantError(t, pebble.Options{Dir: dir}, dir, "in use by another process") }); got == 0 {
		t.Error("the child did nothing")
	}
}

func TestFormat(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := open(t, pebble.Options{Dir: dir}).Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "FORMAT")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if want := "rollcall store, format 1, 16 partitions\n"; string(data) != want {
		t.Errorf("format file: %q, want %q", data, want)
	}
	if err := os.Remove(filepath.Join(dir, "ACCOUNT")); err != nil { // it says the same, and would be believed
		t.Fatal(err)
	}
	before := listing(t, dir)
	wantError(t, pebble.Options{Dir: dir, Partitions: 8}, dir, "16 partitions", "8")
	for text, words := range map[string][]string{
		"rollcall store, format 2, 16 partitions\n":  {dir, "format 2", "format 1"},
		"rollcall store, format 99, something new\n": {dir, "format 99"},
		"another product's file\n":                   {"FORMAT", "does not describe"},
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		wantError(t, pebble.Options{Dir: dir}, words...)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("refusing changed the directory:\n%s\nbefore:\n%s", after, before)
	}
	if err := open(t, pebble.Options{Dir: dir}).Close(); err != nil {
		t.Errorf("the store cannot be opened after refusals: %v", err)
	}
}

// A directory with data and without a format is not taken for a new store.
func TestFormatMissing(t *testing.T) {
	for _, size := range []int{10, 3 << 20} { // in the log only, in tables
		dir := filepath.Join(t.TempDir(), "store")
		e := open(t, pebble.Options{Dir: dir})
		b := store.NewBatch(store.Normal)
		b.Put([]byte("\x01\x10key"), make([]byte, size))
		if _, err := store.Commit(t.Context(), e, b); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"FORMAT", "ACCOUNT"} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		wantError(t, pebble.Options{Dir: dir}, dir, "FORMAT")
	}
}

// A store whose data is gone is not made anew behind the operator's back.
func TestDataMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := open(t, pebble.Options{Dir: dir}).Close(); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if n.Name() != "FORMAT" {
			if err := os.Remove(filepath.Join(dir, n.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantError(t, pebble.Options{Dir: dir}, dir)
}

// listing is the names and sizes of a directory's files but the lock.
func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() != "LOCK" && e.Name() != "FORMAT" {
			b.WriteString(e.Name() + " " + info.ModTime().Format(time.RFC3339Nano) + "\n")
		}
	}
	return b.String()
}

func TestDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "store")
	if err := open(t, pebble.Options{Dir: dir}).Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		if info.Mode().Perm() != 0o700 {
			t.Errorf("made with mode %o", info.Mode().Perm())
		}
		if err := os.Chmod(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		wantError(t, pebble.Options{Dir: dir}, dir, "0750", "chmod 700")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, pebble.Options{Dir: file}, "directory")
}

func TestOptions(t *testing.T) {
	wantError(t, pebble.Options{}, "directory")
	for _, o := range []pebble.Options{
		{Partitions: 256},
		{Partitions: -1},
		{Limit: 1000},
		{LowWater: 10, Reserve: 10},
		{Reserve: pebble.DefaultLowWater},
		{CacheBytes: -1},
	} {
		o.Dir = filepath.Join(t.TempDir(), "store")
		wantError(t, o, "store ")
		if _, err := os.Stat(o.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%+v: a directory was made", o)
		}
	}
}

// A snapshot that nobody closes does not keep Close from returning.
func TestCloseWithOpenSnapshot(t *testing.T) {
	e := open(t, pebble.Options{})
	s := e.Snapshot()
	released := make(chan struct{})
	go func() {
		defer close(released)
		for { // until Close has begun
			x := e.Snapshot()
			_, _, err := x.Get([]byte("\x01\x10key"))
			x.Close()
			if errors.Is(err, store.ErrClosed) {
				break
			}
			runtime.Gosched()
		}
		s.Close()
	}()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	<-released
	s.Close() // again
}

// What an engine has started ends with it.
func TestCloseEndsGoroutines(t *testing.T) {
	count := func() int { return strings.Count(stacks(), "internal/store/pebble.(*Engine)") }
	before := count()
	for range 3 {
		e := open(t, pebble.Options{})
		if _, err := store.Commit(t.Context(), e, putting(store.Normal, "k", 100)); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(storetest.Patience); count() > before; {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before, now:\n%s", before, stacks())
		}
		runtime.Gosched() // one may have said that it ends, and not have ended
	}
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}
