package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rollcall/internal/fault"
	"rollcall/internal/filter"
	"rollcall/internal/store"
)

// attempts is how often a write is tried that lost a race.
const attempts = 16

// write is one batch and what follows from it.
type write struct {
	batch *store.Batch
	kind  kind
	name  string // of the resource
	// apply changes the master; the registry is locked. index is the commit's.
	apply func(index uint64)
	// stands reports whether the store, read again after an unknown outcome,
	// shows the write, and at which index. It is asked with the current view.
	stands func(v *view) (index uint64, ok bool)
	staged func(store.Result) // of the event, may be nil
	create bool               // holds a place in creating
}

var errClosed = fault.New(fault.Unavailable, "The server is shutting down.")

// commit submits w and waits for its outcome, by when the view shows it. It
// returns the commit's index. ErrConflict is returned as it is, with the view
// brought up to date.
func (r *Registry) commit(ctx context.Context, w *write) (uint64, error) {
	outcome := make(chan store.Result, 1)
	r.mu.Lock()
	if r.closed {
		r.release(w)
		r.mu.Unlock()
		return 0, errClosed
	}
	r.work.Add(1) // until the outcome is known; Close waits
	r.mu.Unlock()
	r.engine.Submit(w.batch, func(res store.Result) {
		if w.staged != nil {
			w.staged(res)
		}
		if res.Err == nil {
			r.publish(w, res.Index)
			r.work.Done()
			outcome <- res
			return
		}
		// What others wrote has to be read, which is not for this goroutine.
		go func() { // ends with the reading; Close waits for it
			defer r.work.Done()
			outcome <- r.settle(w, res)
		}()
	})
	select {
	case res := <-outcome:
		return res.Index, res.Err
	case <-ctx.Done():
		return 0, errors.Join(
			fault.New(fault.Unavailable, "The change was not stored in time; it may still be made."),
			store.ErrUnknown, context.Cause(ctx))
	}
}

// publish makes a durable write visible.
func (r *Registry) publish(w *write, index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// What is new can shut out nobody but an anonymous client of its name.
	harmless := w.create && (w.kind == kindCA || r.set.Anonymous == AnonymousOff)
	r.release(w)
	w.apply(index)
	r.republish()
	if !harmless {
		signal(r.notice)
	}
}

// republish replaces the view with a copy of the changed master. The registry
// is locked.
func (r *Registry) republish() {
	r.applied++
	r.master.generation++
	r.view.Store(r.master.copy())
}

// release gives back the place of a creation. The registry is locked.
func (r *Registry) release(w *write) {
	if w.create {
		r.creating[w.kind-1]--
		w.create = false
	}
}

// settle follows up a write that did not plainly succeed.
func (r *Registry) settle(w *write, res store.Result) store.Result {
	unknown := errors.Is(res.Err, store.ErrUnknown)
	if unknown {
		res = r.ask(w, res)
	}
	if unknown || errors.Is(res.Err, store.ErrConflict) {
		res = r.reread(w, res)
	}
	r.mu.Lock()
	r.release(w)
	r.mu.Unlock()
	return res
}

// reread brings the view up to date and, if the outcome is still unknown, finds
// it there.
func (r *Registry) reread(w *write, res store.Result) store.Result {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := r.refresh(w.kind, w.name)
		if err == nil {
			break
		}
		r.log.Error("a resource cannot be read again after a failed write", "resource", w.name, "err", err)
		if errors.Is(err, store.ErrClosed) || !r.pause(wait) {
			return store.Result{Err: errors.Join(store.ErrUnknown, err)}
		}
	}
	if errors.Is(res.Err, store.ErrUnknown) {
		if index, ok := w.stands(r.view.Load()); ok {
			return store.Result{Index: index}
		}
	}
	return res
}

// ask asks the engine what became of a batch; res if it cannot say.
func (r *Registry) ask(w *write, res store.Result) store.Result {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	t := r.clock.AfterFunc(10*time.Second, cancel)
	defer t.Stop()
	if known, ok, err := r.engine.Outcome(ctx, w.batch.ID()); err == nil && ok {
		return known
	}
	return res
}

// pause waits, and reports false if the registry was closed meanwhile.
func (r *Registry) pause(d time.Duration) bool {
	woken := make(chan struct{})
	t := r.clock.AfterFunc(d, func() { close(woken) })
	defer t.Stop()
	select {
	case <-woken:
		return true
	case <-r.stop:
		return false
	}
}

// refresh makes the view show what the store has under a name.
func (r *Registry) refresh(k kind, name string) error {
	for {
		r.mu.Lock()
		seen := r.applied
		r.mu.Unlock()
		put, err := r.read(k, name)
		if err != nil {
			return err
		}
		r.mu.Lock()
		if r.applied == seen { // nothing became visible that the reading may have missed
			put()
			r.republish()
			signal(r.notice)
			r.mu.Unlock()
			return nil
		}
		r.mu.Unlock()
	}
}

// read returns a function that makes the master show what the store has now;
// it is for the registry's lock.
func (r *Registry) read(k kind, name string) (func(), error) {
	if k == kindCA {
		rec, rev, err := r.readCA(name)
		switch {
		case err != nil:
			return nil, err
		case rec == nil:
			return func() { r.master.trust = r.master.trust.without(filter.Fold(name)) }, nil
		}
		e := &caEntry{caRecord: rec, rev: rev, folded: filter.Fold(name)}
		return func() { r.master.trust = r.master.trust.with(e) }, nil
	}
	rec, rev, err := r.readClient(name)
	if err != nil {
		return nil, err
	}
	owes, owed, err := r.readOwed(name)
	if err != nil {
		return nil, err
	}
	return func() {
		if rec == nil {
			r.master.remove(name)
		} else {
			r.master.set(newEntry(rec, rev))
		}
		if owes != nil {
			r.owe(name, owed)
		}
	}, nil
}

