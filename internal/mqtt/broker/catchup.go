package broker

import (
	"errors"
	"os"
	"time"
)

// How a stream catches up: somebody else sets a read deadline that has passed.
// The layers below give what they hold before they look at the transport, so the
// reader learns by os.ErrDeadlineExceeded that it has handled everything that
// had been read. It then asks the system whether more has arrived, reads that,
// and so on until there is none.

// catchUp implements link.
func (s *stream) catchUp() { s.interrupt() }

// interrupt has the reader's next look at the transport fail with
// os.ErrDeadlineExceeded. The caller holds the lock.
func (s *stream) interrupt() {
	if !s.ended {
		_ = s.nc.SetReadDeadline(time.Unix(1, 0)) // it fails only if the transport is dead
	}
}

// awaitsCatchUp has the reader, which is about to read, interrupted if somebody
// waits for it, unless it is known that there is something to read.
func (s *stream) awaitsCatchUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.catchUps) > 0 && !s.looked {
		s.interrupt()
	}
	s.looked = false
}

// interrupted reports whether err is the interruption of somebody who waits
// until the reader has caught up: then the reader goes on. It tells whoever
// waits when nothing more has arrived.
func (s *stream) interrupted(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	asked := s.askers()
	more := readable(s.nc)
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	_ = s.nc.SetReadDeadline(time.Time{}) // it fails only if the transport is dead
	s.looked = more && s.caught < lastWordsBytes
	caughtUp := !s.looked
	s.mu.Unlock()
	if caughtUp {
		s.caughtUp(asked)
	}
	return true
}

// skipCatchUp tells whoever waits if the reader is about to wait for the client,
// as stuck says with the lock.
func (s *stream) skipCatchUp(stuck func() bool) {
	s.mu.Lock()
	skip := len(s.catchUps)
	if skip > 0 && (s.conn.s.Ended() || !stuck()) {
		skip = 0
	}
	s.mu.Unlock()
	if skip > 0 {
		s.caughtUp(skip)
	}
}
