// Command bench measures the whole system as its users meet it: the built
// binary, a webhook receiver and the load each in a process of their own, over
// loopback, with durable writes. Each figure is repeated and printed as the
// median with the least and the greatest value. Absolute rates belong to the
// machine; CPU per operation, ratios to what else runs in the same minute and
// memory travel better. docs/performance.md says what the figures mean.
//
// Everything is bounded in count and time, listens on free ports of loopback
// only, and ends only the processes that it started.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// run is main without the process. The first argument receiver or post makes
// this process one of the others; peers measures brokers side by side.
func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "receiver":
			return serveReceiver(in, out)
		case "post":
			return postForever(ctx, args[1:], out)
		case "peers":
			return runVersus(ctx, args[1:], out)
		}
	}
	s, err := parse(args)
	if err != nil {
		return err
	}
	return measure(ctx, s, out)
}

// settings are what the flags say.
type settings struct {
	binary string
	dir    string
	json   string
	only   map[string]bool // empty: every scenario
	reps   int
	scale  float64 // of all counts and durations of load
	settle time.Duration
	limit  time.Duration
}

// scenarios in the order in which they run.
var scenarios = []struct {
	name, about string
	run         func(context.Context, *bench) error
}{
	{"size", "size of the binary", size},
	{"startup", "time until ready: first start, clean restart, after a crash", startup},
	{"memory", "resident memory when idle and for each idle connection", memory},
	{"connects", "durable connects per second and CPU for each, beside mosquitto", connects},
	{"latency", "from commit to webhook POST at 500 transitions/s", latency},
	{"delivery", "webhook deliveries per second beside a bare client and wrk", deliveries},
}

func parse(args []string) (*settings, error) {
	s := &settings{only: map[string]bool{}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	var only string
	f.StringVar(&only, "only", "", "comma-separated `scenarios` (default: all)")
	f.StringVar(&s.binary, "binary", "", "`file` to measure (default: one built from this tree)")
	f.StringVar(&s.dir, "dir", "", "`directory` for the data, on the disk to measure (default: a temporary one)")
	f.StringVar(&s.json, "json", "", "write every value to `file` too")
	f.IntVar(&s.reps, "reps", 3, "repetitions of each scenario, 1 to 100")
	f.Float64Var(&s.scale, "scale", 1, "factor on the amount of load, 0.01 to 10")
	f.DurationVar(&s.settle, "settle", 10*time.Second, "rest before memory is read")
	f.DurationVar(&s.limit, "limit", 20*time.Minute, "bound of the whole run")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "Usage: go run ./bench [flags]\n       go run ./bench peers [flags]    measure brokers side by side\n\nScenarios:")
		for _, sc := range scenarios {
			fmt.Fprintf(f.Output(), "  %-10s %s\n", sc.name, sc.about)
		}
		fmt.Fprintln(f.Output(), "\nFlags:")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case s.reps < 1 || s.reps > 100:
		return nil, fmt.Errorf("-reps: %d is not between 1 and 100", s.reps)
	case !(s.scale >= 0.01 && s.scale <= 10):
		return nil, fmt.Errorf("-scale: %v is not between 0.01 and 10", s.scale)
	case s.settle < 0 || s.limit <= 0:
		return nil, errors.New("-settle and -limit are not negative")
	}
	known := map[string]bool{}
	for _, sc := range scenarios {
		known[sc.name] = true
	}
	for name := range strings.SplitSeq(only, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if !known[name] {
			return nil, fmt.Errorf("-only: there is no scenario %q", name)
		}
		s.only[name] = true
	}
	return s, nil
}

// bench is one run.
type bench struct {
	*settings
	out    io.Writer
	report report
	count  int // data directories made
}

// scaled is n times the scale, at least one.
func (b *bench) scaled(n int) int { return max(1, int(float64(n)*b.scale)) }

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }

// data names a fresh data directory.
func (b *bench) data() string {
	b.count++
	return filepath.Join(b.dir, fmt.Sprintf("data-%02d", b.count))
}

func measure(ctx context.Context, s *settings, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	dir, err := os.MkdirTemp(s.dir, "rollcall-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s.dir = dir
	b := &bench{settings: s, out: out}
	if s.binary == "" {
		s.binary = filepath.Join(dir, "rollcall")
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", s.binary, "rollcall/cmd/rollcall")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build: %w\n%s", err, text)
		}
	}
	b.report.Machine = machine()
	b.say("%s\n", b.report.Machine)
	began := time.Now()
	for _, sc := range scenarios {
		if len(s.only) > 0 && !s.only[sc.name] {
			continue
		}
		b.report.begin(sc.name, sc.about, loadAverage())
		b.say("%s: %s (load average %s)", sc.name, sc.about, loadAverage())
		if err := sc.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", sc.name, err)
		}
		b.report.table(out, sc.name)
	}
	b.say("%d s in all; load average at the end %s", int(time.Since(began).Seconds()), loadAverage())
	if s.json != "" {
		return b.report.write(s.json)
	}
	return nil
}
