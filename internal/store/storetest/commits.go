package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"rollcall/internal/store"
)

func testRandomAgainstModel(t *testing.T, e store.Engine) {
	const rounds, perRound = 20, 200
	w, m := NewWorkload(11, 100), NewModel()
	for round := range rounds {
		ch := make(chan store.Result, perRound)
		want := make([]store.Result, perRound)
		for i := range perRound {
			b := w.Next(m)
			want[i] = m.Apply(b)
			e.Submit(b, func(r store.Result) { ch <- r })
		}
		// A batch that fails may be reported out of turn; those that succeed
		// may not.
		got := collect(t, ch, perRound)
		conflicts, next := 0, 0
		for _, r := range got {
			if r.Err != nil {
				if !errors.Is(r.Err, store.ErrConflict) {
					t.Fatalf("round %d: %v", round, r.Err)
				}
				conflicts++
				continue
			}
			for want[next].Err != nil {
				conflicts--
				next++
			}
			if r != want[next] {
				t.Fatalf("round %d, batch %d: got %+v, want %+v", round, next, r, want[next])
			}
			next++
		}
		for ; next < perRound && want[next].Err != nil; next++ {
			conflicts--
		}
		if next != perRound || conflicts != 0 {
			t.Fatalf("round %d: %d batches were reported, %d conflicts too many", round, next, conflicts)
		}
		s := e.Snapshot()
		if err := m.Compare(s); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		s.Close()
	}
}

func testDoneInCommitOrder(t *testing.T, e store.Engine) {
	const writers, each = 8, 100
	ch := make(chan store.Result, writers*each)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				b := batch(func(b *store.Batch) {
					b.Put(key(uint8(w), "last"), binary.BigEndian.AppendUint64(nil, uint64(i)))
				})
				e.Submit(b, func(r store.Result) { ch <- r })
			}
		})
	}
	wg.Wait()
	last := uint64(0)
	for _, r := range collect(t, ch, writers*each) {
		if r.Err != nil || r.Index <= last {
			t.Fatalf("after index %d: %+v", last, r)
		}
		last = r.Index
	}
	for w := range writers { // applied in the order of Submit
		v, _, err := store.Get(e, key(uint8(w), "last"))
		if err != nil || binary.BigEndian.Uint64(v) != each-1 {
			t.Errorf("writer %d: %x, %v", w, v, err)
		}
	}
}

func testDoneIsNotCalledFromSubmit(t *testing.T, e store.Engine) {
	var mu sync.Mutex // taken by done and held over Submit
	const n = 200
	ch := make(chan store.Result, n+1)
	done := func(r store.Result) {
		mu.Lock()
		defer mu.Unlock()
		ch <- r
	}
	mu.Lock()
	for i := range n {
		e.Submit(batch(func(b *store.Batch) { b.Put(key(1, fmt.Sprint(i)), nil) }), done)
	}
	mu.Unlock()
	collect(t, ch, n)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	e.Submit(store.NewBatch(store.Normal), done) // the refusal neither
	mu.Unlock()
	collect(t, ch, 1)
}

func testDoneMaySubmit(t *testing.T, e store.Engine) {
	const links = 50
	ch := make(chan store.Result, 1)
	var step func(n int)
	step = func(n int) {
		e.Submit(batch(func(b *store.Batch) { b.Put(key(1, "chain"), []byte{byte(n)}) }), func(r store.Result) {
			if r.Err != nil || n == links {
				ch <- r
				return
			}
			step(n + 1)
		})
	}
	step(1)
	r := collect(t, ch, 1)[0]
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	wantValue(t, e, key(1, "chain"), string([]byte{links}), r.Index)
}

