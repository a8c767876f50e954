package topic

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestTreeSubscribeReplaces(t *testing.T) {
	tree := NewTree[string, int]()
	if _, replaced := tree.Subscribe("a/+", "c", 1); replaced {
		t.Error("the first subscription replaced something")
	}
	if old, replaced := tree.Subscribe("a/+", "c", 2); old != 1 || !replaced {
		t.Errorf("second Subscribe: got %d %v, want 1 true", old, replaced)
	}
	if v, ok := tree.Get("a/+", "c"); v != 2 || !ok {
		t.Errorf("Get: got %d %v, want 2 true", v, ok)
	}
	if got := tree.Match([]byte("a/b"), nil); !slices.Equal(got, []int{2}) {
		t.Errorf("Match: got %v, want [2]", got)
	}
	if tree.Len() != 1 {
		t.Errorf("Len: got %d, want 1", tree.Len())
	}
	if _, ok := tree.Get("a/b", "c"); ok {
		t.Error("Get found a filter that was only matched")
	}
	if _, ok := tree.Unsubscribe("a/b", "c"); ok {
		t.Error("Unsubscribe removed a filter that was not there")
	}
	if _, ok := tree.Unsubscribe("a/+", "d"); ok {
		t.Error("Unsubscribe removed for a key that was not there")
	}
	if old, ok := tree.Unsubscribe("a/+", "c"); old != 2 || !ok {
		t.Errorf("Unsubscribe: got %d %v, want 2 true", old, ok)
	}
	if got := tree.Match([]byte("a/b"), nil); len(got) != 0 {
		t.Errorf("Match after Unsubscribe: got %v", got)
	}
	wantEmpty(t, tree)
}

