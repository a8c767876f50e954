package delay_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/storetest"
)

func TestSuite(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Engine { return delay.New(mem.New(), delay.Options{Seed: 1}) })
}

func put(name string) *store.Batch {
	b := store.NewBatch(store.Normal)
	b.Put([]byte("\x01\x10"+name), []byte(name))
	return b
}

func has(e store.Engine, name string) bool {
	_, _, err := store.Get(e, []byte("\x01\x10"+name))
	return err == nil
}

func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := delay.New(mem.New(), delay.Options{Max: 40 * time.Millisecond, Seed: 4})
		const n = 200
		var shortest, longest time.Duration = time.Hour, 0
		early, known := 0, 0
		for i := range n {
			name := fmt.Sprint(i)
			start := time.Now()
			done := make(chan store.Result)
			e.Submit(put(name), func(r store.Result) { done <- r })
			synctest.Wait()
			if has(e, name) {
				early++ // its first wait may be of no length
			}
		waiting:
			for {
				select {
				case r := <-done:
					if r.Err != nil {
						t.Fatal(r.Err)
					}
					break waiting
				case <-time.After(time.Millisecond):
					if has(e, name) {
						known++ // durable, but not reported yet
					}
				}
			}
			took := time.Since(start)
			shortest, longest = min(shortest, took), max(longest, took)
		}
		if shortest > 10*time.Millisecond || longest < 30*time.Millisecond || longest > 41*time.Millisecond {
			t.Errorf("commits took from %v to %v, want them spread over 0 to 40ms", shortest, longest)
		}
		if early > n/10 {
			t.Errorf("%d of %d batches were visible at once", early, n)
		}
		if known == 0 {
			t.Error("no batch was ever visible before it was reported")
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCloseDoesNotWaitForDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := delay.New(mem.New(), delay.Options{Max: time.Hour})
		reported := 0
		for i := range 10 {
			e.Submit(put(fmt.Sprint(i)), func(store.Result) { reported++ })
		}
		start := time.Now()
		if err := e.Close(); err != nil || reported != 10 || time.Since(start) > 0 {
			t.Errorf("%d outcomes after %v, error %v", reported, time.Since(start), err)
		}
	})
}

func TestFaults(t *testing.T) {
	tests := []struct {
		fault   delay.Fault
		want    error
		applied bool
		known   bool  // Outcome remembers it
		outcome error // then
	}{
		{delay.None, nil, true, true, nil},
		{delay.Conflict, store.ErrConflict, false, true, store.ErrConflict},
		{delay.Full, store.ErrFull, false, true, store.ErrFull},
		{delay.UnknownApplied, store.ErrUnknown, true, true, nil},
		{delay.UnknownLost, store.ErrUnknown, false, false, nil},
	}
	next := delay.None
	e := delay.New(mem.New(), delay.Options{
		Max:   time.Millisecond,
		Fault: func(*store.Batch) delay.Fault { return next },
	})
	defer e.Close()
	for _, test := range tests {
		name := fmt.Sprint("fault ", test.fault)
		next = test.fault
		b := put(name)
		if _, err := store.Commit(t.Context(), e, b); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
		if has(e, name) != test.applied {
			t.Errorf("%s: applied %v, want %v", name, !test.applied, test.applied)
		}
		r, ok, err := e.Outcome(t.Context(), b.ID())
		if err != nil || ok != test.known || !errors.Is(r.Err, test.outcome) || (r.Index > 0) != test.applied {
			t.Errorf("%s: outcome %+v, %v, %v", name, r, ok, err)
		}
	}
}
