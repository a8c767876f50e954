package clock

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// How a Steady clock follows the wall clock.
const (
	// Tolerance is how far the wall clock may be from where it is expected
	// without having jumped: that much is followed at once, as a clock that is
	// slewed, or stepped by a second, has to be.
	Tolerance = 5 * time.Second
	// Hold is how long a jump must last before it is believed.
	Hold = time.Hour
	// Away is how far beyond the last time that an earlier process recorded the
	// wall clock may stand at a start without that being taken for a jump: a
	// machine may have been off.
	Away = 7 * 24 * time.Hour
)

// Unset is before any time that a clock which has been set can show: machines
// without a battery begin in 1970, or when their image was made.
var Unset = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Instant is one moment by both readings.
type Instant struct {
	Wall time.Time     // of the steady clock, in UTC
	Mono time.Duration // see Clock.Monotonic
}

// Steady is a Clock that also tells a time which does not jump with the wall
// clock: a machine whose time was set an hour ahead, by mistake or because it
// was an hour slow, has not been running for an hour longer, and nothing may
// expire, be trimmed or be given up because of it. A jump is reported once and
// believed when it has lasted for Hold; if the wall clock comes back before,
// nothing has happened. A clock that shows a time before 2024 has not been set:
// its first jump to a later time is believed at once, and none to an earlier
// one ever is.
//
// It notices a jump when it is asked for the time. Its methods may be called
// concurrently.
type Steady struct {
	Clock
	log *slog.Logger

	// ahead is how far the steady time is ahead of the monotonic reading, in
	// nanoseconds since 1970.
	ahead   atomic.Int64
	holding atomic.Bool // jump is not 0

	mu    sync.Mutex
	began Instant // of this clock, or of Resume
	unset bool    // since Resume: the wall clock has not been set
	// eras are the stretches of the steady time that ended in a leap ahead which
	// was believed, the newest last: no more of them than maxEras.
	eras  []era
	jump  time.Duration // of the wall clock, not believed yet; 0: none
	since time.Duration // when it was noticed, by the monotonic reading
}

// NewSteady returns a steady clock over c that begins with c's wall time.
// Jumps are logged to log, which may be nil.
func NewSteady(c Clock, log *slog.Logger) *Steady {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Steady{Clock: c, log: log}
	wall, mono := c.Now(), c.Monotonic()
	s.ahead.Store(wall.UnixNano() - int64(mono))
	s.began = Instant{Wall: wall.UTC(), Mono: mono}
	return s
}

// era is a stretch of the steady time in this process, and how far the time
// leaped at its end.
type era struct {
	from, to time.Time
	leap     time.Duration
}

// maxEras bounds what is remembered of believed jumps.
const maxEras = 16

// Resume tells a clock that was just made the newest steady time that an earlier
// process recorded. Where the wall clock stands before that, or further beyond
// than Away, it is taken to have jumped from there, and the jump is believed
// when it has lasted for Hold: nothing that the earlier process left is judged by
// a clock that was set wrong while nothing ran. A clock that has not been set yet is
// judged so, too, when it is.
func (s *Steady) Resume(last time.Time) {
	wall, mono := s.Clock.Now(), s.Clock.Monotonic()
	off := wall.Sub(last)
	if last.Before(Unset) || off >= -Tolerance && off <= Away {
		return
	}
	s.log.Warn("the wall clock is not where the last start left it; look whether it is right", "shows", wall.UTC(), "lastRecorded", last.UTC())
	s.mu.Lock()
	s.ahead.Store(last.UnixNano() - int64(mono))
	s.began = Instant{Wall: last.UTC(), Mono: mono}
	s.unset = wall.Before(Unset)
	s.mu.Unlock()
	s.Instant() // notices the jump
}

// Age returns how long ago the steady time t was, also where t was stored
// before a jump of the clock was believed: a leap ahead ages nothing. What was
// stored by an earlier process whose clock had not been set counts from the
// start of this one, as when it was is not known.
func (s *Steady) Age(t time.Time) time.Duration {
	now := s.Instant()
	age := now.Wall.Sub(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.Before(Unset) && !now.Wall.Before(Unset) && (len(s.eras) == 0 || t.Before(s.eras[0].from)) {
		return now.Mono - s.began.Mono
	}
	for i := range s.eras {
		if e := s.eras[i]; !t.Before(e.from) && !t.After(e.to) {
			for _, later := range s.eras[i:] {
				age -= later.leap
			}
			return max(0, min(age, now.Mono-s.began.Mono)) // it was in this process
		}
	}
	return age
}

// leap follows the wall clock. It is locked.
func (s *Steady) leap(off, mono time.Duration) {
	if off > 0 {
		from := s.began.Wall
		if n := len(s.eras); n > 0 {
			from = s.eras[n-1].to.Add(s.eras[n-1].leap)
		}
		if to := time.Unix(0, s.ahead.Load()+int64(mono)).UTC(); !to.Before(from) { // else it was set back meanwhile
			s.eras = append(s.eras[max(0, len(s.eras)-maxEras+1):], era{from, to, off})
		}
	}
	s.ahead.Add(int64(off))
	s.jump = 0
}

// SteadyOf returns c if it is a steady clock, else one over c that logs
// nothing.
func SteadyOf(c Clock) *Steady {
	if s, ok := c.(*Steady); ok {
		return s
	}
	return NewSteady(c, nil)
}

// Steady returns the steady time, in UTC.
func (s *Steady) Steady() time.Time { return s.Instant().Wall }

// Instant returns the present moment.
func (s *Steady) Instant() Instant {
	wall, mono := s.Clock.Now(), s.Clock.Monotonic()
	ahead := s.ahead.Load()
	if off := time.Duration(wall.UnixNano() - int64(mono) - ahead); off.Abs() > slack || s.holding.Load() {
		ahead = s.follow(off, mono, wall)
	}
	return Instant{Wall: time.Unix(0, ahead+int64(mono)).UTC(), Mono: mono}
}

// Jumped returns how far the wall clock has jumped without being believed yet;
// 0 if it has not.
func (s *Steady) Jumped() time.Duration {
	s.Instant()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jump
}

// slack is below what two readings taken one after the other may differ by
// when nothing has happened: it is not worth a lock.
const slack = time.Millisecond

// follow decides what becomes of a wall clock that is off from where it is
// expected, and returns how far the steady time is ahead of the monotonic one.
func (s *Steady) follow(off, mono time.Duration, wall time.Time) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		s.holding.Store(s.jump != 0)
		s.unset = s.unset && wall.Before(Unset)
	}()
	switch {
	case off.Abs() <= Tolerance:
		if s.jump != 0 {
			s.log.Warn("the wall clock is back where it was expected", "jump", s.jump, "lasted", mono-s.since)
			s.jump = 0
		}
		s.ahead.Add(int64(off))
	case !wall.Before(Unset) && (wall.Add(-off).Before(Unset) || s.unset && off > 0 && off <= Away):
		s.log.Warn("the wall clock has been set", "jump", off)
		s.leap(off, mono)
	case s.jump == 0 || (off-s.jump).Abs() > Tolerance:
		s.jump, s.since = off, mono
		s.log.Warn("the wall clock has jumped: nothing expires or is trimmed because of it unless it lasts",
			"jump", off, "believedAfter", Hold)
	case mono-s.since >= Hold && !wall.Before(Unset):
		s.log.Warn("the wall clock's jump has lasted and is believed", "jump", off)
		s.leap(off, mono)
	}
	return s.ahead.Load()
}
