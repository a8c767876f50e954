package pebble_test

import (
	"testing"

	"rollcall/internal/store/pebble"
)

// A sound store, as a kill leaves it, is found sound, whole and readable.
func TestCheckFindsASoundStoreSound(t *testing.T) {
	fs, w, index := damageable(t, 1)
	r, err := pebble.Check(small(fs))
	if err != nil || len(r.Findings) > 0 || r.Files == 0 {
		t.Fatalf("check: %+v, %v", r, err)
	}
	o := small(fs)
	o.Dir = "/var/lib/salvaged"
	if out, err := pebble.Salvage(small(fs), o); err != nil || len(out.Findings) > 0 || out.Keys == 0 {
		t.Fatalf("salvage: %+v, %v", out, err)
	}
	for _, o := range []pebble.Options{small(fs), o} {
		e, err := pebble.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if lost, err := judgeDamaged(t, e, w, index); lost > 0 || err != nil {
			t.Errorf("%s: %d keys lost: %v", o.Dir, lost, err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
