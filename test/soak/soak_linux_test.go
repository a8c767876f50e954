// Package soak lets a server work for a while on a bit of everything, and sees
// that it takes no more of its machine in the end than in the beginning.
// ROLLCALL_SOAK says for how long; make soak does it for half an hour.
package soak

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/servertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	servertest.CleanUp()
	os.Exit(code)
}

// settings keep little history, so that its size is steady soon, and few
// connections to the receiver: those of a burst stay for a while, idle.
const settings = `
mqtt: {connectTimeout: 5s}
ledger: {age: 1m, bytes: 16777216}
delivery: {maxInFlight: 8, retention: {age: 1m, bytes: 16777216}}
storage: {lowWater: 67108864, reserve: 16777216}
log: {level: warn}
`

const (
	short = 6 * time.Second  // of a run that only sees that everything works
	long  = 10 * time.Minute // from which on growth is judged

	// warm is how many commits fill what has a bound: the outcomes that the
	// store remembers (the last 131,072 at most), its tables in memory (8 MiB
	// each) and its cache of blocks (8 MiB).
	warm = 2 * 131072
)

// sample is what the server took at a moment.
type sample struct {
	commits                 int64 // that the store had made by then
	resident                int64 // bytes
	live                    int64 // bytes of the heap that the last collection left
	goroutines, descriptors int
}

// measures are what must not grow. An allowance is for what moves: tables in
// memory are on the heap, mostly one, at times two. In ten minutes a leak of a
// tenth of what the messages hold is three times that of the heap.
var measures = []struct {
	what      string
	of        func(s sample) int64
	allowance int64 // beyond a twentieth
}{
	{"resident bytes", func(s sample) int64 { return s.resident }, 8 << 20},
	{"live bytes of the heap", func(s sample) int64 { return s.live }, 2 << 20},
	{"goroutines", func(s sample) int64 { return int64(s.goroutines) }, 20},
	{"descriptors", func(s sample) int64 { return int64(s.descriptors) }, 20},
}

// thirds returns the first and the last third of the samples since everything
// that has a bound was full, but not of the first quarter.
func thirds(all []sample) (first, last []sample) {
	full := slices.IndexFunc(all, func(s sample) bool { return s.commits >= warm })
	if full < 0 {
		return nil, nil
	}
	all = all[max(full, len(all)/4):]
	n := len(all) / 3
	return all[:n], all[len(all)-n:]
}

// grown says what the last third takes more than the first, by their medians,
// beyond what is allowed.
func grown(all []sample) (found []string) {
	first, last := thirds(all)
	if len(first) < 10 {
		return []string{fmt.Sprintf("too few samples to judge by: %d of %d since the server was warm", 3*len(first), len(all))}
	}
	for _, m := range measures {
		was, is := median(first, m.of), median(last, m.of)
		if is > was+was/20+m.allowance {
			found = append(found, fmt.Sprintf("%s grew from %d to %d", m.what, was, is))
		}
	}
	return found
}

func median(all []sample, of func(sample) int64) int64 {
	vs := make([]int64, len(all))
	for i, s := range all {
		vs[i] = of(s)
	}
	slices.Sort(vs)
	return vs[len(vs)/2]
}

