package pebble_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
	"rollcall/internal/store/storetest"
)

const (
	childDir  = "ROLLCALL_TEST_STORE_DIR"
	childSeed = "ROLLCALL_TEST_STORE_SEED"
)

// TestMain runs the child of TestKill when told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		seed, err := strconv.ParseUint(os.Getenv(childSeed), 10, 64)
		if err == nil {
			err = child(dir, seed)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) // it is meant to be killed
	}
	os.Exit(m.Run())
}

// child commits without end and says what has been acknowledged.
func child(dir string, seed uint64) error {
	o := pebble.Options{Dir: dir}
	pebble.SetMemTableSize(&o, 128<<10)
	e, err := pebble.Open(o)
	if err != nil {
		return err
	}
	s := e.Snapshot()
	m, err := storetest.Load(s)
	s.Close()
	if err != nil {
		return err
	}
	w := storetest.NewWorkload(seed, 2000)
	slots := make(chan struct{}, 64)
	for {
		b := w.Next(m)
		m.Apply(b)
		slots <- struct{}{}
		e.Submit(b, func(r store.Result) {
			if r.Err == nil {
				os.Stdout.Write(binary.BigEndian.AppendUint64(nil, r.Index))
			} else if !errors.Is(r.Err, store.ErrConflict) {
				fmt.Fprintln(os.Stderr, r.Err)
				os.Exit(1)
			}
			<-slots
		})
	}
}

// verify checks that the engine holds everything acknowledged, and nothing but
// what the workload did, in order, up to some batch. It returns the model of
// that.
func verify(e *pebble.Engine, before *storetest.Model, w *storetest.Workload, acked uint64) (*storetest.Model, error) {
	s := e.Snapshot()
	defer s.Close()
	if s.Index() < acked {
		return nil, fmt.Errorf("index %d was acknowledged, and the store is at %d", acked, s.Index())
	}
	m := before.Clone()
	for m.Index() < s.Index() {
		m.Apply(w.Next(m))
	}
	return m, m.Compare(s)
}

// P2, P3: what is acknowledged survives a kill at any moment.
func TestKill(t *testing.T) {
	rounds := 6
	if testing.Short() {
		rounds = 3
	}
	dir := filepath.Join(t.TempDir(), "store")
	random := rand.New(rand.NewPCG(5, uint64(time.Now().UnixNano())))
	m := storetest.NewModel()
	for round := range rounds {
		seed := random.Uint64()
		acked := killedChild(t, dir, seed, m.Index(), 1+random.IntN(3000))
		e := open(t, pebble.Options{Dir: dir})
		next, err := verify(e, m, storetest.NewWorkload(seed, 2000), acked)
		if err != nil {
			t.Fatalf("round %d, seed %d, after %d acknowledged: %v", round, seed, acked, err)
		}
		t.Logf("round %d: from %d, acknowledged up to %d, found %d", round, m.Index(), acked, next.Index())
		m = next
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killedChild starts a child, kills it after n acknowledgements, and returns
// the last index that it acknowledged.
func killedChild(t *testing.T, dir string, seed, acked uint64, n int) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), storetest.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childDir+"="+dir, childSeed+"="+strconv.FormatUint(seed, 10))
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	var index [8]byte
	for i := 0; ; i++ {
		if i == n {
			_ = cmd.Process.Kill()
		}
		if _, err := io.ReadFull(r, index[:]); err != nil {
			if i < n {
				t.Errorf("the child ended by itself after %d acknowledgements", i)
			}
			break
		}
		acked = binary.BigEndian.Uint64(index[:])
	}
	_ = cmd.Wait() // killed
	return acked
}

// powerCuts is how many power cuts TestPowerCut simulates.
func powerCuts(t *testing.T) int {
	n := 25
	if s := os.Getenv("ROLLCALL_POWERCUTS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("ROLLCALL_POWERCUTS: %v", err)
		}
	}
	return n
}

