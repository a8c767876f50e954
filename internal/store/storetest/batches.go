package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"rollcall/internal/store"
)

func testPutGetDelete(t *testing.T, e store.Engine) {
	a, b := key(1, "a"), key(1, "b")
	wantAbsent(t, e, a)
	i := commit(t, e, func(x *store.Batch) { x.Put(a, []byte("one")); x.Put(b, nil) })
	wantValue(t, e, a, "one", i)
	wantValue(t, e, b, "", i) // empty is not absent
	j := commit(t, e, func(x *store.Batch) { x.Put(a, []byte("two")); x.Delete(b); x.Delete(key(1, "never")) })
	if j <= i {
		t.Errorf("index %d after %d", j, i)
	}
	wantValue(t, e, a, "two", j)
	wantAbsent(t, e, b)

	v, _, err := store.Get(e, a)
	if err != nil {
		t.Fatal(err)
	}
	copy(v, "xxx") // it is the caller's
	wantValue(t, e, a, "two", j)
}

func testRevisions(t *testing.T, e store.Engine) {
	k := key(2, "k")
	conflict := func(rev store.Revision) {
		t.Helper()
		if _, err := try(e, func(b *store.Batch) { b.Require(k, rev); b.Put(k, []byte("no")) }); !errors.Is(err, store.ErrConflict) {
			t.Errorf("require revision %d: got %v, want a conflict", rev, err)
		}
	}
	conflict(1)
	first := commit(t, e, func(b *store.Batch) { b.Require(k, 0); b.Put(k, []byte("a")) })
	conflict(0)
	conflict(store.Revision(first + 1))
	second := commit(t, e, func(b *store.Batch) { b.Require(k, store.Revision(first)); b.Put(k, []byte("a")) })
	conflict(store.Revision(first)) // the same value, but another revision
	commit(t, e, func(b *store.Batch) { b.Require(k, store.Revision(second)); b.Delete(k) })
	conflict(store.Revision(second))
	commit(t, e, func(b *store.Batch) { b.Require(k, 0) })
	wantAbsent(t, e, k)
}

func testRequireIsJudgedFirst(t *testing.T, e store.Engine) {
	a, b := key(0, "a"), key(0, "b")
	// Judged against the state before the batch, whatever its place.
	i := commit(t, e, func(x *store.Batch) { x.Put(a, []byte("1")); x.Require(a, 0) })
	_, err := try(e, func(x *store.Batch) {
		x.Put(b, []byte("must not stay"))
		x.Delete(a)
		x.PutSequenced(b, nil)
		x.Require(a, 0)
	})
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("got %v, want a conflict", err)
	}
	wantValue(t, e, a, "1", i)
	s := e.Snapshot()
	defer s.Close()
	if got := keysIn(t, s, nil, nil); len(got) != 1 {
		t.Errorf("a conflict left %v", got)
	}
}

func testOperationsInOrder(t *testing.T, e store.Engine) {
	a, b, c := key(3, "a"), key(3, "b"), key(3, "c")
	i := commit(t, e, func(x *store.Batch) {
		x.Put(a, []byte("1"))
		x.Put(a, []byte("2"))
		x.Put(b, []byte("3"))
		x.Delete(b)
		x.Put(c, []byte("4"))
		x.DeleteRange(key(3, "a"), key(3, "z"))
		x.Put(c, []byte("5"))
	})
	wantAbsent(t, e, a)
	wantAbsent(t, e, b)
	wantValue(t, e, c, "5", i)
}

