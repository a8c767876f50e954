package pebble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/event"
	"rollcall/internal/store"
)

// Sizes chosen for a process that is small while idle. A memtable starts at
// 256 KiB and grows to its full size under load; four of them, and as much of
// the log, have to fit into the default reserve.
const (
	memTableSize = 8 << 20
	memTables    = 4

	// Pebble takes memtables off its cache; what is meant to be cache is what
	// is left when one is being filled and one being written.
	cacheForMemTables = 2 * memTableSize

	// A large lowest level that is not the last means fewer levels and less
	// rewriting. A compaction into it may need as much space again for a
	// while, so it is half of the default low-water mark.
	lBaseMaxBytes    = 128 << 20
	maxManifestBytes = 8 << 20
)

// Open opens the store in a directory and makes it if there is none. It
// refuses, with an error that says what to do, a directory that another
// process has open, that others may read, or that holds another version's
// store. The caller closes the engine.
func Open(o Options) (*Engine, error) {
	onDisk := o.FS == nil
	if err := o.complete(); err != nil {
		return nil, err
	}
	if onDisk {
		dir, err := filepath.Abs(o.Dir)
		if err != nil {
			return nil, fmt.Errorf("store directory: %w", err)
		}
		o.Dir = dir
	}
	if err := makeDir(o.FS, o.Dir, onDisk); err != nil {
		return nil, err
	}
	e := newEngine(o)
	if err := e.open(); err != nil {
		return nil, errors.Join(err, e.disk.unlock(e.opts.Clock))
	}
	return e, nil
}

// makeDir makes the directory, durably, and checks who may read it.
func makeDir(fsys vfs.FS, dir string, onDisk bool) error {
	var parents []string // of directories that do not exist yet
	for d := dir; d != fsys.PathDir(d); d = fsys.PathDir(d) {
		if _, err := fsys.Stat(d); !errors.Is(err, os.ErrNotExist) {
			break
		}
		parents = append(parents, fsys.PathDir(d))
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the store's directory: %w", err)
	}
	for _, d := range parents {
		if err := syncDir(fsys, d); err != nil {
			return fmt.Errorf("make the store's directory: %w", err)
		}
	}
	info, err := fsys.Stat(dir)
	if err != nil {
		return fmt.Errorf("store directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory and cannot hold a store", dir)
	}
	if mode := info.Mode().Perm(); onDisk && runtime.GOOS != "windows" && mode&0o077 != 0 {
		return fmt.Errorf("the store's directory %s has mode %#o and must be open to its owner only: chmod 700 %s", dir, mode, dir)
	}
	return nil
}

func newEngine(o Options) *Engine {
	e := &Engine{
		opts:      o,
		groups:    make(chan *group),
		committed: make(chan struct{}),
		settled:   make(chan struct{}),
		buried:    make(chan struct{}),
		failed:    make(chan struct{}),
		stop:      make(chan struct{}),
		overlay:   newOverlay(),
		marking:   make(map[string]bool),
		hopeless:  make(map[string]bool),
	}
	e.wake.L = &e.mu
	e.views.idle = make(chan struct{})
	e.ballast = &ballast{fs: o.FS, dir: o.Dir, size: o.Reserve / 4}
	whenFull := vfs.OnDiskFull(quotaFS{o.FS}, func() {
		var given uint64
		released := e.ballast.release()
		if released {
			given = e.ballast.size
		}
		if e.space.hitLimit(given) {
			o.Log.Error("no room although the file system says that there is: a disk quota, it seems; new work is refused until there is", "dir", o.Dir)
		}
		if released {
			o.Log.Error("the disk is full: the space set aside for this is in use now", "dir", o.Dir)
		}
	})
	e.disk = newDisk(whenFull, o.Log)
	if e.opts.FreeSpace == nil {
		e.opts.FreeSpace = func() (uint64, error) {
			u, err := o.FS.GetDiskUsage(o.Dir)
			return u.AvailBytes, err
		}
	}
	e.findings = newFindings(o.FS, o.Dir)
	// Where files are copied when they are written, so as to keep old versions of
	// them, even the account, which does not grow, can find the disk full.
	e.account = newAccount(whenFull, o.Dir)
	e.disk.account = e.account
	e.space = newSpace(&e.opts, e.disk, e.stop)
	e.space.used = e.used
	return e
}

