package delivery

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"rollcall/internal/event"
)

// Every setting is checked at both of its bounds and by its own name.
func TestSettingsAreCheckedAtTheirBounds(t *testing.T) {
	if bad := DefaultSettings().Validate("d"); len(bad) > 0 {
		t.Fatalf("the defaults: %v", bad.Err())
	}
	const day = 24 * time.Hour
	span := func(f func(*Settings) *time.Duration) func(*Settings, int64) {
		return func(s *Settings, n int64) { *f(s) = time.Duration(n) }
	}
	count := func(f func(*Settings) *int) func(*Settings, int64) {
		return func(s *Settings, n int64) { *f(s) = int(n) }
	}
	for _, c := range []struct {
		name   string
		lo, hi int64
		set    func(*Settings, int64)
	}{
		{"schedule", 1, 100, func(s *Settings, n int64) { s.Schedule = make([]time.Duration, n) }},
		{"schedule", 0, int64(7 * day), func(s *Settings, n int64) { s.Schedule = []time.Duration{time.Second, time.Duration(n)} }},
		{"responseTimeout", int64(time.Millisecond), int64(5 * time.Minute), span(func(s *Settings) *time.Duration { return &s.ResponseTimeout })},
		{"retryFloor", 0, int64(day), span(func(s *Settings) *time.Duration { return &s.RetryFloor })},
		{"busyFloor", 0, int64(day), span(func(s *Settings) *time.Duration { return &s.BusyFloor })},
		{"timeoutFloor", 0, int64(day), span(func(s *Settings) *time.Duration { return &s.TimeoutFloor })},
		{"retryAfterCap", 0, int64(day), span(func(s *Settings) *time.Duration { return &s.RetryAfterCap })},
		{"probation.threshold", 1, 1_000_000, count(func(s *Settings) *int { return &s.Probation.Threshold })},
		{"probation.busy", 0, int64(day), span(func(s *Settings) *time.Duration { return &s.Probation.Busy })},
		{"probation.timedOut", 0, int64(day), span(func(s *Settings) *time.Duration { return &s.Probation.TimedOut })},
		{"probation.socketError", 0, int64(day), span(func(s *Settings) *time.Duration { return &s.Probation.SocketError })},
		{"probation.other", 0, int64(day), span(func(s *Settings) *time.Duration { return &s.Probation.Other })},
		{"probation.cap", 0, int64(day), span(func(s *Settings) *time.Duration { return &s.Probation.Cap })},
		{"deadLetterDelay", 0, int64(day), span(func(s *Settings) *time.Duration { return &s.DeadLetterDelay })},
		{"deadLetterGiveUp", 0, int64(7 * day), span(func(s *Settings) *time.Duration { return &s.DeadLetterGiveUp })},
		{"deadLetters.age", int64(time.Hour), int64(100 * 365 * day), span(func(s *Settings) *time.Duration { return &s.DeadLetters.Age })},
		{"deadLetters.bytes", 16 << 20, math.MaxInt64 - 1, func(s *Settings, n int64) { s.DeadLetters.Bytes = n }},
		{"windowEvents", 2, 1_000_000, count(func(s *Settings) *int { return &s.WindowEvents })},
		{"windowBytes", 64 << 10, 1 << 30, count(func(s *Settings) *int { return &s.WindowBytes })},
		{"maxInFlight", 1, 10_000, count(func(s *Settings) *int { return &s.MaxInFlight })},
		{"workers", 1, 100_000, count(func(s *Settings) *int { return &s.Workers })},
		{"readers", 1, 64, count(func(s *Settings) *int { return &s.Readers })},
		{"cursorInterval", int64(time.Millisecond), int64(time.Minute), span(func(s *Settings) *time.Duration { return &s.CursorInterval })},
		{"cursorEvents", 1, 1_000_000, count(func(s *Settings) *int { return &s.CursorEvents })},
		{"shutdownGrace", 0, int64(5 * time.Minute), span(func(s *Settings) *time.Duration { return &s.ShutdownGrace })},
		{"retention.age", int64(time.Minute), int64(365 * day), span(func(s *Settings) *time.Duration { return &s.Retention.Age })},
		{"retention.bytes", 0, math.MaxInt64 - 1, func(s *Settings, n int64) { s.Retention.Bytes = n }},
		{"retention.interval", int64(time.Second), int64(day), span(func(s *Settings) *time.Duration { return &s.Retention.Interval })},
	} {
		for n, good := range map[int64]bool{c.lo: true, c.hi: true, c.lo - 1: false, c.hi + 1: c.hi == math.MaxInt64-1} {
			s := DefaultSettings()
			if c.name == "schedule" && n < 0 && c.lo == 1 {
				continue
			}
			c.set(&s, n)
			bad := s.Validate("d")
			if good && len(bad) != 0 || !good && (len(bad) != 1 || bad[0].Target != "d."+c.name) {
				t.Errorf("%s = %d: %v", c.name, n, bad.Err())
			}
		}
	}
	for jitter, good := range map[float64]bool{0: true, 1: true, -0.01: false, 1.01: false, math.NaN(): false} {
		s := DefaultSettings()
		s.Jitter = jitter
		if bad := s.Validate("d"); (len(bad) == 0) != good {
			t.Errorf("jitter %v: %v", jitter, bad.Err())
		}
	}
	s := DefaultSettings()
	s.DeadLetters = DeadLetterSettings{}
	if bad := s.Validate("d"); len(bad) > 0 {
		t.Errorf("no bounds of dead letters: %v", bad.Err())
	}
}

