package app

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/store"
)

// recordEvery is how often the steady time is recorded.
const recordEvery = time.Minute

// clock  0 ‖ TableClock → the newest steady time, Unix nanoseconds in 8 bytes,
//
//	by which the next start finds that the clock was set meanwhile
func clockKey() []byte { return store.AppendKey(nil, store.Config, store.TableClock, "") }

// resumeClock compares the clock with what the last start recorded. A record
// that cannot be read is as good as none.
func resumeClock(e store.Engine, c *clock.Steady, log *slog.Logger) {
	value, _, err := store.Get(e, clockKey())
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil || len(value) != 8:
		log.Warn("when the last start ended cannot be read; the clock is believed as it stands", "err", err)
	default:
		c.Resume(time.Unix(0, int64(binary.BigEndian.Uint64(value))))
	}
}

// recordClock records the steady time until ctx ends, and then once more.
func recordClock(ctx context.Context, e store.Engine, c *clock.Steady) error {
	for over := false; ; {
		b := store.NewBatch(store.Reserve)
		b.Put(clockKey(), binary.BigEndian.AppendUint64(nil, uint64(c.Steady().UnixNano())))
		e.Submit(b, func(store.Result) {}) // if it fails, the next one counts
		if over {
			return nil
		}
		woken := make(chan struct{})
		t := c.AfterFunc(recordEvery, func() { close(woken) })
		select {
		case <-woken:
		case <-ctx.Done():
			over = true
		}
		t.Stop()
	}
}