// P2: what is acknowledged survives a power cut at any moment, with what was
// not synced lost, or there in part. The cut comes at a random operation on the
// file system, from the first one of making the store on, also while it is
// opened again after the one before.
func TestPowerCut(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	fs := vfs.NewCrashableMem()
	m := storetest.NewModel()
	opened, batches := 0, uint64(0)
	for cut := range powerCuts(t) {
		if cut%50 == 0 {
			fs, m = vfs.NewCrashableMem(), storetest.NewModel() // from the making of it
		}
		work := random.Uint64()
		after := 1 + random.IntN([]int{40, 400, 4000}[random.IntN(3)])
		clone, acked, did := cutPower(t, fs, m, work, after, random)
		fs = clone
		e, err := pebble.Open(small(fs))
		if err != nil {
			t.Fatalf("cut %d: open: %v", cut, err)
		}
		next, err := verify(e, m, storetest.NewWorkload(work, 500), acked)
		if err != nil {
			t.Fatalf("cut %d, after operation %d, acknowledged %d: %v", cut, after, acked, err)
		}
		if did {
			opened++
		}
		batches += next.Index() - m.Index()
		m = next
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d cuts, %d of them while batches were committed, %d batches", powerCuts(t), opened, batches)
	if powerCuts(t) >= 10 && (opened == 0 || batches == 0) {
		t.Error("no cut came while batches were committed")
	}
}

// small are options under which little work makes many files.
func small(fs vfs.FS) pebble.Options {
	o := pebble.Options{FS: fs, Dir: "/var/lib/store", Log: slog.New(slog.DiscardHandler)}
	pebble.SetMemTableSize(&o, 32<<10)
	return o
}

// cutPower works on fs until its n-th operation and returns what is on the disk
// then, what had been acknowledged, and whether the store had been opened.
func cutPower(t *testing.T, fs *vfs.MemFS, m *storetest.Model, seed uint64, n int, random *rand.Rand) (clone *vfs.MemFS, acked uint64, did bool) {
	t.Helper()
	cfg := vfs.CrashCloneCfg{
		UnsyncedDataPercent: random.IntN(101),
		RNG:                 rand.New(rand.NewPCG(random.Uint64(), 2)),
	}
	var reported, ops atomic.Uint64
	var once sync.Once
	reported.Store(m.Index())
	off := make(chan struct{})
	cut := func() {
		once.Do(func() {
			acked = reported.Load() // before the clone: what comes between is safe too
			clone = fs.CrashClone(cfg)
			close(off)
		})
	}
	watched := newFaultFS(fs, func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && ops.Add(1) == uint64(n) {
			cut()
		}
		return nil
	})
	e, err := pebble.Open(small(watched))
	if err != nil {
		t.Fatalf("open before the cut: %v", err)
	}
	select {
	case <-off:
	default:
		did = true
		w, model := storetest.NewWorkload(seed, 500), m.Clone()
		slots := make(chan struct{}, 16)
		for range 40 * n { // more than enough: most batches write something
			select {
			case <-off:
			default:
				b := w.Next(model)
				model.Apply(b)
				slots <- struct{}{}
				e.Submit(b, func(r store.Result) {
					if r.Err == nil {
						reported.Store(r.Index)
					}
					<-slots
				})
			}
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	cut() // at the latest
	return clone, acked, did
}

// heldByChild calls f while a child process has the store in dir open.
func heldByChild(t *testing.T, dir string, f func()) (acked uint64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childDir+"="+dir, childSeed+"=1")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var index [8]byte
	if _, err := io.ReadFull(out, index[:]); err != nil {
		t.Error(err)
	}
	f()
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	return binary.BigEndian.Uint64(index[:])
}

// A file system may lose what was done to a directory since its last sync in
// any order. So the manifest is durable before the marker that names it is
// made, and that before the last one goes.
func TestMarkerComesAfterWhatItMarks(t *testing.T) {
	var mu sync.Mutex
	unsynced, markers := "", 0
	fs := newFaultFS(vfs.NewMem(), func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		base := filepath.Base(op.Path)
		switch {
		case strings.HasSuffix(op.Path, "/store") && isSync(op):
			unsynced = ""
		case strings.HasPrefix(base, "marker.manifest") && (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpRemove):
			markers++
			if unsynced != "" {
				t.Errorf("%v of %s before %s is durable", op.Kind, base, unsynced)
			}
			unsynced = base
		case strings.HasPrefix(base, "MANIFEST") && op.Kind == errorfs.OpCreate:
			unsynced = base
		}
		return nil
	})
	for range 3 { // a manifest for each opening
		e, err := pebble.Open(small(fs))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Commit(t.Context(), e, putting(store.Normal, "k", 100)); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if markers < 2 {
		t.Errorf("%d markers were made or removed", markers)
	}
}
