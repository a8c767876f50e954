package delivery_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/event"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/setaside"
)

// tableKeys are the keys of a table.
func (h *harness) tableKeys(table store.Table) (all [][]byte) {
	snap := h.engine.Snapshot()
	defer snap.Close()
	it := snap.Iter(nil, nil)
	defer it.Close()
	for it.Next() {
		if store.TableOf(it.Key()) == table {
			all = append(all, bytes.Clone(it.Key()))
		}
	}
	return all
}

func (h *harness) write(f func(*store.Batch)) {
	h.t.Helper()
	b := store.NewBatch(store.Reserve)
	f(b)
	if _, err := store.Commit(h.t.Context(), h.engine, b); err != nil {
		h.t.Fatal(err)
	}
}

// waitFor is an endpoint that takes everything, but not before it is let.
func waitFor(let <-chan struct{}) func(context.Context, delivery.Attempt) delivery.Result {
	return func(ctx context.Context, _ delivery.Attempt) delivery.Result {
		select {
		case <-let:
			return delivery.OfStatus(200)
		case <-ctx.Done():
			return delivery.Result{}
		}
	}
}

// One record that cannot be read, in each table, holds nobody else up: what can
// be read is delivered, what cannot is set aside and counted, and progress that is
// lost is made again.
func TestUnreadableRecordsArePassed(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.CursorInterval = time.Millisecond
		first, second := h.fake(), h.fake()
		first.answer, second.answer = status(500), status(500)
		h.start(h.sub(1, first), h.sub(2, second))
		ids := h.publish(8, 1, 2)
		h.sleep(time.Second) // all are on the shelf
		paused := h.sub(1, first)
		paused.Paused = true
		h.put(paused)
		later := h.publish(8, 1) // and these only in the log
		h.sleep(time.Second)
		h.stop()

		spoil := func(table store.Table, which int, value []byte) []byte {
			t.Helper()
			k := h.tableKeys(table)[which]
			h.write(func(b *store.Batch) { b.Put(k, value) })
			return k
		}
		spoil(store.TableRetry, 0, []byte{99})
		spoil(store.TableTally, 0, []byte{99})
		// Of the events that are only in the log, the newest.
		spoil(store.TableEvent, len(h.tableKeys(store.TableEvent))-1, []byte{99})
		for p := range h.engine.Partitions() { // keys that nobody can have written
			for _, table := range []store.Table{store.TableRetry, store.TableCursor, store.TableEvent} {
				h.write(func(b *store.Batch) { b.Put([]byte{uint8(p), byte(table), 'a'}, []byte{1}) })
			}
		}
		h.write(func(b *store.Batch) { b.Put([]byte{store.Config, byte(store.TableTally), 'a'}, []byte{1}) })

		aside := setaside.New(nil)
		h.setAside = aside
		first, second = h.fake(), h.fake()
		h.start(h.sub(1, first), h.sub(2, second))
		h.sleep(time.Hour)
		got, want := first.counts(), append(ids, later...)
		missing := 0
		for _, id := range want {
			switch got[id] {
			case 0:
				missing++
			case 1:
			default:
				t.Errorf("%s came %d times", id, got[id])
			}
		}
		if missing != 1 {
			t.Errorf("%d events of the first are missing, and one cannot be read", missing)
		}
		onceEach(t, second, 1, ids...)
		tally := h.queues[1].Tally()
		if tally.Backlog != 0 || tally.Dropped[delivery.Unreadable.String()] != 1 {
			t.Errorf("%+v", tally)
		}
		total := uint64(0)
		for _, n := range aside.Counts() {
			total += n
		}
		if want := uint64(3*h.engine.Partitions() + 4); total != want {
			t.Errorf("set aside %d, want %d: %v", total, want, aside.Counts())
		}
	})
}

// A tally says that it does not know yet, and how long the oldest has waited:
// in memory, on the shelf and in the log.
func TestTallyOfWhatWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.CursorInterval, h.set.WindowEvents = time.Millisecond, 4
		f := h.fake()
		f.answer = status(500)
		let := make(chan struct{})
		slow := h.fake()
		slow.answer = waitFor(let)
		h.prepare = func(d *delivery.Dispatcher) {
			if got := d.Put(h.sub(9, h.fake())).Tally(); !got.Loading || !got.OldestPending.IsZero() {
				t.Errorf("before it runs: %+v", got)
			}
		}
		h.start(h.sub(1, f), h.sub(2, slow))
		h.prepare = nil
		if got := h.queues[1].Tally(); got.Loading || got.Backlog != 0 || !got.OldestPending.IsZero() {
			t.Errorf("with nothing: %+v", got)
		}
		oldest := time.Now()
		for range 20 { // more than memory takes
			h.publish(1, 1, 2)
			h.sleep(2 * time.Minute)
		}
		check := func(when string) {
			t.Helper()
			for id, want := range map[uint64]uint64{1: 20, 2: 20} {
				got := h.queues[id].Tally()
				if got.Backlog != want || got.OldestPending.After(oldest) || got.OldestPending.Before(oldest.Add(-time.Minute)) || got.Loading {
					t.Errorf("%s, %d: %+v; the oldest is of %v", when, id, got, oldest)
				}
			}
		}
		check("running")
		h.set.ShutdownGrace = 0
		h.stop()
		h.start(h.sub(1, f), h.sub(2, slow))
		check("after a restart")
		close(let)
		h.put(h.sub(1, h.fake()))
		h.sleep(12 * time.Hour)
		for id := range uint64(2) {
			if got := h.queues[id+1].Tally(); got.Backlog != 0 || !got.OldestPending.IsZero() || got.Delivered != 20 {
				t.Errorf("in the end: %+v", got)
			}
		}
	})
}

