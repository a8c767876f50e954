package registry

import (
	"context"
	"errors"
	"time"

	"rollcall/internal/store"
)

// owed is an event that waits for its client to be left alone. The registry's
// lock guards it.
type owed struct {
	due time.Duration // by the monotonic reading
	cap time.Duration // due never passes it
	rev store.Revision
}

const (
	maxEmitting = 256         // events on their way to the store at once
	emitRetry   = time.Second // after the store refused an event
)

// announce adds to w the event that tells of a change, or the note that it is
// owed. The returned function is part of applying the write.
func (r *Registry) announce(w *write, k ChangeKind, c Client, at time.Time) func(index uint64) {
	switch {
	case r.stager == nil:
		return func(uint64) {}
	case r.coalesce > 0:
		o := owedRecord{kind: k, client: c}
		w.batch.Put(owedKey(r.realm, c.Name), o.encode())
		return func(index uint64) { r.owe(c.Name, store.Revision(index)) }
	}
	w.staged = r.stager.Stage(w.batch, partition, &Change{Kind: k, Client: c, EventID: r.newID(), Time: at})
	r.mu.Lock()
	_, older := r.owed[c.Name]
	r.mu.Unlock()
	if !older {
		return func(uint64) {}
	}
	// An event owed since events were coalesced: this one supersedes it.
	w.batch.Delete(owedKey(r.realm, c.Name))
	return func(uint64) { delete(r.owed, c.Name) }
}

// owe notes that the event of a change, durable at rev, is owed. The registry
// is locked.
func (r *Registry) owe(name string, rev store.Revision) {
	now := r.clock.Monotonic()
	o := r.owed[name]
	if o == nil {
		o = &owed{cap: now + r.ceiling}
		r.owed[name] = o
	}
	o.rev = max(o.rev, rev)
	o.due = min(now+r.coalesce, o.cap)
	r.postpone(o.due)
}

// postpone has emit look again if it would sleep beyond due. The registry is
// locked.
func (r *Registry) postpone(due time.Duration) {
	if r.wake == 0 || due < r.wake {
		signal(r.due)
	}
}

// emit emits events that are owed when they are due, until ctx ends. It looks
// at most every 64th of the debounce time, so that many changes share a look.
func (r *Registry) emit(ctx context.Context) {
	if r.stager == nil {
		<-ctx.Done()
		return
	}
	for ctx.Err() == nil {
		names, wait, idle := r.dueNow()
		if len(names) > 0 {
			r.emitAll(ctx, names)
		}
		woken := make(chan struct{})
		if !idle {
			t := r.clock.AfterFunc(max(wait, r.coalesce/64), func() { close(woken) })
			select {
			case <-ctx.Done():
			case <-woken:
			case <-r.due:
			}
			t.Stop()
			continue
		}
		select {
		case <-ctx.Done():
		case <-r.due:
		}
	}
}

// dueNow returns the clients whose event is due, and how long the next one
// still has, unless there is none.
func (r *Registry) dueNow() (names []string, wait time.Duration, idle bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Monotonic()
	var next time.Duration
	for name, o := range r.owed {
		switch {
		case o.due <= now:
			names = append(names, name)
		case next == 0 || o.due < next:
			next = o.due
		}
	}
	r.wake = next
	return names, next - now, next == 0
}

// emitAll emits events, a bounded number at a time.
func (r *Registry) emitAll(ctx context.Context, names []string) {
	for len(names) > 0 && ctx.Err() == nil {
		n := min(len(names), maxEmitting)
		done := make(chan struct{}, n)
		for _, name := range names[:n] {
			r.emitOne(name, func() { done <- struct{}{} })
		}
		for range n {
			select {
			case <-done:
			case <-ctx.Done():
				return // the others only touch the registry; Close waits for them
			}
		}
		names = names[n:]
	}
}

// emitOne commits the event that tells of a client's newest change together
// with the removal of the note that it is owed. A change made meanwhile is a
// conflict, and tells of itself later.
func (r *Registry) emitOne(name string, done func()) {
	rec, rev, err := r.readOwed(name)
	if err != nil {
		r.log.Error("an event that is owed cannot be read", "client", name, "err", err)
	}
	if err != nil || rec == nil { // nil: it was emitted, or superseded
		r.emitted(name, rev, err)
		done()
		return
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		done()
		return
	}
	r.work.Add(1)
	r.mu.Unlock()
	b := store.NewBatch(store.Reserve) // it was accepted with the change
	b.Require(owedKey(r.realm, name), rev)
	b.Delete(owedKey(r.realm, name))
	staged := r.stager.Stage(b, partition, &Change{
		Kind: rec.kind, Client: rec.client, EventID: r.newID(), Time: r.instant(time.Time{}),
	})
	r.engine.Submit(b, func(res store.Result) {
		defer r.work.Done()
		if staged != nil {
			staged(res)
		}
		r.emitted(name, rev, res.Err)
		done()
	})
}

// emitted forgets the event owed at rev, or, after an error, has it tried again.
func (r *Registry) emitted(name string, rev store.Revision, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.owed[name]
	switch {
	case o == nil:
	case err == nil:
		if o.rev <= rev {
			delete(r.owed, name)
		}
	case errors.Is(err, store.ErrConflict): // by a change, whose own time counts
	default:
		o.due = r.clock.Monotonic() + emitRetry
		r.postpone(o.due)
	}
}

// readOwed returns the note that an event is owed and its revision; nil if
// there is none, and the newest commit that this is known of.
func (r *Registry) readOwed(name string) (*owedRecord, store.Revision, error) {
	snap := r.engine.Snapshot()
	defer snap.Close()
	value, rev, err := snap.Get(owedKey(r.realm, name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, store.Revision(snap.Index()), nil
	}
	if err != nil {
		return nil, 0, err
	}
	rec, err := decodeOwed(name, value)
	if err != nil { // the event is not told; the next change replaces the note
		r.setAside.Add(owedKey(r.realm, name), err)
		return nil, rev, nil
	}
	return rec, rev, nil
}

// Owed is the number of clients whose event waits to be emitted.
func (r *Registry) Owed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.owed)
}
