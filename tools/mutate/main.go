// Mutate puts small faults (mutants) into a package, one at a time, and tells
// which of them the package's tests do not notice.
//
// All mutants are compiled into one test binary: each place that can be
// mutated asks whether it is the one that is active. The binary is built once,
// from an overlay, so that nothing in the tree changes. Every test is run
// alone, first without a mutant, to learn how long it takes and what it
// reaches, and then only for mutants that it reaches. docs/mutation.md tells
// the rest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "mutate:", err)
		}
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	pkg        string
	workers    int
	sample     int
	seed       uint64
	kinds      map[kind]bool
	match      *regexp.Regexp
	known      string
	checkKnown bool
	list       bool
	factor     float64
	slack      time.Duration
	budget     time.Duration
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("mutate", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintln(stderr, "usage: mutate [flags] PACKAGE")
		fs.PrintDefaults()
	}
	fs.IntVar(&o.workers, "workers", max(1, runtime.NumCPU()/2), "how many mutants are tried at once")
	fs.IntVar(&o.sample, "sample", 0, "try so many mutants, chosen at random (default all)")
	fs.Uint64Var(&o.seed, "seed", 1, "which random sample; the same seed and source give the same one")
	kinds := fs.String("kinds", strings.Join(allKinds, ","), "kinds of mutants")
	match := fs.String("match", "", "only mutants whose line in the report matches this regular expression")
	fs.StringVar(&o.known, "known", "", "file of known survivors (default tools/mutate/known/<package>.txt in the package's module)")
	fs.BoolVar(&o.checkKnown, "check-known", false, "try known equivalents too, and tell of those that a test finds")
	fs.BoolVar(&o.list, "list", false, "list the mutants and try none")
	fs.Float64Var(&o.factor, "timeout-factor", 4, "a test may take so many times as long as without a mutant, and -timeout-slack more")
	fs.DurationVar(&o.slack, "timeout-slack", 5*time.Second, "see -timeout-factor")
	fs.DurationVar(&o.budget, "budget", 5*time.Minute, "start no further test for a mutant after so long; those left out are named")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() != 1 {
		return o, errors.New("name one package, such as ./internal/grid")
	}
	o.pkg = fs.Arg(0)
	if o.workers < 1 {
		return o, fmt.Errorf("-workers %d: give at least 1", o.workers)
	}
	if o.sample < 0 {
		return o, fmt.Errorf("-sample %d: give 0 for all, or how many", o.sample)
	}
	o.kinds = map[kind]bool{}
	for _, k := range strings.Split(*kinds, ",") {
		if !isKind(k) {
			return o, fmt.Errorf("-kinds: no kind is named %q; there are %s", k, strings.Join(allKinds, ", "))
		}
		o.kinds[kind(k)] = true
	}
	if *match != "" {
		var err error
		if o.match, err = regexp.Compile(*match); err != nil {
			return o, fmt.Errorf("-match: %w", err)
		}
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	p, err := load(ctx, o.pkg)
	if err != nil {
		return err
	}
	if o.known == "" {
		o.known = p.knownFile()
	}
	known, err := readKnown(o.known)
	if err != nil {
		return err
	}
	if err := p.findSites(); err != nil {
		return err
	}
	known.apply(p.sites)
	chosen := choose(p.sites, o)
	if o.list {
		for _, s := range chosen {
			fmt.Fprintln(stdout, s)
		}
		fmt.Fprintf(stdout, "%d mutants of %d\n", len(chosen), len(p.sites))
		return nil
	}
	work, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	t := &trial{o: o, p: p, dir: work, out: stdout, progress: stderr}
	if err := t.build(ctx); err != nil {
		return err
	}
	if err := t.baseline(ctx); err != nil {
		return err
	}
	if err := t.mutants(ctx, chosen); err != nil {
		return err
	}
	return t.report(chosen, known)
}
