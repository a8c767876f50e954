package store_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"rollcall/internal/store"
)

func numbered(n uint64) (id store.ID) {
	binary.BigEndian.PutUint64(id[:], n)
	return id
}

func TestOutcomes(t *testing.T) {
	var o store.Outcomes
	if _, ok := o.Lookup(numbered(1)); ok {
		t.Error("nothing is remembered")
	}
	for i, err := range []error{store.ErrConflict, store.ErrFull, store.ErrUnknown, store.ErrClosed, store.ErrInvalid} {
		o.Remember(numbered(uint64(i)), store.Result{Err: fmt.Errorf("why: %w", err)})
		if r, ok := o.Lookup(numbered(uint64(i))); !ok || r.Index != 0 || !errors.Is(r.Err, err) {
			t.Errorf("%v: got %+v, %v", err, r, ok)
		}
	}
	o.Remember(numbered(9), store.Result{Err: errors.New("another")})
	if r, ok := o.Lookup(numbered(9)); !ok || !errors.Is(r.Err, store.ErrUnknown) {
		t.Errorf("another error: got %+v, %v", r, ok)
	}
}

// The last 65,536 are remembered, and not all.
func TestOutcomesForget(t *testing.T) {
	var o store.Outcomes
	const promised, total = 1 << 16, 5 << 16
	for n := uint64(1); n <= total; n += 64 {
		o.RememberAll(64, func(i int) (store.ID, store.Result) {
			return numbered(n + uint64(i)), store.Result{Index: n + uint64(i)}
		})
	}
	known := 0
	for n := uint64(1); n <= total; n++ {
		r, ok := o.Lookup(numbered(n))
		if ok {
			known++
		}
		if ok && r != (store.Result{Index: n}) {
			t.Fatalf("outcome %d came back as %+v", n, r)
		}
		if !ok && n > total-promised {
			t.Fatalf("outcome %d of %d is forgotten", n, total)
		}
	}
	if known > 2*promised {
		t.Errorf("%d are remembered", known)
	}
}
