package grid

import (
	"context"
	"errors"
	"sync"

	"rollcall/internal/delivery"
	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/store"
)

// Staged is an event that is part of a batch. Its outcome is to be told once,
// by Done, or by Committed when it succeeded.
type Staged struct {
	grid      *Grid
	event     *event.Event
	source    *delivery.Source // nil: no subscription matched
	queues    []*delivery.Queue
	batch     store.ID
	partition uint8
	ordinal   uint16
	size      int // of the record
}

// scratch is what staging needs for a moment.
type scratch struct {
	ids   []uint64
	value []byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Stage matches an event against the subscriptions of its source and, if any
// want it, adds it to b, which is of this partition. The caller commits b with
// the facts that the event tells of. The event gets an output id and an
// acceptance time unless it has them, and must not be changed afterwards. Stage
// may be called from many goroutines; it takes no lock.
func (g *Grid) Stage(b *store.Batch, partition uint8, src Source, ev *event.Event) Staged {
	if ev.Accepted.IsZero() {
		ev.Accepted = g.clock.Steady()
	}
	if ev.OutputID == "" {
		ev.OutputID = g.newID()
	}
	s := Staged{grid: g, event: ev, partition: partition}
	ix := (*g.indexes.Load())[src.Realm]
	if ix == nil {
		return s
	}
	tmp := scratches.Get().(*scratch)
	tmp.ids, s.queues = ix.match(ev, tmp.ids[:0], nil)
	if len(tmp.ids) > 0 {
		s.source, s.batch = ix.source, b.ID()
		tmp.value = delivery.AppendRecord(tmp.value[:0], tmp.ids, ev)
		s.size = len(tmp.value)
		s.ordinal = b.PutSequenced(ix.source.Prefix(partition), tmp.value)
	}
	scratches.Put(tmp)
	return s
}

// Committed tells that the event's batch is durable at index. It is called
// once, from the engine's done callback, in commit order, and for several
// events of a batch in the order they were staged. It does not block.
func (s Staged) Committed(index uint64) {
	if s.grid == nil {
		return
	}
	s.grid.metrics.published.Inc()
	if s.source != nil {
		s.grid.metrics.matched.Inc()
		s.source.Notify(s.partition, index, s.ordinal, s.event, s.size, s.queues)
	}
	s.grid.tails.send(s.event)
}

// Done tells the outcome of the event's batch, whatever it is. Of a batch of
// unknown outcome the engine is asked again.
func (s Staged) Done(r store.Result) {
	switch {
	case s.grid == nil:
	case r.Err == nil:
		s.Committed(r.Index)
	case errors.Is(r.Err, store.ErrUnknown) && s.source != nil:
		s.source.Doubt(s.batch, s.partition, s.ordinal, s.event, s.size, s.queues)
	}
}

// Publish stores an event by itself and returns when it is durable. Errors:
// fault.InsufficientSpace when the store is full; the context's.
func (g *Grid) Publish(ctx context.Context, partition uint8, src Source, ev *event.Event) error {
	b := store.NewBatch(store.Normal)
	s := g.Stage(b, partition, src, ev)
	if s.source == nil { // there is nobody to keep it for
		s.Committed(0)
		return nil
	}
	done := make(chan error, 1)
	g.engine.Submit(b, func(r store.Result) {
		s.Done(r)
		done <- r.Err
	})
	select {
	case err := <-done:
		if errors.Is(err, store.ErrFull) {
			return fault.New(fault.InsufficientSpace, "The store is full; the event was not accepted.")
		}
		return err
	case <-ctx.Done():
		return errors.Join(store.ErrUnknown, context.Cause(ctx))
	}
}
