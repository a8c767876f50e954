package broker

import (
	"slices"
	"sync"
	"testing"

	"rollcall/internal/task"
)

// TestLoaderOrder: who resumes goes before what waits, a job that takes long lets
// other partitions have their turn between its steps, and the jobs of a partition
// are done one after the other, also after one that fails.
func TestLoaderOrder(t *testing.T) {
	var group task.Group
	faults := 0
	l := loader{fault: func(any) { faults++ }, work: &group, queues: make([][]loadJob, 4)}
	var mu sync.Mutex
	var order []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, s)
	}
	steps := 0
	l.submitSteps(0, func() bool {
		steps++
		note("long")
		if steps == 1 {
			l.submit(0, func() { note("behind"); panic("a fault") })
			l.submit(0, func() { note("last") })
			l.submit(2, func() { note("other") })
			l.goFirst(func() { note("resume") })
		}
		return steps < 4
	})
	group.Wait()
	want := []string{"long", "resume", "other", "long", "long", "long", "behind", "last"}
	if !slices.Equal(order, want) || faults != 1 || l.running || l.waiting != 0 {
		t.Errorf("%v with %d faults, running %v, %d waiting; want %v", order, faults, l.running, l.waiting, want)
	}
}
