package stored

import (
	"context"
	"errors"
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
