package registry

import (
	"slices"
	"testing"

	"rollcall/internal/fault"
)

// Mistakes in attributes are reported in the same order every time.
func TestAttributeMistakesAreInOrder(t *testing.T) {
	r := open(t, Options{})
	attributes := map[string]any{}
	var want []string
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		attributes[name] = 1.5
		want = append(want, "properties.attributes."+name)
	}
	_, _, err := r.PutClient(t.Context(), "thermostat", ClientSpec{Attributes: attributes}, Condition{})
	f, ok := fault.As(err)
	if !ok {
		t.Fatalf("got %v, want mistakes", err)
	}
	var got []string
	for _, d := range f.Details {
		got = append(got, d.Target)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got mistakes at %q, want %q", got, want)
	}
}