func testSequenced(t *testing.T, e store.Engine) {
	prefix := key(4, "log")
	var want []string
	for round := range 3 {
		index := commit(t, e, func(b *store.Batch) {
			for n := range 3 {
				if ordinal := b.PutSequenced(prefix, fmt.Appendf(nil, "%d.%d", round, n)); int(ordinal) != n {
					t.Errorf("ordinal %d, want %d", ordinal, n)
				}
			}
		})
		for n := range 3 {
			k := store.SequencedKey(prefix, index, uint16(n))
			wantValue(t, e, k, fmt.Sprintf("%d.%d", round, n), index)
			want = append(want, fmt.Sprintf("%x=%d.%d", k, round, n))
		}
	}
	s := e.Snapshot()
	defer s.Close()
	if got := keysIn(t, s, prefix, store.PrefixEnd(prefix)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func testDeleteRange(t *testing.T, e store.Engine) {
	names := []string{"a", "b", "c", "d"}
	index := commit(t, e, func(x *store.Batch) {
		for _, n := range names {
			x.Put(key(5, n), []byte(n))
		}
	})
	commit(t, e, func(x *store.Batch) { x.Put(key(6, "b"), []byte("other partition")) })
	commit(t, e, func(x *store.Batch) {
		x.DeleteRange(key(5, "b"), key(5, "d"))
		x.DeleteRange(key(5, "d"), key(5, "d")) // nothing
		x.DeleteRange(key(5, "z"), key(5, "a")) // nothing
	})
	wantValue(t, e, key(5, "a"), "a", index)
	wantAbsent(t, e, key(5, "b"))
	wantAbsent(t, e, key(5, "c"))
	wantValue(t, e, key(5, "d"), "d", index)
	commit(t, e, func(x *store.Batch) { x.Require(key(5, "b"), 0); x.Put(key(5, "b"), []byte("back")) })
	commit(t, e, func(x *store.Batch) {
		table := []byte{5, byte(store.TableResource)}
		x.DeleteRange(table, []byte{6}) // to the end of the partition
	})
	s := e.Snapshot()
	defer s.Close()
	if got := keysIn(t, s, []byte{5}, nil); len(got) != 1 {
		t.Errorf("got %v, want the other partition's key only", got)
	}
}

func testEmptyBatch(t *testing.T, e store.Engine) {
	i := commit(t, e, func(*store.Batch) {})
	if j := commit(t, e, func(*store.Batch) {}); j <= i || i == 0 {
		t.Errorf("indexes %d, %d", i, j)
	}
}

func testLargeBatch(t *testing.T, e store.Engine) {
	value := make([]byte, 1<<20)
	for i := range value {
		value[i] = byte(i * i >> 3)
	}
	index := commit(t, e, func(b *store.Batch) {
		for i := range 12 {
			b.Put(key(1, fmt.Sprint(i)), value)
		}
	})
	for i := range 12 {
		wantValue(t, e, key(1, fmt.Sprint(i)), string(value), index)
	}
	_, err := try(e, func(b *store.Batch) {
		for range 17 {
			b.Put(key(1, "x"), value)
		}
	})
	if !errors.Is(err, store.ErrInvalid) {
		t.Errorf("17 MiB: got %v, want it to be invalid", err)
	}
	wantAbsent(t, e, key(1, "x"))
}

func testInvalid(t *testing.T, e store.Engine) {
	tests := map[string]func(*store.Batch){
		"two partitions":       func(b *store.Batch) { b.Put(key(1, "a"), nil); b.Put(key(2, "a"), nil) },
		"short key":            func(b *store.Batch) { b.Put([]byte{1}, nil) },
		"no key":               func(b *store.Batch) { b.Delete(nil) },
		"the engine's table":   func(b *store.Batch) { b.Put([]byte{0, 0, 'i'}, nil) },
		"unknown partition":    func(b *store.Batch) { b.Put(key(200, "a"), nil) },
		"range without end":    func(b *store.Batch) { b.DeleteRange(key(1, "a"), nil) },
		"range over partition": func(b *store.Batch) { b.DeleteRange(key(1, "a"), key(2, "a")) },
		"too many sequenced": func(b *store.Batch) {
			for range 1<<16 + 1 {
				b.PutSequenced(key(1, "a"), nil)
			}
		},
	}
	before := commit(t, e, func(*store.Batch) {})
	for name, f := range tests {
		b := batch(f)
		ch := make(chan store.Result, 1)
		e.Submit(b, func(r store.Result) { ch <- r })
		if r := collect(t, ch, 1)[0]; !errors.Is(r.Err, store.ErrInvalid) {
			t.Errorf("%s: got %v, want it to be invalid", name, r.Err)
		}
	}
	s := e.Snapshot()
	defer s.Close()
	if got := keysIn(t, s, nil, nil); len(got) > 0 || s.Index() != before {
		t.Errorf("invalid batches left %v at index %d, want nothing at %d", got, s.Index(), before)
	}
}

func testOutcome(t *testing.T, e store.Engine) {
	ctx := t.Context()
	if r, ok, err := e.Outcome(ctx, store.NewID()); ok || err != nil {
		t.Errorf("of a batch never submitted: got %v, %v, %v", r, ok, err)
	}
	k := key(1, "k")
	good := batch(func(b *store.Batch) { b.Put(k, nil) })
	index, err := store.Commit(ctx, e, good)
	if err != nil {
		t.Fatal(err)
	}
	bad := batch(func(b *store.Batch) { b.Require(k, 0) })
	if _, err := store.Commit(ctx, e, bad); !errors.Is(err, store.ErrConflict) {
		t.Fatal(err)
	}
	if r, ok, err := e.Outcome(ctx, good.ID()); !ok || err != nil || r.Err != nil || r.Index != index {
		t.Errorf("got %v, %v, %v; want index %d", r, ok, err, index)
	}
	if r, ok, err := e.Outcome(ctx, bad.ID()); !ok || err != nil || !errors.Is(r.Err, store.ErrConflict) {
		t.Errorf("got %v, %v, %v; want a conflict", r, ok, err)
	}
}

func testSize(t *testing.T, e store.Engine) {
	value := make([]byte, 1000)
	for i := range value {
		value[i] = byte(i * 7)
	}
	for p := range uint8(2) {
		commit(t, e, func(b *store.Batch) {
			for i := range 100 {
				b.Put(key(p+1, fmt.Sprint(i)), value)
			}
		})
	}
	size := func(lower, upper []byte) uint64 {
		n, err := e.Size(lower, upper)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := size([]byte{1}, []byte{2}); n < 50_000 || n > 400_000 {
		t.Errorf("100 values of 1,000 bytes: %d", n)
	}
	if n := size(nil, nil); n < 100_000 || n > 800_000 {
		t.Errorf("200 values of 1,000 bytes: %d", n)
	}
	if n := size([]byte{3}, nil); n != 0 {
		t.Errorf("an empty range: %d", n)
	}
	if u := e.Usage(); u.Bytes == 0 || u.Full {
		t.Errorf("usage: %+v", u)
	}
}
