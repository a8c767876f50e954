package pebble

import (
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/clock"
	"rollcall/internal/store"
)

// Defaults of Options.
const (
	DefaultLowWater   = 256 << 20
	DefaultReserve    = 64 << 20
	DefaultCacheBytes = 8 << 20
	DefaultMaxQueued  = 128 << 20
	DefaultMaxFiles   = 500
)

// MinLimit is the smallest Limit: Pebble's own files (two logs, a memtable on
// its way to a table) need most of it.
const MinLimit = 64 << 20

// Options say where the store is and how much it may take.
type Options struct {
	// Dir is the store's directory, made with mode 0700 if it does not exist
	// and refused if others may read it. Required.
	Dir string

	// FS is where Dir is, the machine's file system by default. The check of
	// permissions is for the default only.
	FS vfs.FS

	// Partitions is fixed when the store is made: a store that has another
	// number is refused. 1 to 255, store.DefaultPartitions if 0.
	Partitions int

	// Log is told what an operator should know. Nothing is logged if nil.
	Log *slog.Logger

	// Limit bounds the bytes that the store takes on disk, its log included. 0
	// means no limit but the disk's; else it is at least MinLimit. Normal work
	// is refused from Limit − min(LowWater, Limit/4) on and work of the
	// Reserve class from Limit − min(Reserve, Limit/16) on; the latter is not
	// kept from it by tables that are being replaced, which may exceed the
	// limit for a moment.
	Limit uint64

	// LowWater is the number of free bytes on the file system below which
	// Normal work is refused with ErrFull. DefaultLowWater if 0. It also has to
	// hold what compactions need while they replace tables.
	LowWater uint64

	// Reserve is the number of free bytes below which all work is refused with
	// ErrFull, and half of it the number below which no compaction is begun.
	// DefaultReserve if 0; less than LowWater. A quarter of it is kept in a
	// file that is given up when something else fills the disk, so that the
	// log and the tables in memory can still be written.
	Reserve uint64

	// CacheBytes is the size of the cache of blocks read, DefaultCacheBytes if
	// 0.
	CacheBytes int64

	// MaxFiles bounds the tables that are kept open, DefaultMaxFiles if 0; at
	// least 64. DescriptorsFor says what the store needs in all.
	MaxFiles int

	// MaxQueued bounds the bytes of batches submitted and not yet taken up:
	// beyond it Normal work is refused with ErrFull, beyond twice as much all
	// work. DefaultMaxQueued if 0.
	MaxQueued uint64

	// FreeSpace returns the bytes free to us on Dir's file system. By default
	// the file system is asked. It is called a few times a second while there
	// is work, and may be called concurrently.
	FreeSpace func() (uint64, error)

	// OnFatal is called once, from a goroutine of the engine, when the store
	// has failed for good: a log or manifest could not be written, or data is
	// corrupt. All outcomes have been reported by then. The process should say
	// so and end; what was acknowledged is safe. Nothing happens if nil.
	OnFatal func(error)

	// Clock is the machine's by default.
	Clock clock.Clock

	memTable uint64 // bytes of a memtable, memTableSize if 0
}

// complete fills in the defaults, or says what is wrong.
func (o *Options) complete() error {
	setDefault(&o.Partitions, store.DefaultPartitions)
	setDefault(&o.LowWater, DefaultLowWater)
	setDefault(&o.Reserve, DefaultReserve)
	setDefault(&o.CacheBytes, DefaultCacheBytes)
	setDefault(&o.MaxQueued, DefaultMaxQueued)
	setDefault(&o.MaxFiles, DefaultMaxFiles)
	setDefault(&o.memTable, memTableSize)
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	switch {
	case o.Dir == "":
		return fmt.Errorf("store directory: none is given")
	case o.Partitions < 1 || o.Partitions > 255:
		return fmt.Errorf("store partitions: %d is not between 1 and 255", o.Partitions)
	case o.Limit > 0 && o.Limit < MinLimit:
		return fmt.Errorf("store limit: %d is less than %d bytes", o.Limit, uint64(MinLimit))
	case o.Reserve >= o.LowWater:
		return fmt.Errorf("store reserve: %d is not less than the low-water mark of %d bytes", o.Reserve, o.LowWater)
	case o.MaxFiles < 64:
		return fmt.Errorf("store files: %d is less than 64", o.MaxFiles)
	case o.CacheBytes < 0:
		return fmt.Errorf("store cache: %d is negative", o.CacheBytes)
	}
	return nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