func (r *Registry) readClient(name string) (*clientRecord, store.Revision, error) {
	value, rev, err := store.Get(r.engine, clientKey(r.realm, name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	rec, err := decodeClient(name, value)
	if err != nil { // whoever writes the client anew replaces it
		r.setAside.Add(clientKey(r.realm, name), err)
		snap := r.engine.Snapshot()
		defer snap.Close()
		rec, err = r.unreadable(snap, name)
	}
	return rec, rev, err
}

// unreadable stands for a client whose record cannot be read: it keeps its
// authentication name from being taken or used, by an anonymous client for one.
func (r *Registry) unreadable(snap store.Snapshot, name string) (*clientRecord, error) {
	rec := &clientRecord{Client: Client{
		Name: name, AuthenticationName: name, State: Disabled, ValidationScheme: SubjectMatches,
		Description: "The stored record of this client cannot be read.", ProvisioningState: Succeeded,
	}}
	err := r.each(snap, nameKeyPrefix(r.realm), func(folded string, value []byte, _ store.Revision) error {
		if string(value) == name {
			rec.AuthenticationName = folded
		}
		return nil
	})
	return rec, err
}

func (r *Registry) readCA(name string) (*caRecord, store.Revision, error) {
	value, rev, err := store.Get(r.engine, caKey(r.realm, name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	rec, err := decodeCA(value)
	if err != nil { // whoever writes the CA anew replaces it
		r.setAside.Add(caKey(r.realm, name), err)
		return nil, rev, nil
	}
	return rec, rev, nil
}

// load fills the registry from the store.
func (r *Registry) load() error {
	r.master = newView()
	snap := r.engine.Snapshot()
	defer snap.Close()
	var cas []*caEntry
	err := r.each(snap, kindPrefix(r.realm, kindClient), func(name string, value []byte, rev store.Revision) error {
		rec, err := decodeClient(name, value)
		if err != nil {
			r.setAside.Add(clientKey(r.realm, name), err)
			if rec, err = r.unreadable(snap, name); err != nil {
				return err
			}
		}
		r.master.set(newEntry(rec, rev))
		return nil
	})
	if err != nil {
		return fmt.Errorf("load clients: %w", err)
	}
	err = r.each(snap, kindPrefix(r.realm, kindCA), func(folded string, value []byte, rev store.Revision) error {
		rec, err := decodeCA(value)
		if err != nil { // nothing is trusted because of it
			r.setAside.Add(caKey(r.realm, folded), err)
			return nil
		}
		cas = append(cas, &caEntry{caRecord: rec, rev: rev, folded: folded})
		return nil
	})
	if err != nil {
		return fmt.Errorf("load CA certificates: %w", err)
	}
	r.master.trust = newTrust(cas)
	now := r.clock.Monotonic()
	err = r.each(snap, owedPrefix(r.realm), func(name string, _ []byte, rev store.Revision) error {
		r.owed[name] = &owed{due: now, cap: now, rev: rev}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load events that are owed: %w", err)
	}
	signal(r.due)
	r.view.Store(r.master.copy())
	return nil
}

// each calls f for every key that is prefix and a name.
func (r *Registry) each(snap store.Snapshot, prefix []byte, f func(name string, value []byte, rev store.Revision) error) error {
	it := snap.Iter(prefix, store.PrefixEnd(prefix))
	defer it.Close()
	for it.Next() {
		name, rest, ok := store.TakeString(it.Key()[len(prefix):])
		if !ok || len(rest) != 0 {
			r.setAside.Add(it.Key(), errRecord)
			continue
		}
		if err := f(name, it.Value(), it.Revision()); err != nil {
			return err
		}
	}
	return it.Err()
}

// visible turns the store's refusals into errors that a caller may see.
func visible(err error) error {
	switch {
	case errors.Is(err, store.ErrFull):
		return fault.New(fault.InsufficientSpace, "The store is full; nothing was changed.")
	case errors.Is(err, store.ErrClosed):
		return errClosed
	}
	return err
}

func raced(what, name string) error {
	return fault.New(fault.Conflict, "The %s '%s' keeps changing; try again.", what, name)
}

// instant is the time of a change: now, to 100 ns, but after the one before.
func (r *Registry) instant(before time.Time) time.Time {
	const tick = 100 * time.Nanosecond
	now := r.clock.Now().UTC().Truncate(tick)
	if earliest := before.Add(tick); now.Before(earliest) {
		return earliest
	}
	return now
}

// place takes a place for a creation if there is one below limit (0: no bound).
func (r *Registry) place(k kind, limit int, what string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	have := r.master.clients.Len()
	if k == kindCA {
		have = len(r.master.trust.cas)
	}
	if limit > 0 && have+r.creating[k-1] >= limit {
		return fault.New(fault.Conflict, "The namespace has %d %s, which is the limit.", limit, what)
	}
	r.creating[k-1]++
	return nil
}

// Count counts the clients and CA certificates.
func (r *Registry) Count() (clients, cas int) {
	v := r.view.Load()
	return v.clients.Len(), len(v.trust.cas)
}
