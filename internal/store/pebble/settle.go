package pebble

import (
	"fmt"

	"rollcall/internal/store"
)

// settleLoop waits for each group's sync, makes the group visible and reports
// its outcomes, in the order of the groups.
func (e *Engine) settleLoop() {
	defer close(e.settled)
	for {
		var g *group
		select {
		case g = <-e.groups:
		case <-e.failed:
			return
		}
		if g == nil {
			return // closed
		}
		if g.batch != nil {
			if err := g.batch.SyncWait(); err != nil {
				e.fail(fmt.Errorf("sync the log: %w", err))
				return
			}
			_ = g.batch.Close() // it has no errors after a successful sync
			if err := e.account.noteDurable(g.view.index); err != nil {
				e.fail(fmt.Errorf("write the store's account: %w", err))
				return
			}
			e.views.publish(g.view)
		}
		if !e.claim(g) {
			return
		}
		e.report(g)
		e.reported()
		e.recycle(g)
	}
}

// claim takes a group out of the list of those whose callers wait. It fails
// when buryLoop has taken them all.
func (e *Engine) claim(g *group) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.outstanding) == 0 || e.outstanding[0] != g {
		return false
	}
	e.outstanding = append(e.outstanding[:0], e.outstanding[1:]...)
	e.reporting = true
	return true
}

// reported ends what claim began.
func (e *Engine) reported() {
	e.mu.Lock()
	e.reporting = false
	failed := e.failure != nil
	e.mu.Unlock()
	if failed {
		e.wake.Broadcast() // bury waits
	}
}

func (e *Engine) report(g *group) {
	e.outcomes.RememberAll(len(g.subs), func(i int) (store.ID, store.Result) {
		return g.subs[i].batch.ID(), g.results[i]
	})
	e.counts.batches.Add(uint64(len(g.subs)))
	for i := range g.subs {
		g.subs[i].done(g.results[i])
	}
}

// newGroup returns an empty group. The caller holds mu.
func (e *Engine) newGroup() *group {
	if n := len(e.spare); n > 0 {
		g := e.spare[n-1]
		e.spare = e.spare[:n-1]
		return g
	}
	return &group{}
}

// recycle keeps a group for the next one's sake.
func (e *Engine) recycle(g *group) {
	clear(g.subs)
	g.subs, g.results = g.subs[:0], g.results[:0]
	g.applied.Store(false)
	g.batch, g.view = nil, nil
	e.mu.Lock()
	e.spare = append(e.spare, g)
	e.mu.Unlock()
}

// fail ends the engine for good. It may be called from anywhere, Pebble's
// goroutines and locks included, and more than once: the first error counts.
func (e *Engine) fail(err error) {
	e.disk.blow()
	e.mu.Lock()
	if e.failure == nil {
		e.failure = err
		close(e.failed)
		e.stopOnce.Do(func() { close(e.stop) })
		e.views.frozen.Store(true)
	}
	e.mu.Unlock()
	e.wake.Broadcast()
}

// buryLoop waits for the engine to fail and then tells everybody who waits. It
// touches nothing of Pebble's, for other goroutines may be parked there with
// locks held.
func (e *Engine) buryLoop() {
	select {
	case <-e.settled:
		if e.err() == nil {
			close(e.buried)
			return
		}
	case <-e.failed:
	}
	e.bury()
	close(e.buried)
	if e.opts.OnFatal != nil {
		e.opts.OnFatal(e.err())
	}
}

func (e *Engine) bury() {
	e.mu.Lock()
	for e.reporting { // outcomes stay in order, and all are reported once this returns
		e.wake.Wait()
	}
	failure := e.failure
	groups, queue := e.outstanding, e.queue[e.head:]
	e.outstanding, e.queue, e.head = nil, nil, 0
	e.mu.Unlock()

	e.opts.Log.Error("storage has failed and takes no more work", "err", failure.Error())
	unknown := fmt.Errorf("%w: %w", store.ErrUnknown, failure)
	closed := fmt.Errorf("%w: it has failed: %w", store.ErrClosed, failure)
	for _, g := range groups {
		applied := g.applied.Load()
		for i, s := range g.subs {
			r := store.Result{Err: closed}
			switch {
			case applied && g.results[i].Err != nil:
				r = g.results[i]
			case applied:
				r.Err = unknown
			}
			e.outcomes.Remember(s.batch.ID(), r)
			s.done(r)
		}
	}
	for _, s := range queue {
		e.outcomes.Remember(s.batch.ID(), store.Result{Err: closed})
		s.done(store.Result{Err: closed})
	}
}

// refuse reports to a caller who came too late, from a goroutine that Close
// waits for. The caller holds mu.
func (e *Engine) refuse(done func(store.Result)) {
	err := store.ErrClosed
	if e.failure != nil {
		err = fmt.Errorf("%w: it has failed: %w", err, e.failure)
	}
	e.late++
	go func() {
		done(store.Result{Err: err})
		e.mu.Lock()
		e.late--
		e.mu.Unlock()
		e.wake.Broadcast()
	}()
}
