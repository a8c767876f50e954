package grid_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/grid"
	"rollcall/internal/store"
)

// impatient is an engine whose caller goes away as soon as a batch is handed
// over, and which takes its time.
type impatient struct {
	store.Engine
	leave atomic.Pointer[context.CancelFunc] // nil: nobody leaves
}

func (e *impatient) Submit(b *store.Batch, done func(store.Result)) {
	leave := e.leave.Swap(nil)
	if leave == nil {
		e.Engine.Submit(b, done)
		return
	}
	(*leave)()
	time.AfterFunc(20*time.Millisecond, func() { e.Engine.Submit(b, done) })
}

// A caller that goes away while its change is being stored does not leave the
// grid with something else than the store has: the change takes its course.
func TestCallerLeavesDuringCommit(t *testing.T) {
	r := newReceiver(t)
	f := newFixture(t)
	engine := &impatient{Engine: f.engine}
	f.engine = engine
	f.start()
	leaving := func() context.Context {
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		engine.leave.Store(&cancel)
		return ctx
	}
	if _, created, err := f.grid.Put(leaving(), source, "hook", properties(r.URL), grid.Condition{}); err != nil || !created {
		t.Fatalf("put: created %v, %v", created, err)
	}
	f.awaitState("hook", grid.Succeeded) // the endpoint was asked
	if s, err := f.grid.Pause(leaving(), source, "hook"); err != nil || !s.Properties.Paused {
		t.Fatalf("pause: %v, paused %v", err, s.Properties.Paused)
	}
	if existed, err := f.grid.Delete(leaving(), source, "hook", grid.Condition{}); err != nil || !existed {
		t.Fatalf("delete: existed %v, %v", existed, err)
	}
	if s, err := f.grid.Get(source, "hook"); err == nil {
		t.Errorf("the deleted subscription is still there: %+v", s)
	}
}
