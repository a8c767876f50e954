package mem_test

import (
	"errors"
	"testing"

	"rollcall/internal/store"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/storetest"
)

func TestSuite(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Engine { return mem.New() })
}

func put(c store.Class, k string, size int) *store.Batch {
	b := store.NewBatch(c)
	b.Put(store.AppendKey(nil, 1, store.TableResource, k), make([]byte, size))
	return b
}

func TestFull(t *testing.T) {
	e := mem.New()
	defer e.Close()
	check := func(what string, c store.Class, want error) {
		t.Helper()
		if _, err := store.Commit(t.Context(), e, put(c, what, 10)); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	e.SetFull(true)
	check("normal work on a full disk", store.Normal, store.ErrFull)
	check("reserve work on a full disk", store.Reserve, nil)
	if !e.Usage().Full {
		t.Error("usage does not say that it is full")
	}
	e.SetExhausted(true)
	check("reserve work without a reserve", store.Reserve, store.ErrFull)
	e.SetFull(false)
	e.SetExhausted(false)
	check("normal work with space again", store.Normal, nil)

	e.SetLimit(2000, 1000)
	for i := range 2 {
		_, err := store.Commit(t.Context(), e, put(store.Normal, string(rune('a'+i)), 600))
		if want := []error{nil, store.ErrFull}[i]; !errors.Is(err, want) {
			t.Errorf("600 bytes, time %d: got %v, want %v", i+1, err, want)
		}
	}
	check("reserve work at the limit", store.Reserve, nil)
	b := store.NewBatch(store.Reserve)
	b.DeleteRange([]byte{1, 1}, []byte{2})
	if _, err := store.Commit(t.Context(), e, b); err != nil {
		t.Fatal(err)
	}
	check("normal work after deletes", store.Normal, nil)
}
