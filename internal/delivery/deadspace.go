package delivery

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// errNoSpace is why dead letters are not written yet. It is no failure.
var errNoSpace = errors.New("dead letters wait for disk space")

const (
	deadSuffix       = ".jsonl"
	deadBlock        = 4 << 10
	leastDeadLetters = 16 << 20
	deadShare        = 16 // of the limit is removed beyond the surplus, so as not to come back for each file

	// spacePause is how long dead letters wait before they ask for space again.
	spacePause = 5 * time.Second
	// spaceWindow is how long a file that was written counts against the spare
	// space, until the engine is sure to have seen it.
	spaceWindow = time.Second
	// spareLeast is what must be spare before dead letters are written.
	spareLeast = 1 << 20

	// recountEvery is how long the directory's size is taken for granted, though
	// others may have moved files away.
	recountEvery = time.Hour
	// deadAtOnce is how many files a removal keeps in mind.
	deadAtOnce = 4096
)

// deadSpace accounts for the dead-letter directory, which grows beside the
// store on the same file system. It may be used concurrently.
type deadSpace struct {
	d    *Dispatcher
	root string

	pruning sync.Mutex // held while files are looked for and removed

	mu       sync.Mutex
	bytes    int64         // of the files, in whole blocks
	writing  int64         // of them, those being written
	recent   []deadWritten // within spaceWindow
	short    bool          // there was no space when last asked
	returned time.Time     // when there was space again
	asked    time.Duration // when the engine was last asked, by the monotonic reading
	spare    int64         // what it said
	known    bool          // asked and spare are set
	asking   bool
	counted  time.Duration // when the directory was last counted
	counting bool
	once     bool // it has been counted
}

type deadWritten struct {
	at    time.Duration
	bytes int64
}

// blocks rounds up to what a file takes.
func blocks(n int64) int64 { return (n + deadBlock - 1) / deadBlock * deadBlock }

// take reserves space for a file of n bytes, at the cost of older files if the
// directory is full. It returns false while the file system is at the store's
// low-water mark.
func (s *deadSpace) take(n int64) bool {
	n = blocks(n)
	s.refresh()
	s.mu.Lock()
	if !s.room(n) {
		s.mu.Unlock()
		return false
	}
	s.bytes += n
	s.writing += n
	s.recent = append(s.recent, deadWritten{s.d.clock.Monotonic(), n})
	limit := s.d.set.DeadLetters.Bytes
	full := limit > 0 && s.bytes > limit
	s.mu.Unlock()
	if full {
		s.prune()
	}
	return true
}

// wrote follows take: the file is there, or there is an error and none.
func (s *deadSpace) wrote(n int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing -= blocks(n)
	if err != nil {
		s.bytes = max(0, s.bytes-blocks(n))
	}
}

// refresh asks the engine for the spare space, unless it has been asked just
// before.
func (s *deadSpace) refresh() {
	s.mu.Lock()
	stale := s.stale()
	s.mu.Unlock()
	if !stale {
		return
	}
	now := s.d.clock.Monotonic()
	spare := int64(min(s.d.engine.Usage().SpareBytes, 1<<62))
	s.mu.Lock()
	s.spare, s.asked, s.known = spare, now, true
	s.mu.Unlock()
}

// stale reports whether the engine is to be asked. It is locked.
func (s *deadSpace) stale() bool {
	return !s.known || s.d.clock.Monotonic()-s.asked > spaceWindow/4
}

// room reports whether n bytes may be written now. It is locked.
func (s *deadSpace) room(n int64) bool {
	now := s.d.clock.Monotonic()
	s.recent = slices.DeleteFunc(s.recent, func(w deadWritten) bool { return now-w.at > spaceWindow })
	spare := s.spare
	for _, w := range s.recent {
		spare -= w.bytes
	}
	short := spare < n+spareLeast
	switch {
	case short && !s.short:
		s.d.log.Warn("dead-lettering waits for disk space; the events are kept", "spareBytes", max(0, spare))
	case !short && s.short:
		s.returned = s.d.now()
		s.d.log.Info("dead-lettering goes on, there is disk space again")
	}
	s.short = short
	return !short
}

// low reports whether there was no space for dead letters a moment ago. It does
// not ask the engine itself, for its caller has a lock.
func (s *deadSpace) low() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stale() && !s.asking {
		s.asking = true
		s.d.clock.AfterFunc(0, func() {
			s.refresh()
			s.mu.Lock()
			s.asking = false
			s.mu.Unlock()
		})
	}
	return s.known && !s.room(0)
}

// since is from when on there has been space, the zero time if there always was.
func (s *deadSpace) since() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.returned
}

func (s *deadSpace) size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

func (s *deadSpace) waiting() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.short {
		return 1
	}
	return 0
}