// prefixes calls f with every proper prefix of value.
func prefixes(value []byte, f func([]byte)) {
	for n := range value {
		f(slices.Clone(value[:n]))
	}
}

// What is cut off, of another version or out of range is no record.
func TestMalformedRecords(t *testing.T) {
	retry := retryRecord{due: 5, attempts: 300, outcome: outcomes - 1, reason: reasons - 1, last: 1 << 40, since: 1 << 41, accepted: 1 << 42}
	value := retry.append(nil)
	if got, err := decodeRetry(waiting, 5, value); err != nil || got != retry {
		t.Errorf("%+v, %v", got, err)
	}
	bad := func(what string, value []byte, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: % x is taken", what, value)
		}
	}
	prefixes(value, func(v []byte) { _, err := decodeRetry(waiting, 5, v); bad("retry", v, err) })
	for i, b := range []byte{3, outcomes, reasons} {
		v := slices.Clone(value)
		v[i] = b
		_, err := decodeRetry(waiting, 5, v)
		bad("retry", v, err)
	}
	many := retryRecord{attempts: 1 << 20}
	if got, err := decodeRetry(waiting, 0, many.append(nil)); err != nil || got != many {
		t.Errorf("%+v, %v", got, err)
	}
	many.attempts++
	_, err := decodeRetry(waiting, 0, many.append(nil))
	bad("retry", nil, err)

	var c tally
	c.delivered, c.deadLettered = 300, 301
	for i := range c.dropped {
		c.dropped[i] = uint64(400 + i)
	}
	for i := range c.failed {
		c.failed[i] = uint64(500 + i)
	}
	value = c.append(nil)
	prefixes(value, func(v []byte) { var c tally; bad("tally", v, c.add(v)) })
	other := slices.Clone(value)
	other[0]++
	bad("tally", other, new(tally).add(other))
	var sum tally
	for range 2 {
		if err := sum.add(value); err != nil {
			t.Fatal(err)
		}
	}
	if sum.delivered != 600 || sum.deadLettered != 602 || sum.dropped[reasons-1] != 2*c.dropped[reasons-1] ||
		sum.failed[outcomes-1] != 2*c.failed[outcomes-1] || sum.logged != sum.lost() || sum.settled() != 2*c.settled() || c.settled() != 601+c.lost() {
		t.Errorf("%+v", sum)
	}
	// A newer version may have more kinds.
	newer := []byte{recordVersion, 0, 7, 8, reasons + 1, outcomes + 2}
	for range reasons + outcomes + 3 {
		newer = append(newer, 9)
	}
	var n tally
	if err := n.add(newer); err != nil || n.delivered != 7 || n.lost() != 9*uint64(len(n.dropped)) {
		t.Errorf("%+v, %v", n, err)
	}

	e := &event.Event{ID: "a", Type: "T", Source: "/s", Time: time.Unix(1, 0).UTC(), Accepted: time.Unix(2, 0).UTC(), Data: []byte("{}")}
	value = AppendRecord(nil, []uint64{1, 300, 7}, e)
	for id, want := range map[uint64]bool{1: true, 300: true, 7: true, 2: false} {
		if has, err := recordHas(value, id); err != nil || has != want {
			t.Errorf("%d: %v, %v", id, has, err)
		}
	}
	if got, err := recordEvent(value); err != nil || got.ID != "a" {
		t.Errorf("%+v, %v", got, err)
	}
	prefixes(value[:1+1+1+2+1], func(v []byte) { _, err := recordHas(v, 1); bad("event", v, err) })
	value[0]++
	_, err = recordEvent(value)
	bad("event", value, err)
}

