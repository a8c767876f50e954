package pebble_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/internal/clock"
	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
	"rollcall/internal/store/storetest"
)

// handClock goes only as it is told; its timers are the machine's.
type handClock struct {
	clock.System
	ns atomic.Int64
}

func (c *handClock) Now() time.Time           { return time.Unix(1e9, c.ns.Load()).UTC() }
func (c *handClock) Monotonic() time.Duration { return time.Duration(c.ns.Load()) }
func (c *handClock) advance(d time.Duration)  { c.ns.Add(int64(d)) }

func recordKey(name string) []byte { return store.AppendKey(nil, 1, store.TableResource, name) }

// putting returns a batch that stores size bytes.
func putting(c store.Class, name string, size int) *store.Batch {
	b := store.NewBatch(c)
	v := make([]byte, size)
	random := rand.New(rand.NewPCG(uint64(size), uint64(c))) // does not compress
	for i := range v {
		v[i] = byte(random.Uint32())
	}
	b.Put(recordKey(name), v)
	return b
}

// P7: below the low-water mark new work is refused, below the reserve all; both
// come back with the space.
func TestFullDisk(t *testing.T) {
	var free atomic.Uint64
	c := new(handClock)
	o := pebble.Options{
		FS: vfs.NewMem(), Dir: "/s", Clock: c, LowWater: 100 << 20, Reserve: 40 << 20,
		FreeSpace: func() (uint64, error) { return free.Load(), nil },
	}
	free.Store(1 << 30)
	e := open(t, o)
	steps := []struct {
		free            uint64
		normal, reserve error
	}{
		{1 << 30, nil, nil},
		{101 << 20, nil, nil},
		{99 << 20, store.ErrFull, nil},
		{41 << 20, store.ErrFull, nil},
		{39 << 20, store.ErrFull, store.ErrFull},
		{0, store.ErrFull, store.ErrFull},
		{60 << 20, store.ErrFull, nil},
		{200 << 20, nil, nil},
	}
	want := map[string]bool{}
	for i, s := range steps {
		free.Store(s.free)
		c.advance(time.Second)
		for class, outcome := range []error{s.normal, s.reserve} {
			name := fmt.Sprint(i, class)
			_, err := store.Commit(t.Context(), e, putting(store.Class(class), name, 100))
			if !errors.Is(err, outcome) {
				t.Errorf("%d MiB free, class %d: got %v, want %v", s.free>>20, class, err, outcome)
			}
			want[name] = outcome == nil
		}
		if u := e.Usage(); u.Full != (s.normal != nil) || u.FreeBytes != s.free {
			t.Errorf("%d MiB free: usage %+v", s.free>>20, u)
		}
	}
	if e.Stats().Refused != 7 {
		t.Errorf("%d batches refused, want 7", e.Stats().Refused)
	}
	for name, there := range want {
		if _, _, err := store.Get(e, recordKey(name)); (err == nil) != there {
			t.Errorf("%s: %v, want it there: %v", name, err, there)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// What is written counts at once, and not only when the disk is asked again.
func TestFullDiskBetweenMeasurements(t *testing.T) {
	c := new(handClock) // stands still: nothing is measured again
	e := open(t, pebble.Options{
		FS: vfs.NewMem(), Dir: "/s", Clock: c, LowWater: 100 << 20, Reserve: 40 << 20,
		FreeSpace: func() (uint64, error) { return 110 << 20, nil },
	})
	defer e.Close()
	written := 0
	for ; written < 100; written++ {
		_, err := store.Commit(t.Context(), e, putting(store.Normal, fmt.Sprint(written), 1<<20))
		if errors.Is(err, store.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if written < 3 || written > 10 {
		t.Errorf("%d MiB were taken where there were 10", written)
	}
}

// The limit is on the whole store: it is not exceeded but while tables are
// replaced, work of the reserve is still done at it, and what is deleted makes
// room.
func TestLimit(t *testing.T) {
	c := new(handClock)
	e := open(t, pebble.Options{FS: vfs.NewMem(), Dir: "/s", Clock: c, Limit: pebble.MinLimit})
	defer e.Close()
	commit := func(b *store.Batch) error {
		c.advance(10 * time.Millisecond)
		_, err := store.Commit(t.Context(), e, b)
		if u := e.Usage(); u.Bytes > pebble.MinLimit*3/2 || u.Limit != pebble.MinLimit {
			t.Fatalf("usage %+v", u)
		}
		return err
	}
	n, size := 0, 256<<10
	for ; ; n++ {
		if err := commit(putting(store.Normal, fmt.Sprint(n), size)); errors.Is(err, store.ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if n > 1000 {
			t.Fatal("no limit")
		}
	}
	stored := n
	for ; ; n++ { // what is left is too little for that, but not nothing
		if err := commit(putting(store.Normal, fmt.Sprint(n), 10)); errors.Is(err, store.ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if n > 100_000 {
			t.Fatal("no limit")
		}
	}
	if !e.Usage().Full {
		t.Errorf("usage %+v", e.Usage())
	}
	t.Logf("%d MiB stored in %d MiB", stored*size>>20, e.Usage().Bytes>>20)
	for i := range n {
		b := store.NewBatch(store.Reserve)
		b.Delete(recordKey(fmt.Sprint(i)))
		if err := commit(b); err != nil {
			t.Fatalf("delete %d of %d: %v", i, n, err)
		}
	}
	deadline := time.After(storetest.Patience)
	for tries := 0; ; tries++ {
		c.advance(time.Second)
		err := commit(putting(store.Normal, "again", size))
		if err == nil {
			t.Logf("room again after %d tries", tries)
			return
		}
		if !errors.Is(err, store.ErrFull) {
			t.Fatal(err)
		}
		select {
		case <-deadline:
			t.Fatalf("no room after everything was deleted: %+v", e.Usage())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// The queue is bounded too, and what does not fit in is refused in its turn.
func TestFullQueue(t *testing.T) {
	gate := make(chan struct{})
	var closed atomic.Bool
	fs := newFaultFS(vfs.NewMem(), func(op errorfs.Op) error {
		if closed.Load() && isFile(op, ".log") && isSync(op) {
			<-gate
		}
		return nil
	})
	e := open(t, pebble.Options{FS: fs, Dir: "/s", MaxQueued: 1 << 20})
	defer e.Close()
	closed.Store(true)
	var mu sync.Mutex
	got := map[store.Class]map[string]int{store.Normal: {}, store.Reserve: {}}
	var wg sync.WaitGroup
	submit := func(c store.Class, n int) {
		for i := range n {
			wg.Add(1)
			e.Submit(putting(c, fmt.Sprint(c, i), 100<<10), func(r store.Result) {
				defer wg.Done()
				mu.Lock()
				defer mu.Unlock()
				got[c][fmt.Sprint(r.Err)]++
			})
		}
	}
	submit(store.Normal, 150) // two groups of 2 MiB may be under way
	submit(store.Reserve, 30)
	close(gate)
	wg.Wait()
	full := store.ErrFull.Error()
	if n := got[store.Normal][full]; n < 90 || n > 145 {
		t.Errorf("normal work: %v", got[store.Normal])
	}
	if n := got[store.Reserve][full]; n < 10 || n > 25 {
		t.Errorf("reserve work: %v", got[store.Reserve])
	}
	if n := len(got[store.Normal]) + len(got[store.Reserve]); n != 4 {
		t.Errorf("outcomes: %v", got)
	}
}
