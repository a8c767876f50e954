// Package sample has mutants of every kind, and tests that find most of them.
package sample

import (
	"errors"
	"log/slog"
	"sync"
)

const limit = 10

// Full is found whichever way it is mutated.
func Full(n int) bool { return n >= limit }

// Nearly lives when its bound moves: the test does not go there.
func Nearly(n int) bool { return n > limit-2 }

// Almost lives when its bound moves, and nobody has said why.
func Almost(n int) bool { return n > limit-3 }

// Unreached is called by no test.
func Unreached(a, b int) int { return a - b }

// Max is as good with >= as with >.
func Max(a, b int) int {
	if a > b {
		return a
	}
	return b
}

// Both must not ask the second when the first decides.
func Both(a, b func() bool) bool { return a() && b() }

// Either must not ask the second when the first decides.
func Either(a, b func() bool) bool {
	if !a() || b() && a() {
		return true
	}
	return false
}

// Counter updates variables, elements and maps.
type Counter struct {
	mu  sync.Mutex
	by  map[string]int64
	all [2]uint8
	log *slog.Logger
}

// Add counts, evaluating key once.
func (c *Counter) Add(key func() string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[key()] += n
	c.by["all"]++
	c.all[1] += 2
	c.all[0]--
	c.log.Info("counted")
}

// Flags mixes bit operations of a small type.
func Flags(x uint8, n int) uint8 { return (x|1<<2)&^1 ^ x>>n }

// FirstOdd leaves its loop early.
func FirstOdd(list []int) (odd, seen int) {
	odd = -1
	for i := 0; i < len(list); i++ {
		seen++
		if list[i] < 0 {
			continue
		}
		if list[i]%2 == 1 {
			odd = list[i]
			break
		}
	}
	return odd, seen
}

// Await ends only by what it receives: a break in it would not compile.
func Await(c <-chan int) int {
	for {
		n := <-c
		if n == 0 {
			continue
		}
		return -n
	}
}

// ErrOdd is what Check answers.
var ErrOdd = errors.New("odd" + " number")

// Check compares an error and adds floats.
func Check(err error, f float64) (bool, float64) { return err == ErrOdd, f*2 + 1 }

// Skip counts what is neither 1 nor 2. Its break comes to the same as continue.
func Skip(list []int) (n int) {
	for _, i := range list {
		switch i {
		case 1:
			break
		case 2:
			continue
		default:
			n++
		}
	}
	return n
}

// Spin ends at once; with its step reversed it would not.
func Spin(n uint) (steps int) {
	for i := uint(0); i != n; i += 2 {
		steps++
	}
	return steps
}
