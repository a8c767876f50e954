package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"rollcall/internal/store"
)

func testIterator(t *testing.T, e store.Engine) {
	commit(t, e, func(b *store.Batch) {
		for _, n := range []string{"b", "d", "f"} {
			b.Put(key(1, n), []byte(n))
		}
	})
	s := e.Snapshot()
	defer s.Close()
	at := func(it store.Iterator, ok bool) string {
		if !ok {
			return "-"
		}
		return string(it.Value())
	}
	// Each step and what it goes to; seeks name the key. Written down once for
	// every engine.
	steps := func(lower, upper []byte, script ...string) {
		t.Helper()
		it := s.Iter(lower, upper)
		defer it.Close()
		for i := 0; i < len(script); i += 2 {
			var got string
			switch script[i] {
			case "next":
				got = at(it, it.Next())
			case "prev":
				got = at(it, it.Prev())
			default:
				got = at(it, it.SeekGE(key(1, script[i])))
			}
			if got != script[i+1] {
				t.Errorf("step %d (%s) of %v: got %s, want %s", i/2+1, script[i], script, got, script[i+1])
			}
		}
		if err := it.Err(); err != nil {
			t.Error(err)
		}
	}
	steps(nil, nil, "next", "b", "next", "d", "next", "f", "next", "-", "next", "-", "prev", "f", "prev", "d")
	steps(nil, nil, "prev", "f", "prev", "d", "prev", "b", "prev", "-", "prev", "-", "next", "b", "next", "d")
	steps(nil, nil, "next", "b", "next", "d", "prev", "b", "next", "d", "prev", "b", "prev", "-")
	steps(nil, nil, "c", "d", "prev", "b", "next", "d", "d", "d", "g", "-", "prev", "f", "a", "b", "prev", "-")
	steps(nil, nil, "g", "-", "next", "-", "prev", "f")
	steps(key(1, "c"), key(1, "f"), "next", "d", "next", "-", "prev", "d", "prev", "-", "next", "d")
	steps(key(1, "c"), key(1, "f"), "a", "d", "e", "-", "prev", "d", "prev", "-")
	steps(key(1, "d"), key(1, "f"), "prev", "d", "prev", "-")
	steps(key(1, "g"), nil, "next", "-", "prev", "-")
	steps(key(1, "f"), key(1, "b"), "next", "-", "prev", "-", "d", "-")
	steps(key(1, "d"), key(1, "d"), "next", "-", "d", "-", "prev", "-")
}

func testIteratorAgainstModel(t *testing.T, e store.Engine) {
	random := rand.New(rand.NewPCG(3, 3))
	var keys []string
	commit(t, e, func(b *store.Batch) {
		for n := range 200 {
			if random.IntN(2) == 0 {
				k := store.AppendUint64([]byte{1, byte(store.TableEvent)}, uint64(n))
				keys = append(keys, string(k))
				b.Put(k, k)
			}
		}
	})
	s := e.Snapshot()
	defer s.Close()
	bound := func() []byte { return store.AppendUint64([]byte{1, byte(store.TableEvent)}, random.Uint64N(200)) }
	for range 50 {
		lower, upper := bound(), bound()
		within := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k < string(lower) || k >= string(upper) })
		it := s.Iter(lower, upper)
		pos, log := -1, ""
		for step := range 40 {
			var ok bool
			switch n := random.IntN(5); {
			case n < 2:
				log += " next"
				ok = it.Next()
				pos = min(pos+1, len(within))
			case n < 4:
				log += " prev"
				ok = it.Prev()
				if step == 0 {
					pos = len(within)
				}
				pos = max(pos-1, -1)
			default:
				k := bound()
				log += fmt.Sprintf(" seek %x", k)
				ok = it.SeekGE(k)
				pos, _ = slices.BinarySearch(within, string(k))
			}
			inside := pos >= 0 && pos < len(within)
			if ok != inside || ok && string(it.Key()) != within[pos] {
				t.Fatalf("after%s in [%x, %x): got %v, want position %d of %d", log, lower, upper, ok, pos, len(within))
			}
			if ok && string(it.Value()) != string(it.Key()) {
				t.Fatalf("value %x of key %x", it.Value(), it.Key())
			}
		}
		if err := errors.Join(it.Err(), it.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func testSnapshotStaysAsItIs(t *testing.T, e store.Engine) {
	k := key(1, "k")
	first := commit(t, e, func(b *store.Batch) { b.Put(k, []byte("old")); b.Put(key(1, "x"), nil) })
	old := e.Snapshot()
	defer old.Close()
	it := old.Iter(nil, nil)
	defer it.Close()
	for i := range 100 {
		commit(t, e, func(b *store.Batch) {
			b.Put(k, []byte("new"))
			b.Put(key(1, fmt.Sprint("later", i)), nil)
			b.DeleteRange(key(1, "x"), key(1, "y"))
		})
	}
	if v, rev, err := old.Get(k); string(v) != "old" || uint64(rev) != first || err != nil {
		t.Errorf("got %q, revision %d, error %v", v, rev, err)
	}
	if old.Index() != first {
		t.Errorf("index %d, want %d", old.Index(), first)
	}
	n := 0
	for it.Next() {
		n++
	}
	if n != 2 {
		t.Errorf("an iterator from before shows %d keys, want 2", n)
	}
	now := e.Snapshot()
	defer now.Close()
	if now.Index() != first+100 && now.Index() < first {
		t.Errorf("index %d", now.Index())
	}
}

func testClose(t *testing.T, e store.Engine) {
	ch := make(chan store.Result, 100)
	for i := range 100 {
		e.Submit(batch(func(b *store.Batch) { b.Put(key(1, fmt.Sprint(i)), nil) }), func(r store.Result) { ch <- r })
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if len(ch) != 100 {
		t.Errorf("%d of 100 outcomes were reported when Close returned", len(ch))
	}
	for i, r := range collect(t, ch, 100) {
		if r.Err != nil {
			t.Errorf("outcome %d: %v", i, r.Err)
		}
	}
	e.Submit(batch(func(b *store.Batch) { b.Put(key(1, "late"), nil) }), func(r store.Result) { ch <- r })
	if r := collect(t, ch, 1)[0]; !errors.Is(r.Err, store.ErrClosed) {
		t.Errorf("submit after close: %v", r.Err)
	}
	if _, _, err := store.Get(e, key(1, "1")); !errors.Is(err, store.ErrClosed) {
		t.Errorf("get after close: %v", err)
	}
	s := e.Snapshot()
	it := s.Iter(nil, nil)
	if it.Next() || it.Prev() || it.SeekGE(key(1, "a")) || !errors.Is(it.Err(), store.ErrClosed) {
		t.Errorf("iterate after close: %v", it.Err())
	}
	_ = it.Close()
	s.Close()
	if _, _, err := e.Outcome(t.Context(), store.NewID()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("outcome after close: %v", err)
	}
	if _, err := e.Size(nil, nil); !errors.Is(err, store.ErrClosed) {
		t.Errorf("size after close: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}
