package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mutate runs the tool on the sample and returns its report, and what it says
// besides.
func mutate(t *testing.T, args ...string) (report, progress string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = run(context.Background(), append(args, "./testdata/sample"), &out, &errs)
	return out.String(), errs.String(), err
}

// lines returns the lines of s, without those that are empty.
func lines(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
}

func TestSample(t *testing.T) {
	report, progress, err := mutate(t, "-known", "testdata/known.txt", "-timeout-slack", "1s")
	if err == nil || !strings.Contains(err.Error(), "testdata/known.txt:12: Gone: a → b") {
		t.Errorf("the entry that matches nothing: %v", err)
	}
	want := []string{
		"LIVED       testdata/sample/sample.go:16 boundary in Nearly: n > limit-2 → n >= limit-2",
		"            accepted: the test does not go there",
		"LIVED       testdata/sample/sample.go:19 boundary in Almost: n > limit-3 → n >= limit-3",
		"NOT COVERED testdata/sample/sample.go:22 arith in Unreached: a - b → a + b",
		"equivalent  testdata/sample/sample.go:26 boundary in Max: a > b → a >= b",
		"            because of two equal numbers either is the greater one",
		"equivalent  testdata/sample/sample.go:70 boundary in FirstOdd: list[i] < 0 → list[i] <= 0",
		"            because zero is not odd",
		"TestUnfit fails without a mutant (run 1 of 2), and is left out: sample_test.go:113: not without a mutant",
		"testdata/sample: all 46 mutants: 41 found (1 by time), 2 lived (1 accepted), 1 not covered, 2 equivalent: 93.2 % found of what is not equivalent",
	}
	got := lines(report)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("report:\n%s\nwant:\n%s", report, strings.Join(want, "\n"))
		}
	}
	for _, s := range []string{
		"46 mutants (1 more would not compile)",
		"timed out testdata/sample/sample.go:115 assign in Spin: i += 2 → i -= 2 by TestSpin",
		"found testdata/sample/sample.go:33 logic in Both: a() && b() → a() || b() by TestShortCircuit",
		`found testdata/sample/sample.go:56 incdec in (*Counter).Add: c.by["all"]++ → c.by["all"]-- by TestCounter`,
		"found testdata/sample/sample.go:54 remove in (*Counter).Add: defer c.mu.Unlock() → (removed) by TestCounter",
	} {
		if !strings.Contains(progress, s) {
			t.Errorf("it does not say %q:\n%s", s, progress)
		}
	}
}

func TestWrongEntryIsTold(t *testing.T) {
	known := filepath.Join(t.TempDir(), "known.txt")
	if err := os.WriteFile(known, []byte("Full\n\tn >= limit → n > limit\n\tequivalent: so they say\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	report, _, err := mutate(t, "-known", known, "-check-known", "-match", "in Full: .*limit → n >")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(report, "n >= limit → n > limit: said to be equivalent, but TestFull finds it") || !strings.Contains(report, "1 of 46 mutants: 1 found") {
		t.Fatal(report)
	}
}

func TestSampleIsTheSame(t *testing.T) {
	list := func(seed string) string {
		report, _, err := mutate(t, "-list", "-kinds", "negation,arith", "-sample", "5", "-seed", seed)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(lines(report)); n != 6 {
			t.Fatalf("%d lines:\n%s", n, report)
		}
		return report
	}
	one := list("1")
	if again := list("1"); again != one {
		t.Errorf("seed 1:\n%s\nand again:\n%s", one, again)
	}
	if two := list("2"); two == one {
		t.Errorf("seeds 1 and 2 are the same:\n%s", one)
	}
	if strings.Contains(one, "boundary") {
		t.Errorf("of the kinds that were not asked for:\n%s", one)
	}
}

func TestNoMutantsThatChangeNothing(t *testing.T) {
	report, _, err := mutate(t, "-list", "-match", "in Skip|in Await")
	if err != nil {
		t.Fatal(err)
	}
	// Neither the break of Skip, which comes to the same as continue, nor the
	// continue of Await, without which it would have no end, is there.
	if strings.Contains(report, "loop") {
		t.Error(report)
	}
}

func TestMistakesInTheListOfKnown(t *testing.T) {
	for text, want := range map[string]string{
		"\tn < 1 → n <= 1\n":                     "known.txt:1: begin with the name of a function",
		"F\n\tn < 1 → n <= 1\n\tso it is\n":      `known.txt:3: say why, beginning with "equivalent:" or "accepted:"`,
		"F\n\tn < 1 → n <= 1\nG\n\ta → b\n":      "known.txt:1: give the mutant and why it lives",
		"F\n\tn < 1 → n <= 1\n\tequivalent:  \n": "known.txt:1: give the mutant and why it lives",
	} {
		known := filepath.Join(t.TempDir(), "known.txt")
		if err := os.WriteFile(known, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readKnown(known); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestMistakesInFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "name one package"},
		{[]string{"-kinds", "boundary,none", "."}, `no kind is named "none"`},
		{[]string{"-workers", "0", "."}, "give at least 1"},
		{[]string{"-sample", "-1", "."}, "give 0 for all"},
		{[]string{"-match", "(", "."}, "missing closing )"},
	} {
		var out bytes.Buffer
		if err := run(context.Background(), c.args, &out, &out); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.args, err, c.want)
		}
	}
}
