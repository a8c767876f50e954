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

// settings keep little history, so that its size is steady soon.
const settings = `
mqtt: {connectTimeout: 5s}
ledger: {age: 1m, bytes: 16777216}
storage: {lowWater: 67108864, reserve: 16777216}
log: {level: warn}
`

const (
	short = 6 * time.Second  // of a run that only sees that everything works
	long  = 10 * time.Minute // from which on growth is judged
)

// sample is what the server took at a moment.
type sample struct {
	resident                int64 // bytes
	goroutines, descriptors int
}

// grown says what the last third of samples takes more than the first, by
// their medians, beyond a tenth and a fixed allowance. The first quarter does
// not count: caches, memory tables and the list of recent outcomes fill.
func grown(all []sample) (found []string) {
	all = all[len(all)/4:]
	third := len(all) / 3
	if third == 0 {
		return []string{"there are too few samples"}
	}
	for _, m := range []struct {
		what      string
		of        func(s sample) int64
		allowance int64
	}{
		{"resident bytes", func(s sample) int64 { return s.resident }, 16 << 20},
		{"goroutines", func(s sample) int64 { return int64(s.goroutines) }, 20},
		{"descriptors", func(s sample) int64 { return int64(s.descriptors) }, 20},
	} {
		first, last := median(all[:third], m.of), median(all[len(all)-third:], m.of)
		if last > first+first/10+m.allowance {
			found = append(found, fmt.Sprintf("%s grew from %d to %d", m.what, first, last))
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
	series := func(step int64) (all []sample) {
		for k := range int64(90) {
			all = append(all, sample{resident: 200<<20 + k*step<<20 + (k%7)<<20, goroutines: int(300 + k*step + k%7), descriptors: int(400 + k*step)})
		}
		return all
	}
	if found := grown(series(0)); len(found) != 0 {
		t.Errorf("nothing grows, and it says %q", found)
	}
	if found := grown(series(2)); len(found) != 3 {
		t.Errorf("everything grows, and it says %q", found)
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
		samples = append(samples, sample{u.Resident, int(m["go_goroutines"]), u.Descriptors})
		received += len(rc.Deliveries())
		rc.Reset() // or this process grows
	}
	wg.Wait()
	if len(samples) == 0 || samples[0].goroutines == 0 {
		t.Fatal("nothing was measured")
	}
	third := samples[:max(1, len(samples)/3)]
	end := samples[len(samples)-len(third):]
	for _, m := range []struct {
		what string
		of   func(sample) int64
	}{
		{"KiB resident", func(s sample) int64 { return s.resident >> 10 }},
		{"goroutines", func(s sample) int64 { return int64(s.goroutines) }},
		{"descriptors", func(s sample) int64 { return int64(s.descriptors) }},
	} {
		t.Logf("%s: median %d in the first third, %d in the last", m.what, median(third, m.of), median(end, m.of))
	}
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
