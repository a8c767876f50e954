package pebble

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	pebbledb "github.com/cockroachdb/pebble/v2"
)

// logger is what Pebble logs to. Its informational messages are debug ones of
// ours.
type logger struct {
	log  *slog.Logger
	fail func(error)
}

func (l logger) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("storage engine", "text", fmt.Sprintf(format, args...))
	}
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("storage engine", "text", fmt.Sprintf(format, args...))
}

// Fatalf must not return. Ending the process here would leave callers without
// an outcome and the operator without a reason, so the engine fails instead
// and the goroutine, which holds locks of Pebble's, is parked.
func (l logger) Fatalf(format string, args ...any) {
	l.fail(fmt.Errorf(format, args...))
	park()
}

// listener turns Pebble's events into log records.
func (e *Engine) listener() *pebbledb.EventListener {
	return &pebbledb.EventListener{
		BackgroundError: func(err error) {
			// Repeated for as long as it lasts: say it once a minute.
			now, last := int64(e.opts.Clock.Monotonic()), e.complained.Load()
			if last == 0 || now-last >= int64(time.Minute) && e.complained.CompareAndSwap(last, now) {
				e.opts.Log.Warn("storage cannot rewrite tables and will try again", "err", err.Error()) // without the stack that Pebble adds
			}
		},
		DataCorruption: func(i pebbledb.DataCorruptionInfo) {
			e.suspectTable(i.Path)
		},
		WriteStallBegin: func(i pebbledb.WriteStallBeginInfo) {
			e.counts.stalls.Add(1)
			e.opts.Log.Warn("storage holds commits back until tables are written", "reason", i.Reason)
		},
	}
}