// Keys are read as they were written, and what is none is not.
func TestKeysOfRetryRecords(t *testing.T) {
	prefix := retryPrefix(3, "realm", 9)
	p := at(77, 5)
	key := retryKey(prefix, dying, 1234, p)
	if k, due, q, ok := retrySuffix(key[len(prefix):]); k != dying || due != 1234 || q != p || !ok {
		t.Errorf("%v %v %v %v", k, due, q, ok)
	}
	if _, _, _, ok := retrySuffix(key[len(prefix)+1:]); ok {
		t.Error("a suffix that is too short is taken")
	}
	key[len(prefix)] = shelves
	if _, _, _, ok := retrySuffix(key[len(prefix):]); ok {
		t.Error("a shelf that is none is taken")
	}
	if p.index() != 77 || p.ordinal() != 5 || endOf(77) <= p || endOf(77) >= at(78, 0) {
		t.Errorf("%d %d", p.index(), p.ordinal())
	}
}

// A segment is read as it was written, and nothing else is.
func TestSegmentRecords(t *testing.T) {
	p := &logPart{prefix: logPrefix(2, "realm")}
	s := &segment{log: p, begin: at(5, 0), end: at(900, 3), bytes: 12345, events: 678, first: -5, newest: 1 << 50}
	s.packed = binary.AppendUvarint(binary.AppendUvarint(nil, 300), 400)
	key, value := logKey(p.prefix, s.end), s.append(nil)
	got, err := decodeSegment(p, key, value)
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Fatalf("%+v, %v", got, err)
	}
	whole := len(value) - len(s.packed)
	prefixes(value, func(v []byte) {
		if got, err := decodeSegment(p, key, v); (err == nil) != (len(v) == whole) {
			t.Errorf("%d bytes: %+v, %v", len(v), got, err)
		}
	})
	backwards := *s
	backwards.begin = s.end + 1
	empty := *s
	empty.begin = s.end
	negative := *s
	negative.bytes = -1
	for _, c := range []struct {
		key, value []byte
		ok         bool
	}{
		{key[:len(key)-1], value, false},
		{append(slices.Clone(key), 0), value, false},
		{p.prefix[:2], value, false},
		{key, nil, false},
		{key, append([]byte{value[0] + 1}, value[1:]...), false},
		{key, backwards.append(nil), false},
		{key, negative.append(nil), false},
		{key, empty.append(nil), true},
	} {
		if _, err := decodeSegment(p, c.key, c.value); (err == nil) != c.ok {
			t.Errorf("key % x, value % x: %v", c.key, c.value, err)
		}
	}
}