// countDeadLetters counts the directory, if that is due, and removes what is
// too old or too much, on a goroutine that Run waits for.
func (d *Dispatcher) countDeadLetters(ctx context.Context) {
	s := d.dead
	s.mu.Lock()
	due := s.root != "" && !s.counting && (!s.once || d.clock.Monotonic()-s.counted >= recountEvery)
	s.counting = s.counting || due
	s.mu.Unlock()
	if !due || ctx.Err() != nil {
		return
	}
	d.work.Go(func() {
		s.prune()
		s.mu.Lock()
		s.counting, s.once, s.counted = false, true, d.clock.Monotonic()
		s.mu.Unlock()
	})
}

// prune counts the directory and removes the oldest files while it is larger
// than it may be or they are older than they may be.
func (s *deadSpace) prune() {
	s.pruning.Lock()
	defer s.pruning.Unlock()
	for s.pruneOnce() {
	}
}

// pruneOnce reports whether there may be more to be removed.
func (s *deadSpace) pruneOnce() bool {
	set, now := s.d.set.DeadLetters, s.d.steady.Steady()
	total, files, err := s.walk(now)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.d.log.Error("the dead-letter directory cannot be counted", "err", err)
		return false
	}
	s.mu.Lock()
	total += s.writing // those that are there already are counted twice, until the next time
	s.mu.Unlock()
	most := total
	if set.Bytes > 0 && total > set.Bytes {
		most = set.Bytes - set.Bytes/deadShare
	}
	removed := 0
	var bytes int64
	for _, f := range files {
		if total <= most && (set.Age == 0 || s.d.steady.Age(f.at) < set.Age) {
			break
		}
		if err := os.Remove(f.name); err != nil {
			s.d.log.Error("a dead-letter file cannot be removed", "err", err)
			break
		}
		s.removeEmpty(filepath.Dir(f.name), now)
		total -= f.bytes
		bytes += f.bytes
		removed++
	}
	s.mu.Lock()
	s.bytes = total
	s.mu.Unlock()
	if removed == 0 {
		return false
	}
	s.d.metrics.deadRemoved.Add(float64(removed))
	s.d.log.Warn("the oldest dead-letter files were removed", "files", removed, "bytes", bytes)
	return removed == deadAtOnce
}

// removeEmpty removes directories that have nothing in them any more, but none
// that may just be written to.
func (s *deadSpace) removeEmpty(dir string, now time.Time) {
	for ; len(dir) > len(s.root) && over(dir, s.root, now); dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil { // there is something in it
			return
		}
	}
}

// over reports whether the hour, day, month or year that a directory is for has
// been over for some hours.
func over(dir, root string, now time.Time) bool {
	layouts := [...]string{"2006", "2006/1", "2006/1/2", "2006/1/2/15"}
	lasts := [...]func(time.Time) time.Time{
		func(t time.Time) time.Time { return t.AddDate(1, 0, 0) },
		func(t time.Time) time.Time { return t.AddDate(0, 1, 0) },
		func(t time.Time) time.Time { return t.AddDate(0, 0, 1) },
		func(t time.Time) time.Time { return t.Add(time.Hour) },
	}
	rel, err := filepath.Rel(root, dir)
	parts := strings.Split(filepath.ToSlash(rel), "/") // directory, NAME, year, month, day, hour
	if n := len(parts); err != nil || n < 3 || n > 6 {
		return false
	}
	at, err := time.Parse(layouts[len(parts)-3], strings.Join(parts[2:], "/"))
	return err == nil && now.After(lasts[len(parts)-3](at).Add(3*time.Hour))
}

// deadEntry is a file that may be removed.
type deadEntry struct {
	name  string
	at    time.Time
	bytes int64
}

// oldestFirst is a heap of the oldest files, the newest of them on top.
type oldestFirst []deadEntry

func (h oldestFirst) Len() int           { return len(h) }
func (h oldestFirst) Less(i, j int) bool { return h[i].at.After(h[j].at) }
func (h oldestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *oldestFirst) Push(x any)        { *h = append(*h, x.(deadEntry)) }
func (h *oldestFirst) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// walk counts our files and returns the oldest of them, oldest first.
// What a crash left half written goes.
func (s *deadSpace) walk(now time.Time) (total int64, files []deadEntry, err error) {
	var h oldestFirst
	err = filepath.WalkDir(s.root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !e.Type().IsRegular() {
			return skipMissing(err)
		}
		info, err := e.Info()
		if err != nil {
			return skipMissing(err)
		}
		if strings.HasSuffix(name, deadSuffix+".tmp") && now.Sub(info.ModTime()) > time.Hour {
			return skipMissing(os.Remove(name))
		}
		if !strings.HasSuffix(name, deadSuffix) {
			return nil // not ours to remove: if it counted, all of ours would go for it
		}
		n := blocks(info.Size())
		total += n
		heap.Push(&h, deadEntry{name, info.ModTime(), n})
		if len(h) > deadAtOnce {
			heap.Pop(&h)
		}
		return nil
	})
	slices.SortFunc(h, func(a, b deadEntry) int { return cmp.Or(a.at.Compare(b.at), strings.Compare(a.name, b.name)) })
	return total, h, err
}

// skipMissing is for what somebody else has moved away meanwhile.
func skipMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
