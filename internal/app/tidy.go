package app

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	tidyEvery = 2 * time.Second
	tidyQuiet = 256 << 10 // bytes allocated in that time, below which the process rests
	tidyAfter = 8 << 20   // bytes allocated since the last time
)

// tidy returns memory to the system when the process has come to rest after it
// has allocated much: a storm of connects leaves as much garbage as live
// memory, and without further allocations nothing would collect it for
// minutes. A process that is busy is left alone.
func (s *Server) tidy(ctx context.Context) error {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	allocated := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	before := allocated()
	tidied := before
	for {
		woken := make(chan struct{})
		t := s.clock.AfterFunc(tidyEvery, func() { close(woken) })
		select {
		case <-woken:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		now := allocated()
		if now-before < tidyQuiet && now-tidied > tidyAfter {
			debug.FreeOSMemory()
			tidied = now
		}
		before = now
	}
}
