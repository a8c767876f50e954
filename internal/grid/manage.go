package grid

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/fault"
	"rollcall/internal/store"
)

// Condition guards a write. The zero value is none.
type Condition struct {
	Revision store.Revision // not 0: the resource must have this revision
	Absent   bool           // the resource must not exist
}

// errUnchanged ends a change that turned out to be none.
var errUnchanged = errors.New("grid: nothing to change")

// attempts is how often a write is tried that lost a race.
const attempts = 16

// Put creates or replaces a subscription and returns it, and whether it was
// created. Asking the endpoint for its consent goes on afterwards; see
// Subscription.State and Watch. Errors are fault.Errors: InvalidRequest with
// every mistake; Conflict where two creates raced or the source has too many
// subscriptions; PreconditionFailed; InsufficientSpace.
func (g *Grid) Put(ctx context.Context, src Source, name string, p Properties, c Condition) (Subscription, bool, error) {
	if p.Destination.hides() {
		if have, err := g.Get(src, name); err == nil {
			p.Destination = p.Destination.keeping(have.Properties.Destination)
		}
	}
	p.Destination.shown, p.Destination.unnamed = "", false
	p = p.withDefaults()
	var bad fault.List
	bad.Add(ValidateName(name))
	bad = append(bad, g.validate(p, g.eventTypes(src), g.clock.Steady())...)
	if err := bad.Err(); err != nil {
		return Subscription{}, false, err
	}
	var token string
	created := false
	rec, rev, err := g.change(ctx, keyOf(src.Realm, name), c, func(old *record) (*record, error) {
		created = old == nil
		now := g.clock.Now()
		var r record
		if created {
			if limit := g.set.MaxSubscriptions; limit > 0 && g.count(src.Realm) >= limit {
				return nil, fault.New(fault.Conflict, "The source has %d event subscriptions, which is the limit.", limit)
			}
			r = record{Name: name, Source: src, Created: now}
		} else {
			r = *old
		}
		r.Wanted, r.Updated = p, now
		token = g.plan(&r, old)
		return &r, nil
	})
	if err != nil {
		return Subscription{}, false, err
	}
	if token != "" {
		g.do(func(ctx context.Context) { g.handshake(ctx, rec.key(), token) })
	}
	return g.see(rec, rev), created, nil
}

// Patch changes some properties of a subscription. NotFound if there is none;
// otherwise as Put.
func (g *Grid) Patch(ctx context.Context, src Source, name string, p Patch, c Condition) (Subscription, error) {
	have, err := g.Get(src, name)
	if err != nil {
		return Subscription{}, err
	}
	if c.Revision == 0 {
		c.Revision = have.Revision
	} else if c.Revision != have.Revision {
		return Subscription{}, fault.New(fault.PreconditionFailed, "The event subscription has changed.")
	}
	s, _, err := g.Put(ctx, have.Source, have.Name, p.Apply(have.Properties), c)
	return s, err
}

// Pause holds deliveries of a subscription back. NotFound if there is none.
func (g *Grid) Pause(ctx context.Context, src Source, name string) (Subscription, error) {
	return g.setPaused(ctx, src, name, true)
}

// Resume ends a pause: what accumulated is delivered, or given up if its time
// to live has passed. NotFound if there is none.
func (g *Grid) Resume(ctx context.Context, src Source, name string) (Subscription, error) {
	return g.setPaused(ctx, src, name, false)
}

func (g *Grid) setPaused(ctx context.Context, src Source, name string, paused bool) (Subscription, error) {
	rec, rev, err := g.change(ctx, keyOf(src.Realm, name), Condition{}, func(old *record) (*record, error) {
		switch {
		case old == nil:
			return nil, notFound(name)
		case old.Wanted.Paused == paused:
			return nil, errUnchanged
		}
		r := *old
		r.Wanted.Paused, r.Updated = paused, g.clock.Now()
		return &r, nil
	})
	if errors.Is(err, errUnchanged) {
		return g.Get(src, name)
	}
	if err != nil {
		return Subscription{}, err
	}
	return g.see(rec, rev), nil
}

// Get returns a subscription, or NotFound.
func (g *Grid) Get(src Source, name string) (Subscription, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.entries[keyOf(src.Realm, name)]
	if e == nil {
		return Subscription{}, notFound(name)
	}
	return e.view(), nil
}