// What waits in memory keeps to the window by number and by size, for many
// subscriptions of one log, and all is delivered in the end.
func TestWindowBoundsBytes(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.WindowBytes, h.set.WindowEvents, h.set.MaxInFlight = 64<<10, 1000, 1
		let := make(chan struct{})
		f := h.fake()
		f.answer = waitFor(let)
		h.start(h.sub(1, f))
		data := append(append([]byte{'"'}, bytes.Repeat([]byte("x"), 10<<10)...), '"')
		for i := range 40 {
			h.next++
			h.publishEvent(&event.Event{ID: fmt.Sprintf("e-%02d", i), Type: "T", Source: "/s", Time: time.Now(), Accepted: time.Now(), Data: data}, 1)
			synctest.Wait()
		}
		if got := h.queues[1].Tally(); got.Backlog != 40 {
			t.Errorf("%+v", got)
		}
		if n, bytes := h.queues[1].Held(); n == 0 || n > 6 || bytes > 64<<10 {
			t.Errorf("%d events of %d bytes are in memory", n, bytes)
		}
		close(let)
		h.sleep(time.Minute)
		if n, bytes := h.queues[1].Held(); n != 0 || bytes != 0 {
			t.Errorf("%d events of %d bytes are still in memory", n, bytes)
		}
		got := f.counts()
		for i := range 40 {
			if got[fmt.Sprintf("e-%02d", i)] != 1 {
				t.Errorf("e-%02d came %d times", i, got[fmt.Sprintf("e-%02d", i)])
			}
		}
	})
}

// A subscription that is removed drops what waits for it, once, and leaves
// nothing on disk; the others keep what is theirs.
func TestRemovedWithEventsInAllPlaces(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		h.set.CursorInterval, h.set.WindowEvents = time.Millisecond, 4
		gone, stays := h.fake(), h.fake()
		gone.answer, stays.answer = status(500), status(500)
		h.start(h.sub(1, gone), h.sub(2, stays))
		h.publish(20, 1, 2)
		h.sleep(time.Second)
		q := h.queues[1]
		h.d.Remove(1)
		h.d.Remove(1)
		h.sleep(time.Second)
		if got := q.Tally(); got.Backlog != 0 || got.Dropped[delivery.SubscriptionDeleted.String()] != 20 {
			t.Errorf("%+v", got)
		}
		if got := h.queues[2].Tally(); got.Backlog != 20 || len(got.Dropped) != 0 {
			t.Errorf("%+v", got)
		}
		for _, table := range []store.Table{store.TableRetry, store.TableCursor, store.TableTally} {
			for _, k := range h.tableKeys(table) {
				if bytes.Contains(k, []byte{0, 0, 0, 0, 0, 0, 0, 1}) && !bytes.Contains(k, []byte{0, 0, 0, 0, 0, 0, 0, 2}) {
					t.Errorf("left in %s: % x", table, k)
				}
			}
		}
	})
}

// A dispatcher runs once.
func TestRunTwice(t *testing.T) {
	e := mem.New()
	defer e.Close()
	d, err := delivery.Open(delivery.Options{Engine: e, Settings: delivery.DefaultSettings()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := d.Run(ctx); err == nil {
		t.Error("it ran twice")
	}
	select {
	case <-d.Loaded():
	default:
		t.Error("it has not loaded")
	}
}

// A subscription that had nothing to do has its progress written when the
// dispatcher stops, so that the next start does not read the log for it.
func TestIdleProgressIsWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		idle := h.fake()
		h.start(h.sub(1, idle), h.sub(2, h.fake()))
		h.publish(40, 2)
		h.sleep(time.Minute)
		h.stop()
		mine := 0
		for _, k := range h.tableKeys(store.TableCursor) {
			if bytes.HasSuffix(k, []byte{0, 0, 0, 0, 0, 0, 0, 1}) {
				mine++
			}
		}
		if mine != 4 { // the harness publishes in four partitions
			t.Errorf("%d cursors are written for a subscription that had nothing to do", mine)
		}
		h.start(h.sub(1, idle), h.sub(2, h.fake()))
		h.sleep(time.Minute)
		if got := h.queues[1].Tally(); got.Backlog != 0 || len(idle.attempts()) != 0 {
			t.Errorf("%+v", got)
		}
	})
}