// A fifo is what a slice would be.
func TestFifo(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var f fifo
	var model []*item
	for i := range 20_000 {
		switch n := r.IntN(8); {
		case n < 4 && (i/500)%2 == 0 || n == 0 || len(model) == 0: // it fills and drains in turns
			it := &item{pos: position(i)}
			f.push(it)
			model = append(model, it)
		case n < 7:
			if got := f.pop(); got != model[0] {
				t.Fatalf("step %d: %d, want %d", i, got.pos, model[0].pos)
			}
			model = model[1:]
		default:
			back := make([]*item, r.IntN(4))
			for j := range back {
				back[j] = &item{pos: position(1_000_000*j + i)}
			}
			f.unshift(back)
			model = append(slices.Clone(back), model...)
		}
		if f.len() != len(model) {
			t.Fatalf("step %d: %d, want %d", i, f.len(), len(model))
		}
		if len(f.items) > 2*len(model)+140 {
			t.Fatalf("step %d: %d places for %d items", i, len(f.items), len(model))
		}
	}
	for range 100 {
		f.push(&item{})
	}
	if f.clear(); f.len() != 0 {
		t.Error("not cleared")
	}
}

// The front of a lane goes as it is settled, in whatever order that is, and its
// places are given back.
func TestLaneAdvances(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var l lane
	next := position(0)
	for i := range 5000 {
		for l.waits() < 300+(i/1000)*100 {
			next++
			l.pending = append(l.pending, &item{lane: &l, pos: next, fromLog: true})
			l.seen = next
		}
		open := l.pending[l.head:]
		open[r.IntN(min(len(open), 20))].settled = true
		open[0].settled = true
		l.advance()
		if len(l.pending) > 2*l.waits()+2*256 {
			t.Fatalf("%d places for %d", len(l.pending), l.waits())
		}
		for _, it := range l.pending[len(l.pending):cap(l.pending)] {
			if it != nil {
				t.Fatal("what was given back is held on to")
			}
		}
		if l.waits() > 0 {
			if front := l.pending[l.head]; front.settled || l.cursor(next) != front.pos-1 {
				t.Fatalf("front %d, settled %v, cursor %d", front.pos, front.settled, l.cursor(next))
			}
		}
	}
	for _, it := range l.pending[l.head:] {
		it.settled = true
	}
	if l.advance(); l.waits() != 0 || l.cursor(next+10) != next+10 {
		t.Errorf("%d wait, cursor %d", l.waits(), l.cursor(next+10))
	}
	l.behind = true
	if l.cursor(next+10) != next {
		t.Errorf("behind: cursor %d", l.cursor(next+10))
	}
	l.written.position = next + 5
	if l.cursor(next+10) != next+5 {
		t.Errorf("the cursor goes back to %d", l.cursor(next+10))
	}
	l.pass(next + 1)
	if l.waits() != 0 {
		t.Error("with nothing open there is nothing to pass")
	}
	l.pending = append(l.pending, &item{pos: next + 1})
	l.pass(next + 2)
	if l.waits() != 2 || !l.pending[1].settled {
		t.Error("what was passed behind an open one is not kept")
	}
}

// What the log has beyond what was read is counted once, whichever of the read
// and the notification is first.
func TestLaneCountsWhatIsUnread(t *testing.T) {
	var l lane
	l.leave(10)
	l.offered = 1
	l.leave(20)
	l.offered = 2
	if l.unread != 2 || l.unreadSince != 10 {
		t.Fatalf("%d since %d", l.unread, l.unreadSince)
	}
	l.found(3, 30) // not notified yet
	if l.unread != 2 {
		t.Fatalf("%d", l.unread)
	}
	l.found(1, 10)
	if l.unread != 1 || l.unreadSince != 10 {
		t.Fatalf("%d since %d", l.unread, l.unreadSince)
	}
	l.found(2, 20)
	if l.unread != 0 || l.unreadSince != 20 {
		t.Fatalf("%d since %d", l.unread, l.unreadSince)
	}
	l.found(2, 40)
	if l.unread != 0 || l.unreadSince != 20 {
		t.Fatalf("below nothing: %d since %d", l.unread, l.unreadSince)
	}
}

