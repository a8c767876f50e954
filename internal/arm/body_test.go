package arm

import (
	"runtime"
	"strings"
	"testing"
)

func TestDuplicateMembers(t *testing.T) {
	for body, want := range map[string]string{
		`{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}`: "",
		`{"":1,"a":{"":{"":[]}},"b":[[],{}]}`:       "",
		`[[1,"a","a"],{"a":"a"}]`:                   "",
		`"a"`:                                       "",
		`{"a":1,"a":2}`:                             "a",
		`{"p":{"q":[{},[{"x":{},"y":[],"x":1}]]}}`:  "p.q[][].x",
		`{"a":{"a":{}},"a":1}`:                      "a",
	} {
		if path, twice := duplicate([]byte(body)); path != want || twice != (want != "") {
			t.Errorf("%s: %q %v, want %q", body, path, twice, want)
		}
	}
}

// A body that is as large and as deep as it may be takes memory in proportion to
// its size.
func TestDuplicateOfDeepBodyIsCheap(t *testing.T) {
	const depth = 9000
	body := strings.Repeat(`{"`+strings.Repeat("x", 100)+`":`, depth) + "1" + strings.Repeat("}", depth)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if path, twice := duplicate([]byte(body)); twice {
		t.Errorf("%.40q is there twice", path)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("%d bytes were allocated for a body of %d", n, len(body))
	}
}
