package delivery_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/event"
	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

// deadSize returns the size of all files below a directory and how many
// events they have.
func deadSize(t testing.TB, root string) (size int64, events int) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		size += (info.Size() + 4095) / 4096 * 4096
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range deadFiles(t, root) {
		events += bytes.Count(read(t, filepath.Join(root, name)), []byte("\n"))
	}
	return size, events
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// P7: while the file system is at the low-water mark no dead letter is written,
// no record is made of it, nothing is given up because of it, however long it
// lasts, and nothing is lost.
func TestDeadLettersWaitForSpace(t *testing.T) {
	for name, delay := range map[string]time.Duration{"at once": 0, "collected": 5 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *harness) {
				h.engine.spare = new(atomic.Uint64)
				h.engine.spare.Store(1 << 30)
				h.set.DeadLetterDelay, h.set.WindowEvents = delay, 64
				f := h.fake()
				f.answer = status(400)
				s := h.sub(1, f)
				s.DeadLetter = "dead"
				h.start(s)
				h.publish(10, 1)
				h.sleep(10 * time.Minute)
				h.engine.spare.Store(0)
				h.sleep(time.Minute)
				h.publish(20, 1)
				h.sleep(time.Second)
				records := h.keys(store.TableRetry)
				h.publish(200, 1)
				h.sleep(9 * time.Hour) // writing is tried for 4
				if _, n := deadSize(t, h.root); n != 10 {
					t.Errorf("%d dead letters while there is no space, want the 10 from before", n)
				}
				if n := h.keys(store.TableRetry); n > records {
					t.Errorf("%d retry records were written while there is no space", n-records)
				}
				if got := h.queues[1].Tally(); got.Backlog != 220 || len(got.Dropped) != 0 {
					t.Errorf("while there is no space: %+v", got)
				}
				h.engine.spare.Store(1 << 30)
				h.sleep(time.Hour)
				if _, n := deadSize(t, h.root); n != 230 {
					t.Errorf("%d dead letters in the end, want 230", n)
				}
				if got := h.queues[1].Tally(); got.Backlog != 0 || got.DeadLettered != 230 || got.Matched != 230 {
					t.Errorf("in the end: %+v", got)
				}
			})
		})
	}
}

// P7: the directory keeps to its limit; the oldest files go, and that is
// counted. It is known after a restart too.
func TestDeadLetterDirectoryIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.DeadLetters.Bytes, h.set.DeadLetterDelay = 16<<20, 0
		f := h.fake()
		f.answer = status(400)
		s := h.sub(1, f)
		s.DeadLetter = "dead"
		data := []byte(`"` + string(bytes.Repeat([]byte{'x'}, 200<<10)) + `"`)
		for round := range 2 {
			h.start(s)
			for i := range 60 {
				h.next++
				h.publishEvent(&event.Event{ID: fmt.Sprintf("%d-%d", round, i), Data: data, Accepted: time.Now()}, 1)
				h.sleep(time.Second)
			}
			h.sleep(time.Minute)
			size, _ := deadSize(t, h.root)
			if got := int64(gauge(t, h.d, "rollcall_delivery_dead_letter_bytes")); got != size || size > 16<<20 {
				t.Errorf("the directory has %d bytes and is thought to have %d", size, got)
			}
			if round == 1 && (size < 14<<20 || gauge(t, h.d, "rollcall_delivery_dead_letter_files_removed_total") == 0) {
				t.Errorf("the directory has %d bytes", size)
			}
			h.stop()
		}
		newest := false
		for _, name := range deadFiles(t, h.root) {
			text := read(t, filepath.Join(h.root, name))
			newest = newest || bytes.Contains(text, []byte(`"1-59"`))
			if bytes.Contains(text, []byte(`"0-0"`)) {
				t.Error("the oldest dead letter is still there")
			}
		}
		if !newest {
			t.Error("the newest dead letter is gone")
		}
	})
}