// A shelf knows the first record that nobody owns, also if one is put before it
// while it is being read.
func TestShelf(t *testing.T) {
	var s shelf
	s.put(place{due: 50, pos: 5})
	s.put(place{due: 50, pos: 3})
	s.put(place{due: 70, pos: 1})
	if s.next != 50 || s.from != (place{}) {
		t.Fatalf("%+v", s)
	}
	s.fresh = false // a read begins
	s.read(place{due: 60, pos: 1}, 70)
	if s.next != 70 || s.from != (place{60, 1}) {
		t.Fatalf("nothing was put meanwhile: %+v", s)
	}
	s.fresh = false
	s.put(place{due: 80, pos: 9})
	s.put(place{due: 65, pos: 9})
	s.put(place{due: 90, pos: 9})
	s.read(place{due: 75, pos: 1}, 85)
	if s.next != 65 || s.from != (place{65, 9}) {
		t.Fatalf("one was put before the end: %+v", s)
	}
	s.fresh = false
	s.put(place{due: 99, pos: 9})
	s.read(place{due: 80, pos: 1}, 0)
	if s.next != 99 || s.from != (place{80, 1}) {
		t.Fatalf("one was put behind the end, and none was there: %+v", s)
	}
	s.put(place{due: 80, pos: 0})
	if s.from != (place{80, 0}) || s.next != 80 {
		t.Fatalf("one of the same time before the place: %+v", s)
	}
}

// The oldest of many is never later than it is, and a minute early at most.
func TestAges(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var a ages
	if a.oldest() != 0 {
		t.Fatal("none is old")
	}
	var model []int64
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	for i := range 3000 {
		switch n := r.IntN(5); {
		case n < 2 || len(model) == 0:
			at := base + r.Int64N(int64(10*time.Minute))
			a.add(at)
			model = append(model, at)
		case n == 2:
			var b ages
			for range r.IntN(3) {
				at := base + r.Int64N(int64(10*time.Minute))
				b.add(at)
				model = append(model, at)
			}
			a.merge(b)
		default:
			k := r.IntN(len(model))
			a.remove(model[k])
			model = slices.Delete(model, k, k+1)
		}
		if len(model) == 0 {
			if a.oldest() != 0 {
				t.Fatalf("step %d: %d with none", i, a.oldest())
			}
			continue
		}
		want, got := slices.Min(model), a.oldest()
		if got > want || want-got >= int64(time.Minute) {
			t.Fatalf("step %d: %v is the oldest, it says %v", i, want-base, got-base)
		}
	}
	var empty ages
	empty.merge(ages{1: {events: 1, oldest: 5}})
	if empty.oldest() != 5 {
		t.Error("merged into none")
	}
	if unixNano(time.Time{}) != 0 || unixNano(time.Unix(0, 7)) != 7 {
		t.Error("times are not kept as they are")
	}
}

// A rate spaces attempts evenly, and time without attempts is not saved up.
func TestThrottle(t *testing.T) {
	now := time.Unix(1000, 0)
	var th throttle
	th.spend(0, now)
	if !th.next.IsZero() {
		t.Error("no rate holds nothing back")
	}
	th.spend(-1, now)
	th.spend(60, now)
	th.spend(60, now)
	if got := th.next.Sub(now); got != 2*time.Second {
		t.Errorf("after two of sixty a minute: %v", got)
	}
	later := now.Add(time.Hour)
	th.spend(120, later)
	if got := th.next.Sub(later); got != time.Second/2 {
		t.Errorf("after an hour: %v", got)
	}
}

