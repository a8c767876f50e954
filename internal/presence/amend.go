package presence

import (
	"context"
	"errors"

	"rollcall/internal/store"
)

// amend is a change of what is kept for a session name, without a transition.
type amend struct {
	stage func(b *store.Batch, partition uint8, open bool) bool
	done  func(error)
}

// Amend changes what else is kept under a session name, in its turn among the
// claims and releases of the name: no transition of the name is under way
// meanwhile. Stage adds to a batch in the name's partition; it is told whether
// somebody holds the session now, and returns false if there is nothing to
// change after all. It may be called again if the batch conflicted. The batch
// is of the reserve, because it is there to take things away. Done is called
// once with the outcome, store.ErrUnknown if even the engine does not know it;
// it and stage must not block. Amend may read the store.
func (l *Ledger) Amend(realm, session string, stage func(b *store.Batch, partition uint8, open bool) bool, done func(error)) {
	op := &operation{amend: &amend{stage, done}}
	_ = l.enqueue(name{realm, session}, op) // only claims are ever turned away
}

func (l *Ledger) runAmend(s *seat, op *operation) {
	b := store.NewBatch(store.Reserve)
	if !op.amend.stage(b, s.partition, s.holder != nil) {
		op.amend.done(nil)
		l.next(s)
		return
	}
	id := b.ID()
	l.engine.Submit(b, func(r store.Result) {
		if errors.Is(r.Err, store.ErrUnknown) {
			l.work.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), outcomePatience)
				defer cancel()
				if known, ok := l.outcome(ctx, id); ok {
					r = known
				}
				l.amended(s, op, r)
			})
			return
		}
		l.amended(s, op, r)
	})
}

func (l *Ledger) amended(s *seat, op *operation, r store.Result) {
	if errors.Is(r.Err, store.ErrConflict) && op.tries < 3 {
		op.tries++
		l.work.Go(func() { l.run(s, op) })
		return
	}
	op.amend.done(r.Err)
	l.next(s)
}
