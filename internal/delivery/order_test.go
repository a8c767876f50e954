package delivery

import (
	"log/slog"
	"testing"

	"rollcall/internal/clock"
	"rollcall/internal/store"
)

// Deletions of one log that are refused together leave its segments in the order
// in which they are to go, and the account of what stays is written.
func TestRefusedSegmentsKeepTheirPlace(t *testing.T) {
	l := &eventLog{d: &Dispatcher{clock: clock.System{}, log: slog.New(slog.DiscardHandler)}}
	src := &Source{parts: make([]sourcePart, 1)}
	p, other := &logPart{source: src}, &logPart{source: src}
	for i, log := range []*logPart{p, other, p, p, other, p} {
		s := &segment{log: log, begin: position(10*i + 1), end: position(10*i + 10), bytes: 1}
		log.sealed = append(log.sealed, s)
		l.sealed, l.unstored, l.size = append(l.sealed, s), append(l.unstored, s), l.size+1
	}
	mine := func(s *segment) bool { return s.log == p }
	one := func() func() bool {
		before := l.cutting
		return func() bool { return l.cutting > before }
	}
	first, second := l.take(mine, one()), l.take(mine, one())
	batches := []*flushBatch{new(flushBatch)}
	l.collect(batches, false)
	for _, cuts := range [][]*cut{first, second} {
		l.done(cuts[0], store.Result{Err: store.ErrFull})
	}
	var of []position
	for _, s := range l.sealed {
		if s.log == p {
			of = append(of, s.begin)
		}
	}
	if len(of) != 4 || of[0] != 1 || of[1] != 21 || of[2] != 31 || of[3] != 51 {
		t.Errorf("the segments that stay begin at %v", of)
	}
	if len(l.unstored) != 2 {
		t.Errorf("%d segments that may stay wait to be stored, want the 2 that were being deleted", len(l.unstored))
	}
}