// The delay after an attempt is that of the schedule, its last step for ever,
// and no less than what the failure, the endpoint and a probation ask for.
func TestBackoff(t *testing.T) {
	s := DefaultSettings()
	s.Schedule = []time.Duration{time.Second, time.Minute}
	s.Jitter, s.RetryFloor, s.BusyFloor, s.TimeoutFloor, s.RetryAfterCap = 0.5, 0, 3*time.Second, 4*time.Second, 10*time.Second
	for _, c := range []struct {
		n         int
		r         Result
		random    float64
		probation time.Duration
		want      time.Duration
	}{
		{0, Result{}, 0, 0, time.Second},
		{1, Result{}, 0, 0, time.Second},
		{1, Result{}, 0.5, 0, 1250 * time.Millisecond},
		{2, Result{}, 0, 0, time.Minute},
		{3, Result{}, 0, 0, time.Minute},
		{1, Result{Status: 503}, 0, 0, 3 * time.Second},
		{1, Result{Status: 408}, 0, 0, 4 * time.Second},
		{1, Result{Status: 500}, 0, 0, time.Second},
		{1, Result{RetryAfter: 5 * time.Second}, 0, 0, 5 * time.Second},
		{1, Result{RetryAfter: time.Hour}, 0, 0, 10 * time.Second},
		{1, Result{}, 0, 7 * time.Second, 7 * time.Second},
	} {
		if got := s.backoff(c.n, c.r, c.random, c.probation); got != c.want {
			t.Errorf("attempt %d, %+v: %v, want %v", c.n, c.r, got, c.want)
		}
	}
	for o, want := range map[Outcome]time.Duration{Busy: s.Probation.Busy, TimedOut: s.Probation.TimedOut, SocketError: s.Probation.SocketError,
		NotFound: s.Probation.Other, Forbidden: s.Probation.Other, GenericError: 0, BadRequest: 0} {
		if got := s.Probation.window(o); got != want {
			t.Errorf("%s: %v, want %v", o, got, want)
		}
	}
}

// A destination that fails is left alone for twice as long each time, a probe
// decides, and what was under way before does not.
func TestHealth(t *testing.T) {
	p := ProbationSettings{Enabled: true, Threshold: 2, Busy: 10 * time.Second, Cap: 35 * time.Second}
	busy, fine := Result{Verdict: TryLater, Outcome: Busy}, Result{Verdict: Delivered}
	now := time.Unix(1000, 0)
	var h health
	seen := func(r Result, after time.Duration, want time.Duration) {
		t.Helper()
		began := now
		now = now.Add(after)
		h.observe(&p, r, began, now, time.Hour)
		if got := h.remaining(now); got != want {
			t.Fatalf("%v, want %v: %+v", got, want, h)
		}
	}
	seen(busy, 0, 0)
	seen(Result{Verdict: TryLater, Outcome: GenericError}, 0, 0) // does not count
	seen(busy, 0, 10*time.Second)
	if !h.onProbation() || !h.single() {
		t.Error("it is not on probation")
	}
	seen(busy, 4*time.Second, 6*time.Second) // was under way
	seen(busy, 6*time.Second, 20*time.Second)
	seen(busy, 20*time.Second, 35*time.Second)
	seen(busy, 35*time.Second, 35*time.Second)
	seen(fine, 0, 0)
	if h.onProbation() || h.single() {
		t.Error("it is still on probation")
	}
	wait := Result{Verdict: TryLater, Outcome: Busy, RetryAfter: 5 * time.Second}
	seen(wait, 0, 5*time.Second)
	began := now.Add(-time.Second)
	h.observe(&p, fine, began, now, time.Hour) // was under way
	if h.remaining(now) != 5*time.Second || !h.single() {
		t.Errorf("an answer to what was under way: %+v", h)
	}
	shorter := wait
	shorter.RetryAfter = time.Second
	h.heed(shorter, now, now, time.Hour)
	if h.remaining(now) != 5*time.Second {
		t.Errorf("a shorter one: %+v", h)
	}
	h.heed(Result{Verdict: TryLater, RetryAfter: time.Hour}, now, now, time.Minute)
	if h.remaining(now) != time.Minute {
		t.Errorf("more than may be asked for: %+v", h)
	}
	now = now.Add(time.Minute)
	seen(fine, 0, 0)
	if h.single() {
		t.Errorf("the probe was answered: %+v", h)
	}
	off := ProbationSettings{Threshold: 1, Busy: time.Second, Cap: time.Second}
	h = health{}
	if h.observe(&off, busy, now, now, time.Hour); h.onProbation() {
		t.Error("probation is not enabled")
	}
}

