package presence

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"rollcall/internal/store"
)

// commit writes transitions of s as one batch and calls settled with the
// outcome, known for certain.
func (l *Ledger) commit(s *seat, class store.Class, ts []Transition, settled func(error)) {
	b := store.NewBatch(class)
	hooks := l.compose(s, b, ts)
	after := ts[len(ts)-1]
	state := *s.state
	for i := range ts {
		state.follow(&ts[i])
	}
	id := b.ID()
	l.engine.Submit(b, func(r store.Result) {
		for _, h := range hooks {
			if h != nil {
				h(r)
			}
		}
		if errors.Is(r.Err, store.ErrUnknown) {
			l.work.Go(func() { l.resolve(s, id, after.EventID, &state, settled) })
			return
		}
		l.settle(s, r, &state, settled)
	})
}

// compose fills b with everything that the transitions mean.
func (l *Ledger) compose(s *seat, b *store.Batch, ts []Transition) []func(store.Result) {
	p, realm, session := s.partition, s.name.realm, s.name.session
	key := sessionKey(p, realm, session)
	b.Require(key, s.rev)
	state := *s.state
	hooks := make([]func(store.Result), 0, len(ts))
	for i := range ts {
		t := &ts[i]
		if t.Kind == Disconnected {
			b.Delete(openKey(p, realm, t.Holder, session))
		} else {
			b.Put(openKey(p, realm, t.Holder, session), binary.AppendUvarint(nil, t.Number))
		}
		history, value := historyKey(p, realm, session, t.Number, t.Kind), t.encode()
		b.Put(history, value)
		size := int64(len(history)+len(value)) + markOverhead + int64(len(realm)+len(session))
		b.PutSequenced(timelinePrefix(p, realm), mark{t.Time, session, t.Number, t.Kind, size}.encode())
		if l.stager != nil {
			hooks = append(hooks, l.stager.Stage(b, p, t))
		}
		if t.stage != nil {
			t.stage(b, p, t)
		}
		state.follow(t)
	}
	b.Put(key, state.encode())
	return hooks
}

// markOverhead is about what a timeline entry takes besides the names in it.
const markOverhead = 48

// follow makes s the state after t.
func (s *State) follow(t *Transition) {
	s.Number, s.Kind, s.Since, s.Owner = t.Number, t.Kind, t.Time, t.Owner
	s.Origin, s.Holder, s.EventID = t.Origin, t.Holder, t.EventID
	if t.Kind == Disconnected {
		s.Reason, s.Evidence = t.Reason, t.Evidence
	}
}

func (l *Ledger) settle(s *seat, r store.Result, state *State, settled func(error)) {
	if r.Err == nil {
		s.state, s.rev, s.lost = state, store.Revision(r.Index), 0
	} else {
		s.known = false // a conflict or worse: read again before the next try
	}
	settled(r.Err)
}

// resolve finds out what became of a batch whose outcome the engine could not
// tell: by its id, else by whether its last event is the state's newest.
func (l *Ledger) resolve(s *seat, id store.ID, eventID string, state *State, settled func(error)) {
	ctx, cancel := context.WithTimeout(context.Background(), outcomePatience)
	defer cancel()
	if r, ok := l.outcome(ctx, id); ok {
		l.settle(s, r, state, settled)
		return
	}
	s.known = false
	err := l.load(s)
	for err != nil && !errors.Is(err, store.ErrClosed) && l.wait(ctx, retryRelease) {
		err = l.load(s)
	}
	if err != nil {
		settled(fmt.Errorf("read the outcome of a commit: %w", err))
		return
	}
	if s.state.EventID == eventID {
		l.settle(s, store.Result{Index: uint64(s.rev)}, state, settled)
		return
	}
	settled(store.ErrUnknown)
}

// outcomePatience bounds how long it is asked what became of a batch.
const outcomePatience = 10 * time.Second

// outcome asks the engine what became of a batch.
func (l *Ledger) outcome(ctx context.Context, id store.ID) (r store.Result, known bool) {
	r, ok, err := l.engine.Outcome(ctx, id)
	return r, err == nil && ok && !errors.Is(r.Err, store.ErrUnknown)
}
