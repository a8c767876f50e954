package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// result is what became of a mutant.
type result int

const (
	untried    result = iota
	lived             // every test that reaches it passed
	notCovered        // no test reaches it
	failed            // found: a test failed
	timedOut          // found: a test did not end
	equivalent        // known to be no fault
)

// test is a top-level test that passes without a mutant.
type test struct {
	name    string
	took    time.Duration // the longer of two runs
	reaches []byte        // by site number
}

// trial builds the instrumented tests and runs them.
type trial struct {
	o        options
	p        *pkg
	dir      string // for what is built and written
	out      io.Writer
	progress io.Writer

	binary string
	tests  []*test  // fastest first
	unfit  []string // tests that fail without a mutant, and how
	mu     sync.Mutex
	notes  []string // what a reader of the figures has to know
}

// build compiles the package's tests with all mutants in them.
func (t *trial) build(ctx context.Context) error {
	replace := map[string]string{}
	write := func(path string, text []byte) error {
		to := filepath.Join(t.dir, fmt.Sprintf("%d.go", len(replace)))
		replace[path] = to
		return os.WriteFile(to, text, 0o600)
	}
	for _, f := range t.p.files {
		if err := write(f.path, instrument(f, t.p.sites)); err != nil {
			return err
		}
	}
	if err := write(filepath.Join(t.p.dir, helperFile), t.p.helpers()); err != nil {
		return err
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	overlay := filepath.Join(t.dir, "overlay.json")
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		return err
	}
	t.binary = filepath.Join(t.dir, "test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", t.binary, ".")
	cmd.Dir = t.p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the instrumented tests of %s: %w\n%s", t.p.path, err, out)
	}
	if _, err := os.Stat(t.binary); err != nil {
		return fmt.Errorf("%s has no tests", t.p.path)
	}
	return nil
}

// baselineLimit is how long a test may take without a mutant.
const baselineLimit = 10 * time.Minute

// baseline runs each test alone, twice, without a mutant: how long it takes,
// what it reaches, and whether it can be relied on.
func (t *trial) baseline(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, t.binary, "-test.list", ".*")
	cmd.Dir = t.p.dir
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("list the tests of %s: %w", t.p.path, err)
	}
	var names []string
	for _, name := range strings.Fields(string(out)) {
		if strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz") || strings.HasPrefix(name, "Example") {
			names = append(names, name)
		}
	}
	found := make([]*test, len(names))
	begun := time.Now()
	err = t.each(ctx, len(names), func(ctx context.Context, i int) error {
		tt := &test{name: names[i], reaches: make([]byte, len(t.p.sites)+1)}
		for n := range 2 {
			reach := filepath.Join(t.dir, fmt.Sprintf("reach-%d", i))
			if err := os.WriteFile(reach, make([]byte, len(t.p.sites)+1), 0o600); err != nil {
				return err
			}
			r, err := t.runTest(ctx, names[i], 0, reach, baselineLimit)
			if err != nil {
				return err
			}
			if r.res != lived {
				t.mu.Lock()
				t.unfit = append(t.unfit, fmt.Sprintf("%s fails without a mutant (run %d of 2), and is left out: %s", names[i], n+1, r.tail))
				t.mu.Unlock()
				return nil
			}
			tt.took = max(tt.took, r.took)
			b, err := os.ReadFile(reach)
			if err != nil {
				return err
			}
			for j := range b {
				tt.reaches[j] |= b[j]
			}
		}
		found[i] = tt
		return nil
	})
	if err != nil {
		return err
	}
	var all time.Duration
	for _, tt := range found {
		if tt != nil {
			t.tests = append(t.tests, tt)
			all += tt.took
		}
	}
	slices.SortStableFunc(t.tests, func(a, b *test) int { return int(a.took - b.took) })
	slices.Sort(t.unfit)
	fmt.Fprintf(t.progress, "%s: %d mutants (%d more would not compile), %d tests of %s together; run twice in %s\n",
		t.p.rel(), len(t.p.sites), t.p.dropped, len(t.tests), all.Round(time.Millisecond), time.Since(begun).Round(time.Second))
	for _, s := range t.unfit {
		fmt.Fprintln(t.progress, s)
	}
	return nil
}

