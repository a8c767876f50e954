package delivery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"rollcall/internal/event"
)

// Bounds of one dead-letter file.
const (
	deadFile      = 1000
	deadFileBytes = 4 << 20 // of events, unless it is one
)

// bury writes events that were given up, file by file, then ends. An event is
// settled only when its file is on disk.
func (q *Queue) bury(ctx context.Context) {
	for {
		now := q.d.now()
		q.mu.Lock()
		items := oneFile(q.doomed)
		if len(items) == 0 || !q.live() || ctx.Err() != nil {
			q.burying = false
			q.mu.Unlock()
			return
		}
		q.doomed = q.doomed[len(items):]
		sub := q.sub
		q.mu.Unlock()

		var err error
		if sub.DeadLetter != "" {
			err = q.d.writeDeadLetters(sub, items)
		}
		q.mu.Lock()
		if errors.Is(err, errNoSpace) {
			q.doomed = append(items[:len(items):len(items)], q.doomed...)
			q.buryHeld = now.Add(spacePause)
			q.burying = false
			q.arm(now)
			q.mu.Unlock()
			return
		}
		changes := q.buried(sub, items, err, now)
		q.mu.Unlock()
		q.apply(changes)
	}
}

// oneFile is as many of the items as one file takes.
func oneFile(items []*item) []*item {
	bytes := 0
	for i, it := range items {
		if bytes += it.event.Size(); i == deadFile || i > 0 && bytes > deadFileBytes {
			return items[:i]
		}
	}
	return items
}

// buried decides what follows from an attempt to write items. The queue is
// locked.
func (q *Queue) buried(sub Subscription, items []*item, err error, now time.Time) []change {
	changes := make([]change, 0, len(items))
	switch {
	case q.gone:
		return nil
	case sub.DeadLetter == "": // switched off meanwhile
		for _, it := range items {
			q.drop(it.rec.reason, 1)
			changes = append(changes, change{item: it})
		}
		return changes
	case err == nil:
		q.buryTries = 0
		q.tally.deadLettered += uint64(len(items))
		for _, it := range items {
			q.d.metrics.deadLettered[it.rec.reason].Inc()
			changes = append(changes, change{item: it})
		}
		q.touch()
		return changes
	}
	q.d.log.Error("dead-letter file not written", "subscription", sub.Name, "events", len(items), "err", err)
	q.buryTries++
	again := now.Add(min(5*time.Minute, 10*time.Second<<min(q.buryTries-1, 5)))
	for _, it := range items {
		begun := time.Unix(0, it.rec.since).Add(q.d.set.DeadLetterDelay)
		if space := q.d.dead.since(); space.After(begun) {
			begun = space
		}
		if now.Sub(begun) >= q.d.set.DeadLetterGiveUp {
			q.drop(DeadLetterFailed, 1)
			changes = append(changes, change{item: it})
			continue
		}
		next := it.rec
		next.shelf, next.due = dying, again.UnixNano()
		changes = append(changes, change{item: it, keep: true, next: next})
	}
	return changes
}

// writeDeadLetters writes one file of JSON lines and syncs it:
// <root>/<directory>/<NAME>/<yyyy>/<M>/<d>/<H>/<guid>.jsonl, times in UTC.
func (d *Dispatcher) writeDeadLetters(sub Subscription, items []*item) error {
	if d.deadLetterRoot == "" {
		return errors.New("no dead-letter root is configured")
	}
	var body []byte
	for _, it := range items {
		body = append(appendDeadLetter(body, sub.Schema, it), '\n')
	}
	if !d.dead.take(int64(len(body))) {
		return errNoSpace
	}
	now := d.clock.Now()
	parts := []string{sub.DeadLetter, strings.ToUpper(sub.Name), strconv.Itoa(now.Year()), strconv.Itoa(int(now.Month())),
		strconv.Itoa(now.Day()), strconv.Itoa(now.Hour())}
	dir, err := d.makeDirs(d.deadLetterRoot, parts)
	if err == nil {
		err = d.writeSynced(filepath.Join(dir, d.newID()+deadSuffix), body)
	}
	if err == nil {
		err = d.syncDir(dir)
	}
	d.dead.wrote(int64(len(body)), err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", errNoSpace, err)
	}
	return err
}

// dirs are the directories whose names in their parents are known to be on disk.
type dirs struct {
	mu    sync.Mutex // held while one is made, so that nobody takes it for durable
	known map[string]bool
}

// mostDirs bounds what is known.
const mostDirs = 1024

// makeDirs makes the directories below root, durable each, and returns the
// innermost. One that is there may have been made a moment before a crash, or
// its sync refused: that is made good the first time that it is met.
func (d *Dispatcher) makeDirs(root string, parts []string) (string, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", err
	}
	d.dirs.mu.Lock()
	defer d.dirs.mu.Unlock()
	dir := root
	for _, p := range parts {
		parent := dir
		dir = filepath.Join(dir, p)
		err := os.Mkdir(dir, 0o700)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
		if err != nil && d.dirs.known[dir] {
			continue
		}
		delete(d.dirs.known, dir)
		if err := d.syncDir(parent); err != nil {
			return "", err
		}
		if d.dirs.known == nil || len(d.dirs.known) >= mostDirs {
			d.dirs.known = make(map[string]bool)
		}
		d.dirs.known[dir] = true
	}
	return dir, nil
}

// writeSynced makes a file with these contents appear whole or not at all.
func (d *Dispatcher) writeSynced(name string, body []byte) (err error) {
	temporary := name + ".tmp"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temporary) // the error that counts is err
		}
	}()
	_, err = f.Write(body)
	if err == nil {
		err = d.sync(f)
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("write dead letters: %w", err)
	}
	return os.Rename(temporary, name)
}

func (d *Dispatcher) syncDir(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.sync(f)
	return errors.Join(err, f.Close())
}

// appendDeadLetter appends the event in its delivery schema with the members
// that say why it was not delivered.
func appendDeadLetter(dst []byte, s event.Schema, it *item) []byte {
	names := [...]string{"deadLetterReason", "deliveryAttempts", "lastDeliveryOutcome", "publishTime", "lastDeliveryAttemptTime"}
	dst = s.Append(dst, it.event)
	dst = dst[:len(dst)-1] // its closing brace
	member := func(i int) {
		name := names[i]
		if s == event.CloudEvents { // extension names are lower case
			name = strings.ToLower(name)
		}
		dst = append(append(append(dst, `,"`...), name...), `":`...)
	}
	moment := func(t time.Time) {
		dst = append(event.AppendTime(append(dst, '"'), t), '"')
	}
	member(0)
	dst = event.AppendString(dst, it.rec.reason.String())
	member(1)
	dst = strconv.AppendInt(dst, int64(it.rec.attempts), 10)
	if it.rec.outcome != NoOutcome {
		member(2)
		dst = event.AppendString(dst, it.rec.outcome.String())
	}
	member(3)
	moment(it.event.Accepted)
	if it.rec.last != 0 {
		member(4)
		moment(time.Unix(0, it.rec.last))
	}
	return append(dst, '}')
}