// testVisibleWhenDone also covers the conflict: by its done, what it conflicted
// with can be read.
func testVisibleWhenDone(t *testing.T, e store.Engine) {
	const n = 200
	type seen struct {
		r     store.Result
		index uint64
		rev   store.Revision
		err   error
	}
	ch := make(chan seen, 2*n)
	for i := range n {
		k := key(uint8(i%16), fmt.Sprint(i))
		look := func(r store.Result) {
			s := e.Snapshot()
			defer s.Close()
			_, rev, err := s.Get(k)
			ch <- seen{r, s.Index(), rev, err}
		}
		e.Submit(batch(func(b *store.Batch) { b.Require(k, 0); b.Put(k, nil) }), look)
		e.Submit(batch(func(b *store.Batch) { b.Require(k, 0); b.Put(k, []byte("second")) }), look)
	}
	conflicts := 0
	for range 2 * n {
		x := <-ch
		switch {
		case x.err != nil:
			t.Fatalf("outcome %+v was reported and the key is not there: %v", x.r, x.err)
		case errors.Is(x.r.Err, store.ErrConflict):
			conflicts++
		case x.r.Err != nil:
			t.Fatal(x.r.Err)
		case x.index < x.r.Index || uint64(x.rev) != x.r.Index:
			t.Fatalf("index %d was reported, the snapshot is of %d and the revision %d", x.r.Index, x.index, x.rev)
		}
	}
	if conflicts != n {
		t.Errorf("%d conflicts, want %d", conflicts, n)
	}
}

func testOneOfManyWins(t *testing.T, e store.Engine) {
	const n = 64
	for round := range 5 {
		k := key(3, fmt.Sprint(round))
		ch := make(chan store.Result, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				e.Submit(batch(func(b *store.Batch) {
					b.Require(k, 0)
					b.Put(k, []byte{byte(i)})
					b.PutSequenced(key(3, "winners"), nil)
				}), func(r store.Result) { ch <- r })
			})
		}
		wg.Wait()
		won := 0
		for _, r := range collect(t, ch, n) {
			if r.Err == nil {
				won++
			} else if !errors.Is(r.Err, store.ErrConflict) {
				t.Fatal(r.Err)
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d batches won", round, won)
		}
	}
	s := e.Snapshot()
	defer s.Close()
	if got := keysIn(t, s, key(3, "winners"), store.PrefixEnd(key(3, "winners"))); len(got) != 5 {
		t.Errorf("%d records of winners, want 5", len(got))
	}
}

func testCountersUnderContention(t *testing.T, e store.Engine) {
	const writers, each = 4, 15
	k := key(2, "counter")
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for n := 0; n < each; {
				v, rev, err := store.Get(e, k)
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
					return
				}
				v = append(v, 0)
				_, err = try(e, func(b *store.Batch) { b.Require(k, rev); b.Put(k, v) })
				switch {
				case err == nil:
					n++
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if v, _, err := store.Get(e, k); len(v) != writers*each || err != nil {
		t.Errorf("counted %d, want %d (%v)", len(v), writers*each, err)
	}
}

func testReadersSeeWholeBatches(t *testing.T, e store.Engine) {
	a, z := key(1, "a"), key(1, "z")
	const n = 300
	ch := make(chan store.Result, n)
	var reported atomic.Uint64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			last := uint64(0)
			for {
				known := reported.Load()
				s := e.Snapshot()
				va, ra, ea := s.Get(a)
				vz, rz, ez := s.Get(z)
				index := s.Index()
				s.Close()
				if string(va) != string(vz) || ra != rz || (ea == nil) != (ez == nil) {
					t.Errorf("half a batch: %x at %d, %x at %d", va, ra, vz, rz)
				}
				if index < last || index < known || uint64(ra) > index {
					t.Errorf("index %d after %d, with %d reported and a revision of %d", index, last, known, ra)
				}
				last = index
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range n {
		v := binary.BigEndian.AppendUint64(nil, uint64(i))
		e.Submit(batch(func(b *store.Batch) { b.Put(a, v); b.Put(key(1, "m"), v); b.Put(z, v) }), func(r store.Result) {
			reported.Store(r.Index)
			ch <- r
		})
	}
	collect(t, ch, n)
	close(stop)
	wg.Wait()
}

func testCommitGivesUpWaiting(t *testing.T, e store.Engine) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	k := key(1, "k")
	for {
		// The wait may end either way when both are ready.
		_, err := store.Commit(ctx, e, batch(func(b *store.Batch) { b.Put(k, nil) }))
		if err == nil {
			continue
		}
		if !errors.Is(err, store.ErrUnknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		break
	}
	commit(t, e, func(*store.Batch) {}) // after which the batch has been applied
	if _, _, err := store.Get(e, k); err != nil {
		t.Errorf("the batch was not applied: %v", err)
	}
}