// each calls f for 0 to n-1, as many at once as there are workers, until one
// fails.
func (t *trial) each(ctx context.Context, n int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range t.o.workers {
		wg.Go(func() {
			for i := range next {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
feed:
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

// mutants tries each of sites.
func (t *trial) mutants(ctx context.Context, sites []*site) error {
	begun, done := time.Now(), 0
	return t.each(ctx, len(sites), func(ctx context.Context, i int) error {
		s := sites[i]
		by, err := t.mutant(ctx, s)
		if err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		done++
		fmt.Fprintf(t.progress, "%d/%d after %s: %s %s%s\n", done, len(sites), time.Since(begun).Round(time.Second), s.res, s, by)
		return nil
	})
}

// mutant runs the tests that reach s, the fastest first, until one fails. It
// returns which one did.
func (t *trial) mutant(ctx context.Context, s *site) (string, error) {
	known := s.known != nil && s.known.equivalent
	if known && !t.o.checkKnown {
		s.res = equivalent
		return "", nil
	}
	s.res = notCovered
	begun := time.Now()
	for i, tt := range t.tests {
		if tt.reaches[s.id] == 0 {
			continue
		}
		if time.Since(begun) > t.o.budget {
			var left []string
			for _, tt := range t.tests[i:] {
				if tt.reaches[s.id] != 0 {
					left = append(left, tt.name)
				}
			}
			t.note("%s: not run, since -budget was spent: %s", s, strings.Join(left, ", "))
			break
		}
		limit := time.Duration(float64(tt.took)*t.o.factor) + t.o.slack
		r, err := t.runTest(ctx, tt.name, s.id, "", limit)
		if err != nil {
			return "", err
		}
		s.res = r.res
		if r.res != lived {
			if known {
				t.note("%s: said to be equivalent, but %s finds it", s, tt.name)
			}
			return " by " + tt.name, nil
		}
	}
	if known {
		s.res = equivalent
	}
	return "", nil
}

func (t *trial) note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

// outcome is how one run of one test ended.
type outcome struct {
	res  result // lived, failed or timedOut
	took time.Duration
	tail string // the first line that tells of a failure
}

// maxResident is the memory at which a test is ended, as one that does not end
// on its own: an endless loop may allocate.
const maxResident = 4 << 30

// runTest runs one test in a process of its own, in the package's directory,
// with the mutant whose number is given (0: none).
func (t *trial) runTest(ctx context.Context, name string, mutant int, reach string, limit time.Duration) (outcome, error) {
	tmp, err := os.MkdirTemp(t.dir, "tmp")
	if err != nil {
		return outcome{}, err
	}
	defer os.RemoveAll(tmp)
	run, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(run, t.binary, "-test.run", "^"+name+"$", "-test.failfast", "-test.paniconexit0", "-test.timeout", "0")
	cmd.Dir = t.p.dir
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "PWD="+t.p.dir, envActive+"="+strconv.Itoa(mutant), envReach+"="+reach)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// The test may have started processes of its own.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return outcome{}, fmt.Errorf("start %s: %w", name, err)
	}
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				if resident(cmd.Process.Pid) > maxResident {
					cancel()
				}
			}
		}
	})
	err = cmd.Wait()
	close(stop)
	watch.Wait()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // what the test left behind, if anything
	if ctx.Err() != nil {
		return outcome{}, context.Cause(ctx)
	}
	r := outcome{res: lived, took: time.Since(begun)}
	var exit *exec.ExitError
	switch {
	case run.Err() != nil:
		r.res, r.tail = timedOut, fmt.Sprintf("not done after %s", r.took.Round(time.Millisecond))
	case errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay):
		r.res, r.tail = failed, firstFailure(out.String())
	case err != nil:
		return outcome{}, fmt.Errorf("run %s: %w", name, err)
	}
	return r, nil
}

// resident is the memory that a process has, where the system tells it in
// /proc.
func resident(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(f[1])
	return pages * os.Getpagesize()
}

func firstFailure(out string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(line, "_test.go:") || strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
			return strings.TrimSpace(line)
		}
	}
	return "no word"
}
