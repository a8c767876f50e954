package main

import (
	"fmt"
	"strings"
)

func (r result) String() string {
	switch r {
	case lived:
		return "LIVED"
	case notCovered:
		return "NOT COVERED"
	case failed:
		return "found"
	case timedOut:
		return "timed out"
	case equivalent:
		return "equivalent"
	}
	return "untried"
}

// counts are the figures of a run.
type counts struct {
	all, tried                       int
	found, timedOut, lived, accepted int
	notCovered, equivalent           int
}

// rate is the share of mutants found of those that are no equivalents, in
// percent.
func (c counts) rate() float64 {
	if c.tried == c.equivalent {
		return 100
	}
	return 100 * float64(c.found) / float64(c.tried-c.equivalent)
}

func count(all int, tried []*site) counts {
	c := counts{all: all, tried: len(tried)}
	for _, s := range tried {
		switch s.res {
		case failed:
			c.found++
		case timedOut:
			c.found++
			c.timedOut++
		case lived:
			c.lived++
			if s.known != nil {
				c.accepted++
			}
		case notCovered:
			c.notCovered++
		case equivalent:
			c.equivalent++
		}
	}
	return c
}

// report prints what lived, and the figures. It fails if the list of known
// survivors is not true any more.
func (t *trial) report(tried []*site, k *known) error {
	for _, s := range tried {
		switch {
		case s.res == equivalent:
			fmt.Fprintf(t.out, "equivalent  %s\n            because %s\n", s, s.known.why)
		case (s.res == lived || s.res == notCovered) && s.known != nil:
			fmt.Fprintf(t.out, "%-11s %s\n            accepted: %s\n", s.res, s, s.known.why)
		case s.res == lived || s.res == notCovered:
			fmt.Fprintf(t.out, "%-11s %s\n", s.res, s)
		}
	}
	for _, u := range t.unfit {
		fmt.Fprintln(t.out, u)
	}
	for _, n := range t.notes {
		fmt.Fprintln(t.out, n)
	}
	c := count(len(t.p.sites), tried)
	which := fmt.Sprintf("all %d mutants", c.tried)
	if c.tried < c.all {
		which = fmt.Sprintf("%d of %d mutants", c.tried, c.all)
		if t.o.sample > 0 {
			which += fmt.Sprintf(" (-sample %d -seed %d)", t.o.sample, t.o.seed)
		}
	}
	fmt.Fprintf(t.out, "%s: %s: %d found (%d by time), %d lived (%d accepted), %d not covered, %d equivalent: %.1f %% found of what is not equivalent\n",
		t.p.rel(), which, c.found, c.timedOut, c.lived, c.accepted, c.notCovered, c.equivalent, c.rate())
	stale := k.stale()
	if len(stale) == 0 {
		return nil
	}
	var b strings.Builder
	for _, e := range stale {
		fmt.Fprintf(&b, "\n%s:%d: %s: %s", k.file, e.line, e.fn, e.text)
	}
	return fmt.Errorf("these entries match no mutant; mend or remove them:%s", b.String())
}