// List returns the subscriptions of a source by name.
func (g *Grid) List(src Source) []Subscription {
	g.mu.Lock()
	var all []Subscription
	for k, e := range g.entries {
		if k.realm == src.Realm {
			all = append(all, e.view())
		}
	}
	g.mu.Unlock()
	slices.SortFunc(all, func(a, b Subscription) int {
		return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
	return all
}

// Tally returns what became of a subscription's events, zero if it never
// matched any. NotFound if there is no such subscription.
func (g *Grid) Tally(src Source, name string) (delivery.Tally, error) {
	g.mu.Lock()
	e := g.entries[keyOf(src.Realm, name)]
	var q *delivery.Queue
	if e != nil {
		q = e.queue
	}
	g.mu.Unlock()
	switch {
	case e == nil:
		return delivery.Tally{}, notFound(name)
	case q == nil:
		return delivery.Tally{}, nil
	}
	return q.Tally(), nil
}

// Watch returns a channel that is closed at the next change of a subscription,
// its narration included. NotFound if there is none.
func (g *Grid) Watch(src Source, name string) (<-chan struct{}, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.entries[keyOf(src.Realm, name)]
	if e == nil {
		return nil, notFound(name)
	}
	return e.changed, nil
}

// Delete removes a subscription and reports whether there was one. Its pending
// events are dropped and counted; its endpoint is told once.
func (g *Grid) Delete(ctx context.Context, src Source, name string, c Condition) (bool, error) {
	return g.remove(ctx, keyOf(src.Realm, name), func(old *record, rev store.Revision) bool {
		return c.Revision == 0 || c.Revision == rev
	})
}

func (g *Grid) remove(ctx context.Context, k entryKey, may func(*record, store.Revision) bool) (bool, error) {
	for range attempts {
		old, rev, err := g.read(k)
		if err != nil || old == nil {
			return false, err
		}
		if !may(old, rev) {
			return false, fault.New(fault.PreconditionFailed, "The event subscription has changed.")
		}
		b := store.NewBatch(store.Reserve)
		b.Require(subscriptionKey(k), rev)
		b.Delete(subscriptionKey(k))
		_, err = g.commit(ctx, b)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return false, visible(err)
		}
		g.uninstall(k, rev)
		g.dispatcher.Remove(old.ID)
		if old.Active != nil {
			g.do(func(ctx context.Context) { g.farewell(ctx, old) })
		}
		return true, nil
	}
	return false, fault.New(fault.Conflict, "The event subscription keeps changing; try again.")
}

// uninstall forgets a subscription whose record was deleted at revision rev.
func (g *Grid) uninstall(k entryKey, rev store.Revision) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.entries[k]
	if e == nil || e.rev > rev { // it was created anew
		return
	}
	if e.timer != nil {
		e.timer.Stop()
	}
	delete(g.entries, k)
	g.rebuild(k.realm)
	close(e.changed)
}

// change reads a record, has f decide on the next one and commits that, again
// when it lost a race. A record without an id gets one.
func (g *Grid) change(ctx context.Context, k entryKey, c Condition, f func(old *record) (*record, error)) (*record, store.Revision, error) {
	for range attempts {
		old, rev, err := g.read(k)
		if err != nil {
			return nil, 0, err
		}
		if c.Absent && old != nil || c.Revision != 0 && c.Revision != rev {
			return nil, 0, fault.New(fault.PreconditionFailed, "The event subscription has changed.")
		}
		next, err := f(old)
		if err != nil {
			return nil, 0, err
		}
		b := store.NewBatch(store.Normal)
		if next.ID == 0 {
			last, counted, err := store.Get(g.engine, counterKey())
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, 0, err
			}
			next.ID = nextID(last)
			b.Require(counterKey(), counted)
			b.Put(counterKey(), binary.BigEndian.AppendUint64(nil, next.ID))
		}
		if next.Active != nil && next.Start == 0 {
			next.Start = g.newest()
		}
		value, err := next.encode()
		if err != nil {
			return nil, 0, err
		}
		b.Require(subscriptionKey(k), rev)
		b.Put(subscriptionKey(k), value)
		index, err := g.commit(ctx, b)
		if errors.Is(err, store.ErrConflict) {
			if now, _, err := g.read(k); err == nil && old == nil && now != nil {
				return nil, 0, fault.New(fault.Conflict, "Another request created the event subscription at the same time.")
			}
			continue
		}
		if err != nil {
			return nil, 0, visible(err)
		}
		g.install(next, store.Revision(index))
		return next, store.Revision(index), nil
	}
	return nil, 0, fault.New(fault.Conflict, "The event subscription keeps changing; try again.")
}

// commit stores a change and returns its index. It waits for the outcome even
// if ctx ends meanwhile: a caller who goes away must not leave memory with
// something else than the store has. ctx is looked at before.
func (g *Grid) commit(ctx context.Context, b *store.Batch) (uint64, error) {
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	index, err := store.Commit(context.WithoutCancel(ctx), g.engine, b)
	if !errors.Is(err, store.ErrUnknown) {
		return index, err
	}
	ask, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer g.clock.AfterFunc(settleBy, cancel).Stop()
	if r, known, asked := g.engine.Outcome(ask, b.ID()); asked == nil && known {
		return r.Index, r.Err
	}
	return 0, err
}

// settleBy bounds how long the engine may think about an unknown outcome.
const settleBy = 10 * time.Second

// read returns the record in the store, nil if there is none.
func (g *Grid) read(k entryKey) (*record, store.Revision, error) {
	value, rev, err := store.Get(g.engine, subscriptionKey(k))
	if errors.Is(err, store.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	rec, err := decodeRecord(value)
	if err != nil { // whoever writes the subscription anew replaces it
		g.setAside.Add(subscriptionKey(k), err)
		return nil, rev, nil
	}
	return rec, rev, nil
}

// newest is the newest commit index. Events staged from now on come later.
func (g *Grid) newest() uint64 {
	snap := g.engine.Snapshot()
	defer snap.Close()
	return snap.Index()
}

func (g *Grid) count(realm string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for k := range g.entries {
		if k.realm == realm {
			n++
		}
	}
	return n
}

// see is the view of a record that was just written.
func (g *Grid) see(rec *record, rev store.Revision) Subscription {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.entries[rec.key()]; e != nil && e.rev == rev {
		return e.view()
	}
	return rec.view(rev)
}

// view is the subscription with the newest narration. The grid is locked.
func (e *entry) view() Subscription {
	s := e.rec.view(e.rev)
	s.Narration = slices.Clone(e.live)
	return s
}

func (g *Grid) destination(p Properties) (delivery.Destination, error) {
	d, err := g.webhooks.Destination(string(p.Destination.EndpointURL), p.Schema, p.Destination.Attributes)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func notFound(name string) error {
	return fault.New(fault.NotFound, "The event subscription '%s' was not found.", name)
}

// visible turns the store's refusals into errors that a caller may see.
func visible(err error) error {
	if errors.Is(err, store.ErrFull) {
		return fault.New(fault.InsufficientSpace, "The store is full; nothing was changed.")
	}
	return err
}