// An operator may keep other files beside dead letters, compressed ones for
// example. They are not ours to remove, and dead letters do not go for them.
func TestOtherFilesBesideDeadLetters(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.DeadLetters.Bytes, h.set.DeadLetterDelay = 16<<20, 0
		archive := filepath.Join(h.root, "dead", "archive.gz")
		if err := os.Mkdir(filepath.Dir(archive), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(archive, make([]byte, 17<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		f := h.fake()
		f.answer = status(400)
		s := h.sub(1, f)
		s.DeadLetter = "dead"
		h.start(s)
		for range 3 {
			h.publish(1, 1)
			h.sleep(time.Minute)
		}
		if _, events := deadSize(t, h.root); events != 3 {
			t.Errorf("%d of 3 dead letters are there", events)
		}
		if _, err := os.Stat(archive); err != nil {
			t.Error(err)
		}
	})
}

// P7: on Pebble, with little more space than the low-water mark: dead letters
// stop there, and what the reserve is for can still be stored.
func TestDeadLettersLeaveTheReserveAlone(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "dead-letter")
	var capacity atomic.Int64
	capacity.Store(int64(256<<20 + size(12<<20, 75<<20)))
	taken := func() (n int64) {
		_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error { // files come and go
			if err == nil && !e.IsDir() && e.Name() != "BALLAST" {
				if info, err := e.Info(); err == nil {
					n += (info.Size() + 4095) / 4096 * 4096
				}
			}
			return nil
		})
		return n
	}
	engine, err := pebble.Open(pebble.Options{Dir: filepath.Join(dir, "store"), FreeSpace: func() (uint64, error) {
		return uint64(max(0, capacity.Load()-taken())), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	set := delivery.DefaultSettings()
	set.DeadLetterDelay = 0
	d, err := delivery.Open(delivery.Options{Engine: engine, Settings: set, DeadLetterRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	dest := &fake{answer: status(400)}
	q := d.Put(delivery.Subscription{ID: 1, Name: "sub-1", Realm: realm, Schema: event.EventGrid, Destination: dest, DeadLetter: "dead",
		Retry: delivery.RetryPolicy{MaxAttempts: 30, TTL: 24 * time.Hour}})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	<-d.Loaded()

	src, data := d.Source(realm), bytes.Repeat([]byte{'x'}, 20<<10)
	accepted := 0
	waiting := func() bool { return gauge(t, d, "rollcall_delivery_dead_letters_waiting") == 1 }
	// The disk is full when events are refused and dead letters wait. What the
	// store takes for a new log at once may fill it when no event is left to be
	// dead-lettered: then some room is made, and the filling goes on.
	for refused := 0; (refused < 20 || !waiting()) && accepted < size(5_000, 50_000); {
		e := &event.Event{ID: fmt.Sprint(accepted), Source: "/source", Type: "T", Accepted: time.Now(), Data: fmt.Appendf(nil, "%q", data)}
		record, p := delivery.AppendRecord(nil, []uint64{1}, e), uint8(accepted%16)
		b := store.NewBatch(store.Normal)
		ordinal := b.PutSequenced(src.Prefix(p), record)
		done := make(chan error, 1)
		engine.Submit(b, func(r store.Result) {
			if r.Err == nil {
				src.Notify(p, r.Index, ordinal, e, len(record), []*delivery.Queue{q})
			}
			done <- r.Err
		})
		if err := <-done; err != nil { // at the low-water mark
			if refused++; !waiting() && q.Tally().Backlog == 0 {
				capacity.Add(4 << 20)
			}
			continue
		}
		accepted++
	}
	if !waiting() {
		t.Fatalf("%d events are accepted and no dead letter waits", accepted)
	}
	free := capacity.Load() - taken()
	if free < 256<<20-16<<20 { // what the store itself may have under way
		t.Errorf("%d bytes are free, far below the low-water mark", free)
	}
	for i := range 100 {
		b := store.NewBatch(store.Reserve)
		b.Put(fmt.Appendf([]byte{0, byte(store.TableCounter)}, "test-%d", i), []byte("disconnect"))
		if _, err := store.Commit(t.Context(), engine, b); err != nil {
			t.Fatalf("what the reserve is for is refused: %v", err)
		}
	}
	got := q.Tally()
	if got.DeadLettered+got.Backlog != uint64(accepted) || got.Backlog == 0 || len(got.Dropped) != 0 {
		t.Errorf("of %d events: %+v", accepted, got)
	}
	t.Logf("%d events, %d dead-lettered, %d wait; %d bytes free, low-water mark %d", accepted, got.DeadLettered, got.Backlog, free, 256<<20)
}
