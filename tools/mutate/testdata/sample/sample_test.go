package sample_test

import (
	"log/slog"
	"os"
	"testing"

	"rollcall/tools/mutate/testdata/sample"
)

func TestFull(t *testing.T) {
	if sample.Full(9) || !sample.Full(10) || !sample.Full(11) {
		t.Fatal("full is 10 and more")
	}
}

func TestNearly(t *testing.T) {
	if sample.Nearly(1) || !sample.Nearly(9) || sample.Almost(1) || !sample.Almost(9) {
		t.Fatal("nearly full is 9 and more")
	}
}

func TestMax(t *testing.T) {
	if sample.Max(1, 2) != 2 || sample.Max(2, 1) != 2 || sample.Max(3, 3) != 3 {
		t.Fatal("not the greater one")
	}
}

func TestShortCircuit(t *testing.T) {
	asked := 0
	say := func(b bool) func() bool { return func() bool { asked++; return b } }
	for _, c := range []struct {
		f      func(a, b func() bool) bool
		a, b   bool
		want   bool
		asking int
	}{
		{sample.Both, true, true, true, 2},
		{sample.Both, true, false, false, 2},
		{sample.Both, false, true, false, 1},
		{sample.Either, false, true, true, 1},
		{sample.Either, true, false, false, 2},
		{sample.Either, true, true, true, 3},
	} {
		asked = 0
		if got := c.f(say(c.a), say(c.b)); got != c.want || asked != c.asking {
			t.Fatalf("%v, %v: %v after asking %d times", c.a, c.b, got, asked)
		}
	}
}

func TestCounter(t *testing.T) {
	c := sample.NewCounter(slog.New(slog.DiscardHandler))
	for range 2 {
		asked := 0
		c.Add(func() string { asked++; return "a" }, 3)
		if asked != 1 {
			t.Fatalf("asked for the key %d times", asked)
		}
	}
	if by, all := c.Counts(); by["a"] != 6 || by["all"] != 2 || all != [2]uint8{254, 4} {
		t.Fatal(by, all)
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct{ x, want uint8 }{{0b1011, 0b1100}, {0b0001, 0b0100}, {0xff, 0xc1}, {0b100, 0b101}} {
		if got := sample.Flags(c.x, 2); got != c.want {
			t.Fatalf("%b: %b, want %b", c.x, got, c.want)
		}
	}
}

func TestFirstOdd(t *testing.T) {
	if odd, seen := sample.FirstOdd([]int{2, -1, 0, 3, 5, 6}); odd != 3 || seen != 4 {
		t.Fatal(odd, seen)
	}
	if odd, seen := sample.FirstOdd([]int{2}); odd != -1 || seen != 1 {
		t.Fatal(odd, seen)
	}
}

func TestAwait(t *testing.T) {
	c := make(chan int, 2)
	c <- 0
	c <- 2
	if n := sample.Await(c); n != -2 {
		t.Fatal(n)
	}
}

func TestCheck(t *testing.T) {
	if odd, f := sample.Check(sample.ErrOdd, 2); !odd || f != 5 {
		t.Fatal(odd, f)
	}
}

func TestSkip(t *testing.T) {
	if n := sample.Skip([]int{1, 2, 3}); n != 1 {
		t.Fatal(n)
	}
}

func TestSpin(t *testing.T) {
	if n := sample.Spin(4); n != 2 {
		t.Fatal(n)
	}
}

// TestUnfit passes by itself and fails in the hands of the tool.
func TestUnfit(t *testing.T) {
	if _, ok := os.LookupEnv("ROLLCALL_MUTANT"); ok {
		t.Fatal("not without a mutant")
	}
	sample.Unreached(1, 2)
}
