package delivery_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/store"
)

// P4: an event is dead-lettered only when the file, and its name in the
// directory, are on disk: file first, then directory, then the event is settled.
func TestDeadLetterIsSettledWhenItIsOnDisk(t *testing.T) {
	for _, what := range []string{"file", "directory"} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *harness) {
				h.set.DeadLetterDelay = 0
				f := h.fake()
				f.answer = status(400)
				s := h.sub(1, f)
				s.DeadLetter = "dead"
				var mu sync.Mutex
				fails, synced := true, []string{}
				h.prepare = func(d *delivery.Dispatcher) {
					d.SetSync(func(f *os.File) error {
						info, err := f.Stat()
						if err != nil {
							return err
						}
						mu.Lock()
						defer mu.Unlock()
						kind := "file"
						if info.IsDir() {
							kind = "directory"
						}
						if kind == "directory" && len(synced) == 0 { // of directories that are made
							return nil
						}
						if kind == what && fails {
							return errors.New("the disk says no")
						}
						synced = append(synced, kind)
						return nil
					})
				}
				h.start(s)
				h.publish(3, 1)
				h.sleep(time.Second)
				if got := h.queues[1].Tally(); got.DeadLettered != 0 || got.Backlog != 3 {
					t.Errorf("while the %s cannot be synced: %+v", what, got)
				}
				if what == "file" {
					for _, name := range deadFiles(t, h.root) {
						t.Errorf("%s is left of a file that was not synced", name)
					}
				}
				mu.Lock()
				fails = false
				mu.Unlock()
				h.sleep(time.Hour)
				if got := h.queues[1].Tally(); got.DeadLettered != 3 || got.Backlog != 0 {
					t.Errorf("in the end: %+v", got)
				}
				if last := strings.Join(synced[max(0, len(synced)-2):], ", "); last != "file, directory" {
					t.Errorf("synced in the end: %s", last)
				}
			})
		})
	}
}

// A success ends the count of consecutive failures.
func TestSuccessResetsTheCountOfFailures(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		n := 0
		f.answer = func(context.Context, delivery.Attempt) delivery.Result {
			f.mu.Lock()
			defer f.mu.Unlock()
			if n++; n%10 == 0 {
				return delivery.OfStatus(200)
			}
			return delivery.Result{Verdict: delivery.TryLater, Outcome: delivery.NotFound}
		}
		s := h.sub(1, f)
		s.Retry.MaxAttempts = 1
		h.start(s)
		for range 50 {
			h.publish(1, 1)
			if got := h.queues[1].Tally(); !got.ProbationUntil.IsZero() {
				t.Fatalf("on probation after %d attempts of which every tenth succeeded", n)
			}
		}
		if len(f.attempts()) != 50 {
			t.Errorf("%d attempts, want 50", len(f.attempts()))
		}
	})
}

// After the last attempt that the policy allows an event is given up at once,
// not after one more delay.
func TestLastAttemptIsTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		f.answer = status(500)
		s := h.sub(1, f)
		s.Retry.MaxAttempts, s.DeadLetter = 3, "dead"
		h.set.DeadLetterDelay = 0
		h.start(s)
		h.publish(1, 1)
		h.sleep(39 * time.Second) // the third attempt is due after 40
		if got := h.queues[1].Tally(); got.Backlog != 1 || len(f.attempts()) != 2 {
			t.Fatalf("before the last attempt: %+v, %d attempts", got, len(f.attempts()))
		}
		h.sleep(2 * time.Second)
		if got := h.queues[1].Tally(); got.DeadLettered != 1 || got.Backlog != 0 || len(f.attempts()) != 3 {
			t.Errorf("right after the last attempt: %+v, %d attempts", got, len(f.attempts()))
		}
		if n := h.keys(store.TableRetry); n != 0 {
			t.Errorf("%d retry records are left", n)
		}
		files := deadFiles(t, h.root)
		if len(files) != 1 || !strings.Contains(string(read(t, filepath.Join(h.root, files[0]))), `"deliveryAttempts":3`) {
			t.Errorf("dead letters %v", files)
		}
	})
}

// A directory that is there already, because its sync was refused or a crash
// came between, is made durable before anything in it is settled.
func TestDirectoriesOfDeadLettersAreDurable(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.DeadLetterDelay = 0
		f := h.fake()
		f.answer = status(400)
		s := h.sub(1, f)
		s.DeadLetter = "dead"
		var mu sync.Mutex
		refused, synced := map[string]bool{}, map[string]bool{}
		h.prepare = func(d *delivery.Dispatcher) {
			d.SetSync(func(f *os.File) error {
				mu.Lock()
				defer mu.Unlock()
				if info, err := f.Stat(); err != nil || !info.IsDir() {
					return err
				}
				if !refused[f.Name()] {
					refused[f.Name()] = true
					return errors.New("the disk says no")
				}
				synced[f.Name()] = true
				return nil
			})
		}
		h.start(s)
		h.publish(1, 1)
		h.sleep(time.Hour)
		if got := h.queues[1].Tally(); got.DeadLettered != 1 {
			t.Fatalf("%+v", got)
		}
		files := 0
		err := filepath.WalkDir(h.root, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			files++
			for dir := filepath.Dir(path); len(dir) >= len(h.root); dir = filepath.Dir(dir) {
				if !synced[dir] {
					t.Errorf("%s was never synced", dir)
				}
			}
			return nil
		})
		if err != nil || files == 0 {
			t.Errorf("%d files, %v", files, err)
		}
	})
}