func (e *Engine) open() error {
	lock, err := pebbledb.LockDirectory(e.opts.Dir, e.disk)
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) || strings.Contains(err.Error(), "held by current process") {
			return fmt.Errorf("the store in %s is in use by another process", e.opts.Dir)
		}
		return fmt.Errorf("lock the store in %s: %w", e.opts.Dir, err)
	}
	defer lock.Close() // Pebble has a share in it by then, the directory's own is the disk's
	if err := e.findings.read(); err != nil {
		return err
	}
	var damaged, corrected int
	if _, e.accounted, damaged, corrected, err = e.account.read(); err != nil {
		return err
	}
	exists, err := e.checkFormat()
	if err != nil {
		return err
	}
	if err := e.foundInAccount(damaged, corrected); err != nil {
		return err
	}
	if exists {
		if err := e.repair(); err != nil {
			return err
		}
	}
	if err := e.account.open(); err != nil {
		return err
	}
	if err := e.openPebble(lock, exists); err != nil {
		return errors.Join(err, e.account.close())
	}
	if err := e.start(exists); err != nil {
		return errors.Join(err, e.guard(e.db.Close), e.account.close())
	}
	return nil
}

func (e *Engine) foundInAccount(damaged, corrected int) error {
	switch {
	case damaged > 0:
		return e.found(Finding{File: accountName, Outcome: Harmless, Cause: "a part of the account of the log is damaged; another says the same"})
	case corrected > 0:
		return e.found(Finding{File: accountName, Outcome: Corrected, Cause: "one bit had flipped"})
	}
	return nil
}

// repair looks at the files that Pebble is about to read.
func (e *Engine) repair() error {
	r := repair{
		fs: e.opts.FS, dir: e.opts.Dir, findings: e.findings, account: e.account.now(), known: e.accounted,
		now: func() Finding { return Finding{At: event.Time{Time: e.opts.Clock.Now().UTC()}} },
	}
	err := r.run()
	e.goneLogs = r.gone
	for i := range r.found {
		e.logFinding(&r.found[i])
	}
	return err
}

func (e *Engine) openPebble(lock *pebbledb.Lock, exists bool) error {
	cache := pebbledb.NewCache(e.opts.CacheBytes + cacheForMemTables)
	defer cache.Unref() // Pebble holds its own reference
	po := &pebbledb.Options{
		FS:                          e.disk,
		Lock:                        lock,
		Cache:                       cache,
		Logger:                      logger{e.opts.Log, e.fail},
		EventListener:               e.listener(),
		ErrorIfNotExists:            exists,
		FormatMajorVersion:          pebbledb.FormatTableFormatV6,
		MaxOpenFiles:                e.opts.MaxFiles,
		MaxManifestFileSize:         maxManifestBytes,
		MemTableSize:                e.opts.memTable,
		MemTableStopWritesThreshold: memTables,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       40,
		LBaseMaxBytes:               lBaseMaxBytes,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
	}
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		// Small tables keep what a compaction needs at a time small.
		po.TargetFileSizes[i] = min(int64(2<<20)<<i, 16<<20)
	}
	err := e.guard(func() error {
		db, err := pebbledb.Open(e.opts.Dir, po)
		if err == nil {
			e.db = db
		}
		return err
	})
	if err != nil && exists && (errors.Is(err, os.ErrNotExist) || pebbledb.IsCorruptionError(err)) {
		return fmt.Errorf("%w: open the store in %s: %w: run rollcall data salvage", store.ErrDamaged, e.opts.Dir, err)
	}
	if err != nil {
		return fmt.Errorf("open the store in %s: %w", e.opts.Dir, err)
	}
	return nil
}

