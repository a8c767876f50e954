package pebble

import (
	"math"
	"sync"
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
	clock clock.Clock
	free  func() (uint64, error) // of the file system
	used  func() used            // by the store
	disk  *disk                  // counts what is written
	stop  <-chan struct{}        // ends pauses

	low, reserve uint64 // marks for bytes free on the file system
	limit        uint64 // of bytes used, 0 for none
	limitLow     uint64 // marks for bytes left of the limit
	limitReserve uint64

	mu        sync.Mutex
	polled    bool
	at        time.Duration // of the measurement, monotonic
	freeAt    uint64
	usedAt    used
	capped    bool   // the file system says more than there is
	capLeft   uint64 // what there was when that was found
	capAt     uint64 // of disk.written then
	writtenAt uint64
	tablesAt  uint64
}

// used is the bytes that the store takes.
type used struct {
	total uint64
	// passing is the part of the total that goes away by itself: tables being
	// written to replace others, and tables replaced. It may be as much as the
	// rest for a moment, and does not keep work of the Reserve class from being
	// done.
	passing uint64
}

// left is the bytes left of the limit for work of the two classes.
type left struct{ normal, reserve uint64 }

func newSpace(o *Options, d *disk, stop <-chan struct{}) *space {
	return &space{
		clock: o.Clock, free: o.FreeSpace, disk: d, stop: stop,
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
	now := s.clock.Monotonic()
	s.mu.Lock()
	age := now - s.at
	fresh := s.polled && age >= 0 && age < pollEvery
	free, left := s.estimate()
	s.mu.Unlock()
	if !fresh || age >= pollAtLeast && (free <= s.low || left.normal <= s.limitLow) {
		s.poll(now)
		s.mu.Lock()
		free, left = s.estimate()
		s.mu.Unlock()
	}
	return room{
		normal:  min(sub(free, s.low), sub(left.normal, s.limitLow)),
		reserve: min(sub(free, s.reserve), sub(left.reserve, s.limitReserve)),
	}
}

// estimate returns the bytes free on the file system and left of the limit. The
// caller holds mu.
func (s *space) estimate() (uint64, left) {
	written := s.disk.written.Load() - s.writtenAt
	free := sub(s.freeAt, written)
	if s.limit == 0 {
		return free, left{math.MaxUint64, math.MaxUint64}
	}
	passing := s.usedAt.passing + s.disk.tables.Load() - s.tablesAt
	total := s.usedAt.total + written
	return free, left{sub(s.limit, total), sub(s.limit, sub(total, passing))}
}

// poll asks the file system and the store, unless the engine has stopped. A
// file system that cannot answer does not stop the service: running out is then
// met by the ballast.
func (s *space) poll(now time.Duration) {
	select {
	case <-s.stop:
		return
	default:
	}
	written, tables := s.disk.written.Load(), s.disk.tables.Load()
	used := s.used()
	free, err := s.free()
	if err != nil {
		free = math.MaxUint64
	}
	s.mu.Lock()
	if s.capped {
		free = min(free, sub(s.capLeft, written-s.capAt))
	}
	s.writtenAt, s.tablesAt, s.usedAt, s.freeAt, s.at, s.polled = written, tables, used, free, now, true
	s.mu.Unlock()
}

// hitLimit is told that a write found no room, and how much has been given up
// for the likes of it. If the file system says that there is room, it does not
// know of what bounds us: it reports true, and from now on what was given up is
// what there is.
func (s *space) hitLimit(given uint64) bool {
	free, err := s.free()
	if err == nil && free <= s.low {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.capped, s.capLeft, s.capAt = true, s.reserve+given, s.disk.written.Load()
	s.polled = false
	return true
}

// isCapped reports whether hitLimit has found that.
func (s *space) isCapped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.capped
}

// uncap believes the file system again.
func (s *space) uncap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.capped, s.polled = false, false
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
	free, _ := s.estimate()
	return store.Usage{
		Bytes: s.usedAt.total, Limit: s.limit, FreeBytes: s.freeAt, SpareBytes: sub(free, s.low), Full: r.normal < smallest,
	}
}

// lastUsed returns what the store took when last asked.
func (s *space) lastUsed() used {
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