// TestGrown: what grows is found, what only moves is not.
func TestGrown(t *testing.T) {
	const samples = 120
	series := func(edit func(k int64, s *sample)) (all []sample) {
		for k := range int64(samples) {
			s := sample{
				commits: k * 4 * warm / samples, resident: 100<<20 + (k%7)<<20, live: 30<<20 + (k%4/3)<<23,
				goroutines: int(60 + k%7), descriptors: int(70 + k%5),
			}
			edit(k, &s)
			all = append(all, s)
		}
		return all
	}
	// What ten minutes of 4,000 messages a second leave from one sample to the
	// next if a tenth of their 110 bytes is forgotten.
	const leak = 10 * 60 * 4000 * 11 / samples
	for _, tc := range []struct {
		name string
		edit func(k int64, s *sample)
		want []string
	}{
		{"nothing grows", func(int64, *sample) {}, nil},
		{"caches fill", func(k int64, s *sample) { s.resident -= max(0, samples/4-k) << 20 }, nil},
		{"the heap leaks", func(k int64, s *sample) { s.live += k * leak }, []string{"live bytes"}},
		{"something else leaks", func(k int64, s *sample) { s.resident += k * 3 * leak / 2 }, []string{"resident bytes"}},
		{"goroutines stay", func(k int64, s *sample) { s.goroutines += int(k) }, []string{"goroutines"}},
		{"descriptors stay", func(k int64, s *sample) { s.descriptors += int(k) }, []string{"descriptors"}},
		{"little was done", func(_ int64, s *sample) { s.commits /= 5 }, []string{"too few samples"}},
		{"it was warm late", func(_ int64, s *sample) { s.commits = s.commits * 3 / 10 }, []string{"too few samples"}},
	} {
		found := grown(series(tc.edit))
		if len(found) != len(tc.want) || len(found) > 0 && !strings.Contains(found[0], tc.want[0]) {
			t.Errorf("%s: it says %q, want %q", tc.name, found, tc.want)
		}
	}
	if found := grown(nil); len(found) == 0 {
		t.Error("nothing was measured, and it says nothing")
	}
}

// TestSoak runs half the load that the machine could bear.
func TestSoak(t *testing.T) {
	duration := short
	if text := os.Getenv("ROLLCALL_SOAK"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil || duration < time.Second {
			t.Fatalf("ROLLCALL_SOAK is %q, not a time of at least 1s", text)
		}
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "rollcall.yaml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	p := servertest.StartProcess(t, filepath.Join(dir, "data"), "--config", file,
		"--mqtt", "127.0.0.1:0", "--mqtts", "127.0.0.1:0", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0")
	defer p.Kill()
	rc := servertest.NewReceiver(t)
	if err := servertest.Subscribe(t.Context(), p.Info, "one", rc.URL, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	l := &load{info: p.Info, tls: servertest.TLS(t, p.Info), done: map[string]int{}}
	var wg sync.WaitGroup
	l.start(ctx, t, &wg)
	var samples []sample
	tick := time.NewTicker(max(duration/120, 250*time.Millisecond))
	defer tick.Stop()
	received := 0
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			continue
		}
		u, err := servertest.Observe(p.PID())
		if err != nil {
			t.Fatal(err)
		}
		m, err := servertest.Metrics(t.Context(), p.Info)
		if err != nil {
			t.Fatal(err)
		}
		samples = append(samples, sample{
			commits: int64(m["rollcall_store_batches_total"]), resident: u.Resident, live: live(m),
			goroutines: int(m["go_goroutines"]), descriptors: u.Descriptors,
		})
		received += len(rc.Deliveries())
		rc.Reset() // or this process grows
	}
	wg.Wait()
	if len(samples) == 0 {
		t.Fatal("nothing was measured")
	}
	report(t, samples)
	t.Logf("%s; events delivered: %d", l, received)
	for _, kind := range kinds {
		if l.count(kind) == 0 {
			t.Errorf("no %s in %s", kind, duration)
		}
	}
	if received == 0 {
		t.Error("no event was delivered")
	}
	if duration >= long {
		for _, text := range grown(samples) {
			t.Error(text)
		}
	}
}

// report logs what the server took.
func report(t *testing.T, samples []sample) {
	t.Helper()
	first, last, when := samples[:1], samples[len(samples)-1:], "at first"
	if a, b := thirds(samples); len(a) > 0 {
		first, last, when = a, b, fmt.Sprintf("after %d of %d samples", len(samples)-3*len(a), len(samples))
	}
	for _, m := range measures {
		if median(first, m.of) == 0 {
			t.Errorf("%s: not measured", m.what)
		}
		t.Logf("%s: %d %s, %d at the end", m.what, median(first, m.of), when, median(last, m.of))
	}
	t.Logf("%d commits", samples[len(samples)-1].commits)
}

// live is what the last collection left on the heap: the next one is due when
// that has grown by the percentage that the collector is set to.
func live(m map[string]float64) int64 {
	return int64(m["go_memstats_next_gc_bytes"] / (1 + m["go_gc_gogc_percent"]/100))
}
