package stored

import (
	"context"
	"errors"
	"sync"
	"time"

	"rollcall/internal/store"
)

// outcomePatience bounds how long an outcome is asked for.
const outcomePatience = 10 * time.Second

// commit submits b and reports its outcome, as certain as it can be had.
func (st *Store) commit(b *store.Batch, settled func(store.Result)) {
	id := b.ID()
	st.engine.Submit(b, func(r store.Result) {
		if !errors.Is(r.Err, store.ErrUnknown) {
			settled(r)
			return
		}
		st.work.Go(func() { settled(st.resolve(id, r)) })
	})
}

// resolve asks what became of a batch that the engine did not know about.
func (st *Store) resolve(id store.ID, r store.Result) store.Result {
	ctx, cancel := context.WithTimeout(context.Background(), outcomePatience)
	defer cancel()
	if known, ok, err := st.engine.Outcome(ctx, id); err == nil && ok {
		return known
	}
	return r
}

// tasks are goroutines that somebody may wait for while others still begin,
// which a sync.WaitGroup forbids.
type tasks struct {
	mu      sync.Mutex
	running int
	idle    chan struct{} // closed when running falls to zero; nil if nobody waits
}

// Go runs f on a goroutine of its own.
func (t *tasks) Go(f func()) {
	t.mu.Lock()
	t.running++
	t.mu.Unlock()
	go func() {
		defer t.done()
		f()
	}()
}

func (t *tasks) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running--; t.running == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// Wait returns at a moment when none runs.
func (t *tasks) Wait() {
	t.mu.Lock()
	if t.running == 0 {
		t.mu.Unlock()
		return
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle := t.idle
	t.mu.Unlock()
	<-idle
}
