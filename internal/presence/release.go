package presence

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/store"
)

// retryRelease is how long a Disconnected that could not be committed waits
// for its next try: space may have returned.
const retryRelease = 250 * time.Millisecond

type release struct {
	hold     *Hold
	reason   disconnect.Reason
	evidence disconnect.Evidence
	stage    Stage
}

// Release ends the hold: Disconnected(n, reason) is committed, unless a
// take-over ended it first. It returns at once; the first call counts. A
// release is never given up while the process lives: if the disk is full
// beyond its reserve, it is tried again until it succeeds.
// Stage, which may be nil, adds to the batch of the Disconnected; it is not
// called if there is none.
func (h *Hold) Release(r disconnect.Reason, v disconnect.Evidence, stage Stage) {
	if !r.Valid() {
		r = disconnect.ServerError
	}
	h.once.Do(func() {
		op := &operation{release: &release{hold: h, reason: r, evidence: v, stage: stage}}
		// Only claims are ever turned away.
		_ = h.ledger.enqueue(h.seat.name, op)
	})
}

// Released is closed once the hold has ended, durably.
func (h *Hold) Released() <-chan struct{} {
	for {
		if ch := h.released.Load(); ch != nil {
			return *ch
		}
		ch := make(chan struct{})
		h.released.CompareAndSwap(nil, &ch)
	}
}

func (h *Hold) settled() {
	ended := make(chan struct{})
	close(ended)
	if asked := h.released.Swap(&ended); asked != nil {
		close(*asked)
	}
	h.ledger.open.Add(-1)
	h.ledger.sure()
}

func (l *Ledger) runRelease(s *seat, op *operation) {
	rel := op.release
	if s.holder != rel.hold || !rel.hold.open { // taken over meanwhile
		l.next(s)
		return
	}
	if !s.state.Open() { // an earlier try succeeded after all, unknown to us
		l.released(s, rel.hold)
		return
	}
	t := l.ending(s, l.instant(s))
	t.Reason, t.Evidence, t.stage = rel.reason, rel.evidence, rel.stage
	ts := []Transition{t}
	l.commit(s, store.Reserve, ts, func(err error) {
		if err != nil {
			l.fail(s, op, err)
			return
		}
		l.metrics.count(&ts[0])
		l.released(s, rel.hold)
	})
}

func (l *Ledger) released(s *seat, h *Hold) {
	s.holder = nil
	h.open = false
	l.unstall(s)
	h.settled()
	l.next(s)
}

// releaseFailed keeps the seat and tries again. Claims that wait are refused
// meanwhile, because they could only fail the same way.
func (l *Ledger) releaseFailed(s *seat, op *operation, err error) {
	if errors.Is(err, store.ErrClosed) {
		// The process ends; the next incarnation closes the session.
		l.next(s)
		return
	}
	if errors.Is(err, store.ErrConflict) && op.tries < 3 { // read again and decide again
		op.tries++
		l.metrics.retries.Inc()
		l.work.Go(func() { l.run(s, op) })
		return
	}
	if op.tries == 0 {
		l.log.Warn("a disconnect could not be stored, trying again", "session", s.name.session, "err", err)
	}
	op.tries++
	l.metrics.retries.Inc()
	refused := l.stall(s)
	for _, w := range refused {
		l.claimFailed(s, w.claim, ErrFull)
	}
	l.clock.AfterFunc(retryRelease, func() { l.run(s, op) })
}

// stall marks s so that claims are refused, and takes out those that wait.
func (l *Ledger) stall(s *seat) (refused []*operation) {
	sh := l.shard(s.name)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.stalled = true
	kept := s.waiting[:0]
	for _, w := range s.waiting {
		if w.claim != nil {
			refused = append(refused, w)
		} else {
			kept = append(kept, w)
		}
	}
	s.waiting = kept
	return refused
}

func (l *Ledger) unstall(s *seat) {
	if !s.stalled {
		return
	}
	sh := l.shard(s.name)
	sh.mu.Lock()
	s.stalled = false
	sh.mu.Unlock()
}

type sweep struct {
	holder Incarnation
	number uint64 // that it held the session with
	key    []byte // of the index of open sessions
	done   func(error)
}