func TestTreeOverlappingSubscriptionsMatchOnceEach(t *testing.T) {
	tree := NewTree[string, string]()
	for _, f := range []string{"a/b", "a/+", "a/#", "#", "+/b", "a/b/#", "+/+/#", "a/c", "+", "/#"} {
		tree.Subscribe(f, "c", f)
	}
	got := tree.Match([]byte("a/b"), nil)
	slices.Sort(got)
	want := []string{"#", "+/+/#", "+/b", "a/#", "a/+", "a/b", "a/b/#"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// wantEmpty fails unless nothing is left of what was pruned.
func wantEmpty[K comparable, V any](t *testing.T, tree *Tree[K, V]) {
	t.Helper()
	if !tree.root.unused() || len(tree.byKey) != 0 || tree.Len() != 0 || tree.root.few != nil || tree.root.many != nil {
		t.Errorf("the tree is not empty: %d subscriptions, %d keys, root %+v", tree.Len(), len(tree.byKey), tree.root)
	}
}

// randomTopic makes filters and names of few levels from few words, so that
// they meet.
func randomTopic(r *rand.Rand, wildcards bool) string {
	words := []string{"a", "b", "c", "", "$x", "dd"}
	for i := range 12 {
		words = append(words, fmt.Sprint("w", i))
	}
	levels := make([]string, 1+r.IntN(4))
	for i := range levels {
		levels[i] = words[r.IntN(len(words))]
		if wildcards && r.IntN(3) == 0 {
			levels[i] = "+"
		}
	}
	if wildcards && r.IntN(4) == 0 {
		levels[len(levels)-1] = "#"
	}
	s := strings.Join(levels, "/")
	if s == "" {
		return "a"
	}
	return s
}

// TestTreeAgainstModel runs random operations on a tree and on a map.
func TestTreeAgainstModel(t *testing.T) {
	type sub struct {
		filter string
		key    int
	}
	r := rand.New(rand.NewPCG(1, 2))
	tree, model := NewTree[int, int](), map[sub]int{}
	for step := range 20000 {
		s := sub{randomTopic(r, true), r.IntN(30)}
		switch op := r.IntN(20); {
		case op < 10:
			old, was := model[s]
			if got, replaced := tree.Subscribe(s.filter, s.key, step); got != old || replaced != was {
				t.Fatalf("step %d: Subscribe %v: got %d %v, want %d %v", step, s, got, replaced, old, was)
			}
			model[s] = step
		case op < 17:
			old, was := model[s]
			if got, ok := tree.Unsubscribe(s.filter, s.key); got != old || ok != was {
				t.Fatalf("step %d: Unsubscribe %v: got %d %v, want %d %v", step, s, got, ok, old, was)
			}
			delete(model, s)
		case op == 17:
			n := 0
			for m := range model {
				if m.key == s.key {
					delete(model, m)
					n++
				}
			}
			if got := tree.RemoveAll(s.key); got != n {
				t.Fatalf("step %d: RemoveAll: got %d, want %d", step, got, n)
			}
		default:
			name := randomTopic(r, false)
			got := tree.Match([]byte(name), nil)
			var want []int
			for m, v := range model {
				if Match(m.filter, name) {
					want = append(want, v)
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("step %d: Match %q: got %v, want %v", step, name, got, want)
			}
		}
		if tree.Len() != len(model) {
			t.Fatalf("step %d: Len: got %d, want %d", step, tree.Len(), len(model))
		}
	}
	for key := range 30 {
		tree.RemoveAll(key)
	}
	wantEmpty(t, tree)
}

// TestTreeManyUnderOneFilter covers the lists that are long enough for an
// index, and that they give it up again.
func TestTreeManyUnderOneFilter(t *testing.T) {
	tree := NewTree[int, int]()
	const n = 5000
	for i := range n {
		tree.Subscribe("all", i, i)
		tree.Subscribe(fmt.Sprint("own/", i), 0, i)
	}
	if got := len(tree.Match([]byte("all"), nil)); got != n {
		t.Errorf("Match: got %d, want %d", got, n)
	}
	for i := n - 1; i > 0; i -= 2 {
		tree.Unsubscribe("all", i)
	}
	got := tree.Match([]byte("all"), nil)
	slices.Sort(got)
	for i, v := range got {
		if v != 2*i {
			t.Fatalf("after removing the odd ones: got %d at %d", v, i)
		}
	}
	if got := tree.RemoveAll(0); got != n+1 {
		t.Errorf("RemoveAll(0): got %d, want %d", got, n+1)
	}
	for i := range n {
		tree.RemoveAll(i)
	}
	wantEmpty(t, tree)
}

func TestTreeConcurrently(t *testing.T) {
	tree := NewTree[int, int]()
	tree.Subscribe("w/#", -1, -1)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 7))
			for range 2000 {
				tree.Subscribe("w/"+randomTopic(r, true), g, g)
				if r.IntN(50) == 0 {
					tree.RemoveAll(g)
				}
			}
		})
		wg.Go(func() {
			var dst []int
			for range 2000 {
				dst = tree.Match([]byte("w/a/b"), dst[:0])
				if !slices.Contains(dst, -1) {
					t.Errorf("a match missed a subscription that was always there: %v", dst)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestTreeMatchDoesNotAllocate(t *testing.T) {
	tree := benchTree(1000)
	name, dst := []byte("devices/d500/telemetry/temp"), make([]int, 0, 16)
	if n := testing.AllocsPerRun(100, func() { dst = tree.Match(name, dst[:0]) }); n != 0 {
		t.Errorf("Match: %v allocations", n)
	}
	if len(dst) == 0 {
		t.Error("nothing matched")
	}
}

func FuzzTreeMatch(f *testing.F) {
	f.Add("a/+\n#\n$SYS/#\na/b/#", "a/b")
	f.Add("+\n/+\n+/+", "/x")
	f.Add("$SYS/#\n#\n+/a", "$SYS/a")
	f.Add("a//b\na/+/b\na/#", "a//b")
	f.Fuzz(func(t *testing.T, filters, name string) {
		if ValidateName(name, Limits{}) != nil {
			return
		}
		tree, want := NewTree[int, string](), []string{}
		seen := map[string]bool{}
		for i, filter := range strings.Split(filters, "\n") {
			if ValidateFilter(filter, Limits{}) != nil || seen[filter] {
				continue
			}
			seen[filter] = true
			tree.Subscribe(filter, i, filter)
			if Match(filter, name) != Match(filter, []byte(name)) {
				t.Errorf("Match(%q, %q) differs for bytes", filter, name)
			}
			if Match(filter, name) {
				want = append(want, filter)
			}
		}
		got := tree.Match([]byte(name), []string{})
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("name %q: tree %q, Match %q", name, got, want)
		}
		for i := range strings.Count(filters, "\n") + 1 {
			tree.RemoveAll(i)
		}
		wantEmpty(t, tree)
	})
}

func FuzzValidateFilter(f *testing.F) {
	for _, s := range []string{"a/b", "#", "+/#", "a#", "$share/g/a", "$share//", "\xff", "a/\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if ValidateName(s, Limits{}) == nil && !strings.HasPrefix(s, sharePrefix) {
			if err := ValidateFilter(s, Limits{}); err != nil {
				t.Errorf("%q is a name but no filter: %v", s, err)
			}
			if !Match(s, s) {
				t.Errorf("%q does not match itself", s)
			}
		}
		if ValidateFilter(s, Limits{}) == nil {
			if _, _, _, err := ParseShared(s); err != nil {
				t.Errorf("%q is a filter but does not parse: %v", s, err)
			}
		}
	})
}

// benchTree has n devices with one exact subscription each, one with a
// wildcard, and a few that see all of them.
func benchTree(n int) *Tree[int, int] {
	tree := NewTree[int, int]()
	for i := range n / 2 {
		tree.Subscribe(fmt.Sprintf("devices/d%d/telemetry/temp", i), i, i)
		tree.Subscribe(fmt.Sprintf("devices/d%d/commands/#", i), i, i)
	}
	tree.Subscribe("devices/+/telemetry/+", n, n)
	tree.Subscribe("devices/#", n+1, n+1)
	return tree
}

func BenchmarkTreeMatch(b *testing.B) {
	tree := benchTree(100_000)
	for _, bb := range []struct{ name, topic string }{
		{"exact", "devices/d31415/telemetry/temp"},
		{"wildcard", "devices/d31415/commands/reboot/now"},
		{"miss", "other/d31415/x"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				dst, name := make([]int, 0, 8), []byte(bb.topic)
				for pb.Next() {
					dst = tree.Match(name, dst[:0])
				}
			})
		})
	}
}

func BenchmarkTreeChurn(b *testing.B) {
	tree := benchTree(100_000)
	b.ReportAllocs()
	for b.Loop() {
		tree.Subscribe("devices/new/telemetry/temp", -1, 1)
		tree.Subscribe("devices/new/commands/#", -1, 2)
		tree.RemoveAll(-1)
	}
}

// BenchmarkTreeBuild reports the bytes allocated for a subscription as
// B/op divided by 100,000.
func BenchmarkTreeBuild100k(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		benchTree(100_000)
	}
}

func BenchmarkMatch(b *testing.B) {
	for b.Loop() {
		Match("devices/+/telemetry/#", "devices/d31415/telemetry/temp")
	}
}