// start reads where the store stands and begins to serve.
func (e *Engine) start(exists bool) error {
	if err := e.readIndex(); err != nil {
		return err
	}
	if !exists {
		if e.index > 0 {
			return fmt.Errorf("%s has data but no %s file: it is not a store of this product, or damaged", e.opts.Dir, formatName)
		}
		if err := writeFormat(e.opts.FS, e.opts.Dir, format{formatVersion, e.opts.Partitions}); err != nil {
			return err
		}
	}
	if err := e.compareAccount(); err != nil {
		return err
	}
	e.flushedIndex = e.index
	e.views.publish(&view{snap: e.db.NewSnapshot(), index: e.index, cuts: e.views.cutCount.Load()})
	e.space.room()
	e.ballast.find()
	e.disk.space = e.space
	e.disk.arm(e.fail)
	if e.opts.FS == vfs.Default {
		e.disk.spares.fill()
	}
	go e.commitLoop()
	go e.settleLoop()
	go e.buryLoop()
	if err := e.markLosses(); err != nil {
		return errors.Join(err, e.Close())
	}
	for _, name := range e.goneLogs { // nobody will remove them: what they cost is marked, once
		if err := e.account.removing(name); err != nil {
			return errors.Join(err, e.Close())
		}
	}
	return nil
}

// readIndex reads the newest commit index.
func (e *Engine) readIndex() error {
	stored, closer, err := e.db.Get(indexKey)
	for n := 0; err != nil && pebbledb.IsCorruptionError(err) && n < maxFindings; n++ {
		if !e.settleDamage() {
			break
		}
		stored, closer, err = e.db.Get(indexKey)
	}
	switch {
	case errors.Is(err, pebbledb.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("read the commit index: %w", err)
	case len(stored) != revisionLen:
		return fmt.Errorf("read the commit index: it has %d bytes", len(stored))
	}
	e.index = binary.BigEndian.Uint64(stored)
	if err := closer.Close(); err != nil {
		return fmt.Errorf("read the commit index: %w", err)
	}
	return nil
}

// compareAccount goes on above everything that has been issued, if the store
// stands below what was durable, and begins to keep account.
func (e *Engine) compareAccount() error {
	known := e.account.now()
	if e.accounted && e.index < known.durable {
		to := max(known.issued, known.durable)
		from := e.index
		for _, f := range e.findings.list() { // those of this start say it already
			if f.Loss != nil && f.Loss.Lower == nil && f.Loss.To >= to {
				from = to
			}
		}
		if from < to {
			err := e.found(Finding{
				File: "*.log", Outcome: SetAside, Loss: &Loss{From: from, To: to},
				Cause: fmt.Sprintf("commit %d was durable, and the newest that is there is %d", known.durable, e.index),
			})
			if err != nil {
				return err
			}
		}
		e.index = to
	}
	for _, f := range e.findings.list() {
		if f.Loss != nil {
			e.index = max(e.index, f.Loss.To)
		}
	}
	return e.account.begin(state{
		issued: e.index + issueStep, durable: min(known.durable, e.index),
		format: formatVersion, partitions: uint32(e.opts.Partitions),
	}, e.index)
}

// markLosses stores the marks of losses that were found and are not stored yet.
func (e *Engine) markLosses() error {
	stored, err := e.storedLosses()
	if err != nil {
		return fmt.Errorf("read the marks of lost writes: %w", err)
	}
	b := e.lossBatch(stored)
	if b.Len() == 0 {
		return nil
	}
	if err := e.commit(b); err != nil {
		return fmt.Errorf("mark lost writes: %w", err)
	}
	return nil
}

// storedLosses reads the marks, waiting for damage to be treated if they are in
// it.
func (e *Engine) storedLosses() (all []store.Loss, err error) {
	for range 10 {
		s := e.Snapshot()
		all, err = store.Losses(s)
		s.Close()
		if !errors.Is(err, store.ErrDamaged) {
			return all, err
		}
		if err := e.commit(store.NewBatch(store.Reserve)); err != nil { // the committer treats damage first
			return nil, err
		}
	}
	return all, err
}

// lossBatch returns a batch of the marks that are not stored.
func (e *Engine) lossBatch(stored []store.Loss) *store.Batch {
	b := store.NewBatch(store.Reserve)
	for _, f := range e.findings.list() {
		if f.Loss == nil || f.Loss.To <= f.Loss.From {
			continue
		}
		l := f.loss()
		if !slices.ContainsFunc(stored, func(s store.Loss) bool { return s.Same(&l) }) {
			l.Stage(b)
		}
	}
	return b
}

func (e *Engine) commit(b *store.Batch) error {
	done := make(chan store.Result, 1)
	e.Submit(b, func(r store.Result) { done <- r })
	return (<-done).Err
}