// An attempt that fails is counted by its outcome and shown; one that succeeds
// is neither.
func TestTallyObserves(t *testing.T) {
	var c tally
	c.observe(Result{Verdict: Delivered, Outcome: Success}, time.Unix(1, 0))
	if c.lastError != nil || c.failed != [outcomes]uint64{} {
		t.Errorf("%+v", c)
	}
	c.observe(Result{Verdict: Refused, Outcome: BadRequest, Status: 400, Detail: "x"}, time.Unix(2, 0))
	if c.failed[BadRequest] != 1 || c.lastError == nil || c.lastError.Status != 400 || !c.lastError.Time.Equal(time.Unix(2, 0)) || !strings.Contains(c.lastError.Outcome, "BadRequest") {
		t.Errorf("%+v", c)
	}
	c.dropped[0], c.dropped[reasons-1] = 3, 4
	if c.lost() != 7 || c.settled() != 7 {
		t.Errorf("%d lost, %d settled", c.lost(), c.settled())
	}
}

// The directories of dead-letter files go when their hour, day, month or year has
// been over for three hours, and no other ones.
func TestDirectoriesThatAreOver(t *testing.T) {
	const root = "/root"
	now := time.Date(2026, 3, 1, 3, 30, 0, 0, time.UTC)
	for dir, want := range map[string]bool{
		root:                                false,
		root + "/dir":                       false,
		root + "/dir/sub":                   false,
		root + "/dir/sub/2025":              true,
		root + "/dir/sub/2026":              false,
		root + "/dir/sub/2026/1":            true,
		root + "/dir/sub/2026/2":            true,
		root + "/dir/sub/2026/3":            false,
		root + "/dir/sub/2026/2/28":         true,
		root + "/dir/sub/2026/3/1":          false,
		root + "/dir/sub/2026/2/28/22":      true,
		root + "/dir/sub/2026/2/28/23":      true,
		root + "/dir/sub/2026/3/1/0":        false,
		root + "/dir/sub/2026/2/28/22/more": false,
		root + "/dir/sub/archive":           false,
		root + "/dir/sub/2025/13":           false,
	} {
		if got := over(dir, root, now); got != want {
			t.Errorf("%s: %v", dir, got)
		}
	}
}

// One file takes so many events and so many bytes, and at least one.
func TestOneFile(t *testing.T) {
	events := func(n, size int) (items []*item) {
		for range n {
			items = append(items, &item{event: &event.Event{Data: make([]byte, size)}})
		}
		return items
	}
	small := (&event.Event{}).Size()
	for _, c := range []struct {
		items []*item
		want  int
	}{
		{events(deadFile-1, 0), deadFile - 1},
		{events(deadFile, 0), deadFile},
		{events(deadFile+1, 0), deadFile},
		{events(3, deadFileBytes+1), 1},
		{events(2, deadFileBytes/2-small), 2},
		{append(events(2, deadFileBytes/2-small), events(1, 1)...), 2},
		{nil, 0},
	} {
		if got := len(oneFile(c.items)); got != c.want {
			t.Errorf("%d events: %d in one file, want %d", len(c.items), got, c.want)
		}
	}
}

// Both reasons to leave a destination alone count, the later one.
func TestHeldUntil(t *testing.T) {
	early, late := time.Unix(10, 0), time.Unix(20, 0)
	for _, c := range []struct {
		h    health
		want time.Time
	}{
		{health{}, time.Time{}},
		{health{asked: early}, early},
		{health{window: time.Second, until: early}, early},
		{health{window: time.Second, until: late, asked: early}, late},
		{health{window: time.Second, until: early, asked: late}, late},
		{health{until: late, asked: early}, early}, // its probation is over
	} {
		if got := c.h.heldUntil(); !got.Equal(c.want) {
			t.Errorf("%+v: %v", c.h, got)
		}
	}
}
