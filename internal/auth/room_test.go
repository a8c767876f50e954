package auth

import (
	"errors"
	"runtime"
	"testing"
)

// While a password is hashed the scheduler has a processor for that and one for
// the collector beside those for everybody else; afterwards it has what it had.
func TestHashesLeaveProcessorsToOthers(t *testing.T) {
	h, err := NewHasher(HasherOptions{Parallel: 1})
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.GOMAXPROCS(0)
	for range 2 { // the second time shows that the first gave all back
		over := make(chan int)
		h.Submit(Check{Still: func() error { return errors.New("unwanted") }}, func(bool, error) { over <- runtime.GOMAXPROCS(0) })
		if n := <-over; n != before+2 {
			t.Errorf("%d processors while one hashes, %d before; want %d", n, before, before+2)
		}
		for runtime.GOMAXPROCS(0) != before { // the hasher's goroutine is about to end
			runtime.Gosched()
		}
	}
}