// runSweep closes a session that a dead incarnation left open. A claim may
// have done so already.
func (l *Ledger) runSweep(s *seat, op *operation) {
	sw := op.sweep
	s.adopt(sw.holder, sw.number)
	if !s.state.Open() || s.state.Holder != sw.holder || s.holder != nil {
		l.dropEntry(s, op)
		return
	}
	t := l.ending(s, l.instant(s))
	t.Reason, t.Evidence, t.stage = disconnect.ServerError, crashEvidence(sw.holder, l.self), l.crashed
	ts := []Transition{t}
	l.commit(s, store.Reserve, ts, func(err error) {
		if err != nil {
			l.fail(s, op, err)
			return
		}
		l.metrics.count(&ts[0])
		l.metrics.swept.Inc()
		sw.done(nil)
		l.next(s)
	})
}

// dropEntry deletes an entry of the index of open sessions that does not say
// what is. A claim that has closed the session has done so already.
func (l *Ledger) dropEntry(s *seat, op *operation) {
	b := store.NewBatch(store.Reserve)
	b.Require(sessionKey(s.partition, s.name.realm, s.name.session), s.rev)
	b.Delete(op.sweep.key)
	l.engine.Submit(b, func(r store.Result) {
		if errors.Is(r.Err, store.ErrConflict) {
			r.Err = nil // it has moved on since: the next sweep looks again
			s.known = false
		}
		op.sweep.done(r.Err)
		l.next(s)
	})
}

// sweepAhead bounds how many sessions are being swept at once.
const sweepAhead = 512

// Sweep closes every session that other incarnations left open, while claims
// go on: those of earlier starts of this node, and those of nodes of another
// name, because a store has one node and that may have been renamed. It returns how many it found, and an error if some
// could not be closed or ctx ended first.
func (l *Ledger) Sweep(ctx context.Context) (int, error) {
	snap := l.engine.Snapshot()
	defer snap.Close()
	slots := make(chan struct{}, sweepAhead)
	failed := make(chan error, 1)
	found := 0
	for p := range l.engine.Partitions() {
		lower := []byte{uint8(p), byte(store.TableOpen)}
		it := snap.Iter(lower, store.PrefixEnd(lower))
		for it.Next() {
			realm, in, session, ok := parseOpenKey(it.Key())
			number, n := binary.Uvarint(it.Value())
			if !ok || n <= 0 {
				l.setAside.Add(it.Key(), errRecord)
				if !ok {
					continue
				}
				number = 0 // the session's state knows it
			}
			if in == l.self {
				continue
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				it.Close()
				return found, context.Cause(ctx)
			}
			found++
			op := &operation{sweep: &sweep{holder: in, number: number, key: bytes.Clone(it.Key()), done: func(err error) {
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
				<-slots
			}}}
			_ = l.enqueue(name{realm, session}, op) // only claims are ever turned away
		}
		err := it.Err()
		it.Close()
		if err != nil {
			return found, err
		}
	}
	for range sweepAhead { // wait for those in flight
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return found, context.Cause(ctx)
		}
	}
	select {
	case err := <-failed:
		return found, err
	default:
		return found, nil
	}
}

// Run sweeps what earlier incarnations left open, trying again until nothing
// is left, and then applies retention until ctx ends. swept, which may be nil,
// is told once how many sessions there were.
func (l *Ledger) Run(ctx context.Context, swept func(n int)) error {
	defer l.work.Wait()
	start := l.clock.Monotonic()
	total := 0
	for {
		n, err := l.Sweep(ctx)
		total += n
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			break
		}
		l.log.Warn("sessions of an earlier start could not be closed, trying again", "err", err)
		if !l.wait(ctx, time.Second) {
			return nil
		}
	}
	if total > 0 {
		l.log.Info("closed the sessions that an earlier start left open",
			"sessions", total, "took", l.clock.Monotonic()-start)
	}
	if swept != nil {
		swept(total)
	}
	return l.retain(ctx)
}

// wait sleeps d on the ledger's clock and reports whether ctx still goes on.
func (l *Ledger) wait(ctx context.Context, d time.Duration) bool {
	woken := make(chan struct{})
	t := l.clock.AfterFunc(d, func() { close(woken) })
	defer t.Stop()
	select {
	case <-woken:
		return true
	case <-ctx.Done():
		return false
	}
}
