package pebble

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/store"
)

// pollEvery is how long a measurement of space is good for while there is
// plenty; pollAtLeast is how often it is repeated at most when there is not.
const (
	pollEvery   = 250 * time.Millisecond
	pollAtLeast = 5 * time.Millisecond
)

// space knows how much room there is: what the file system and the store said
// when last asked, less what was written since. Nothing polls while nothing is
// written. It may be used concurrently.
type space struct {
	clock   clock.Clock
	free    func() (uint64, error) // of the file system
	used    func() uint64          // by the store
	written *atomic.Uint64         // by the store since it was opened
	stop    <-chan struct{}        // ends pauses

	low, reserve uint64 // marks for bytes free on the file system
	limit        uint64 // of bytes used, 0 for none
	limitLow     uint64 // marks for bytes left of the limit
	limitReserve uint64

	mu        sync.Mutex
	polled    bool
	at        time.Time
	freeAt    uint64
	usedAt    uint64
	writtenAt uint64
}

func newSpace(o *Options, written *atomic.Uint64, stop <-chan struct{}) *space {
	return &space{
		clock: o.Clock, free: o.FreeSpace, written: written, stop: stop,
		low: o.LowWater, reserve: o.Reserve, limit: o.Limit,
		limitLow:     min(o.LowWater, o.Limit/4),
		limitReserve: min(o.Reserve, o.Limit/16),
	}
}

// room is how many bytes each class of work may still write.
type room struct{ normal, reserve uint64 }

// take reserves n bytes for work of class c, or reports that there is no room.
func (r *room) take(c store.Class, n uint64) bool {
	if (c == store.Normal && r.normal < n) || r.reserve < n {
		return false
	}
	r.normal = sub(r.normal, n)
	r.reserve -= n
	return true
}

// room measures anew if the last measurement is too old, or if by it there is
// no room for Normal work.
func (s *space) room() room {
	now := s.clock.Now()
	s.mu.Lock()
	age := now.Sub(s.at)
	fresh := s.polled && age >= 0 && age < pollEvery
	free, left := s.estimate()
	s.mu.Unlock()
	if !fresh || age >= pollAtLeast && (free <= s.low || left <= s.limitLow) {
		s.poll(now)
		s.mu.Lock()
		free, left = s.estimate()
		s.mu.Unlock()
	}
	return room{
		normal:  min(sub(free, s.low), sub(left, s.limitLow)),
		reserve: min(sub(free, s.reserve), sub(left, s.limitReserve)),
	}
}

// estimate returns the bytes free on the file system and left of the limit. The
// caller holds mu.
func (s *space) estimate() (free, left uint64) {
	since := s.written.Load() - s.writtenAt
	free, left = sub(s.freeAt, since), math.MaxUint64
	if s.limit > 0 {
		left = sub(s.limit, s.usedAt+since)
	}
	return free, left
}

// poll asks the file system and the store, unless the engine has stopped. A
// file system that cannot answer does not stop the service: running out is then
// met by the ballast.
func (s *space) poll(now time.Time) {
	select {
	case <-s.stop:
		return
	default:
	}
	written := s.written.Load()
	used := s.used()
	free, err := s.free()
	if err != nil {
		free = math.MaxUint64
	}
	s.mu.Lock()
	s.writtenAt, s.usedAt, s.freeAt, s.at, s.polled = written, used, free, now, true
	s.mu.Unlock()
}

// roomToCompact reports whether a compaction may begin another file.
func (s *space) roomToCompact() bool {
	s.room()
	s.mu.Lock()
	defer s.mu.Unlock()
	free, _ := s.estimate()
	return free > s.reserve/2
}

// roomForBallast reports whether n bytes can be set aside again.
func (s *space) roomForBallast(n uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	free, _ := s.estimate()
	return free > s.low+n
}

// smallest is the room below which not even small work is done.
const smallest = 256

// usage returns what is taken and left.
func (s *space) usage() store.Usage {
	r := s.room()
	s.mu.Lock()
	defer s.mu.Unlock()
	return store.Usage{Bytes: s.usedAt, Limit: s.limit, FreeBytes: s.freeAt, Full: r.normal < smallest}
}

// lastUsed returns what the store took when last asked.
func (s *space) lastUsed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usedAt
}

// pause waits for d or until the engine stops.
func (s *space) pause(d time.Duration) {
	done := make(chan struct{})
	t := s.clock.AfterFunc(d, func() { close(done) })
	defer t.Stop()
	select {
	case <-done:
	case <-s.stop:
	}
}

func sub(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}
