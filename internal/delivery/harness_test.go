package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/delivery"
	"rollcall/internal/event"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/setaside"
)

const realm = "namespace/default"

// seen is one attempt that a fake destination got.
type seen struct {
	at      time.Duration // since the harness began
	ids     []string
	earlier int
}

// fake is a destination that answers as told and remembers what it got.
type fake struct {
	began time.Time
	// answer decides; nil: 200. It may block.
	answer func(ctx context.Context, a delivery.Attempt) delivery.Result
	group  func(*event.Event) string

	mu  sync.Mutex
	got []seen
}

func (f *fake) Group(e *event.Event) string {
	if f.group == nil {
		return ""
	}
	return f.group(e)
}

func (f *fake) Deliver(ctx context.Context, a delivery.Attempt) delivery.Result {
	s := seen{at: time.Since(f.began), earlier: a.Earlier}
	for _, e := range a.Events {
		s.ids = append(s.ids, e.ID)
	}
	f.mu.Lock()
	f.got = append(f.got, s)
	f.mu.Unlock()
	if f.answer == nil {
		return delivery.OfStatus(200)
	}
	return f.answer(ctx, a)
}

func (f *fake) attempts() []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.got)
}

// counts returns how often each event was attempted.
func (f *fake) counts() map[string]int {
	n := map[string]int{}
	for _, s := range f.attempts() {
		for _, id := range s.ids {
			n[id]++
		}
	}
	return n
}

// shaky is an engine that fails as told.
type shaky struct {
	store.Engine
	mu   sync.Mutex
	fail func(*store.Batch) error // nil: nothing fails
	// spare is what it says may be taken beside it, if set
	spare *atomic.Uint64
}

func (s *shaky) Usage() store.Usage {
	u := s.Engine.Usage()
	if s.spare != nil {
		u.SpareBytes = s.spare.Load()
	}
	return u
}

func (s *shaky) set(f func(*store.Batch) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

func (s *shaky) Submit(b *store.Batch, done func(store.Result)) {
	s.mu.Lock()
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(b); err != nil {
			go done(store.Result{Err: err})
			return
		}
	}
	s.Engine.Submit(b, done)
}

// harness is a dispatcher in a synctest bubble.
type harness struct {
	t      *testing.T
	engine *shaky
	set    delivery.Settings
	root   string
	clock  clock.Clock   // nil: the bubble's
	ahead  time.Duration // of the bubble's time, when events are accepted
	began  time.Time

	setAside *setaside.List // nil: the dispatcher's own

	// prepare is called with each dispatcher before it runs, if set.
	prepare func(*delivery.Dispatcher)

	d      *delivery.Dispatcher
	cancel context.CancelFunc
	ended  chan error
	queues map[uint64]*delivery.Queue
	next   int
}

// inBubble runs f in virtual time, with a harness whose dispatcher is not
// started yet.
func inBubble(t *testing.T, f func(t *testing.T, h *harness)) {
	t.Helper()
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := mem.New()
		set := delivery.DefaultSettings()
		set.Jitter = 0
		h := &harness{t: t, engine: &shaky{Engine: m}, set: set, root: root, began: time.Now(), queues: map[uint64]*delivery.Queue{}}
		f(t, h)
		if h.cancel != nil {
			h.stop()
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// start opens a dispatcher with these subscriptions and runs it.
func (h *harness) start(subs ...delivery.Subscription) {
	h.t.Helper()
	d, err := delivery.Open(delivery.Options{
		Engine: h.engine, Clock: h.clock, Settings: h.set, DeadLetterRoot: h.root, SetAside: h.setAside, Random: func() float64 { return 0 },
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.d = d
	if h.prepare != nil {
		h.prepare(d)
	}
	for _, s := range subs {
		h.put(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.ended = cancel, make(chan error, 1)
	go func() { h.ended <- d.Run(ctx) }()
	synctest.Wait()
}

func (h *harness) put(s delivery.Subscription) { h.queues[s.ID] = h.d.Put(s) }

// stop ends the dispatcher in order.
func (h *harness) stop() {
	h.t.Helper()
	h.cancel()
	h.cancel = nil
	if err := <-h.ended; err != nil {
		h.t.Error(err)
	}
}

// crash ends the dispatcher without letting it write anything any more.
func (h *harness) crash() {
	h.t.Helper()
	h.engine.set(func(*store.Batch) error { return store.ErrClosed })
	h.stop()
	h.engine.set(nil)
}

func (h *harness) fake() *fake { return &fake{began: h.began} }

func (h *harness) sub(id uint64, d delivery.Destination) delivery.Subscription {
	return delivery.Subscription{
		ID: id, Name: fmt.Sprintf("sub-%d", id), Realm: realm, Schema: event.EventGrid, Destination: d,
		Retry: delivery.RetryPolicy{MaxAttempts: 30, TTL: 24 * time.Hour},
	}
}

// publish stores n events for subscriptions and returns their ids.
func (h *harness) publish(n int, subs ...uint64) []string {
	h.t.Helper()
	var ids []string
	for range n {
		h.next++
		id := fmt.Sprintf("event-%04d", h.next)
		h.publishEvent(&event.Event{ID: id, Type: "T", Source: "/source", Time: time.Now(), Accepted: time.Now().Add(h.ahead),
			OutputID: "out-" + id, Data: []byte(`{"n":1}`)}, subs...)
		ids = append(ids, id)
	}
	synctest.Wait()
	return ids
}

func (h *harness) publishEvent(e *event.Event, subs ...uint64) {
	src := h.d.Source(realm)
	p := uint8(h.next % 4)
	b := store.NewBatch(store.Normal)
	record := delivery.AppendRecord(nil, subs, e)
	size := len(record)
	ordinal := b.PutSequenced(src.Prefix(p), record)
	var queues []*delivery.Queue
	for _, id := range subs {
		queues = append(queues, h.queues[id])
	}
	h.engine.Submit(b, func(r store.Result) {
		switch {
		case r.Err == nil:
			src.Notify(p, r.Index, ordinal, e, size, queues)
		default:
			src.Doubt(b.ID(), p, ordinal, e, size, queues)
		}
	})
}

// sleep lets virtual time pass.
func (h *harness) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// keys counts the keys of a table in all partitions.
func (h *harness) keys(t store.Table) int {
	snap := h.engine.Snapshot()
	defer snap.Close()
	n := 0
	for p := range h.engine.Partitions() {
		prefix := []byte{uint8(p), byte(t)}
		it := snap.Iter(prefix, store.PrefixEnd(prefix))
		for it.Next() {
			n++
		}
		it.Close()
	}
	return n
}

// logBytes is what the event log takes, keys and values.
func (h *harness) logBytes() int {
	snap := h.engine.Snapshot()
	defer snap.Close()
	n := 0
	for p := range h.engine.Partitions() {
		prefix := delivery.EventPrefix(uint8(p), realm)
		it := snap.Iter(prefix, store.PrefixEnd(prefix))
		for it.Next() {
			n += len(it.Key()) + len(it.Value())
		}
		it.Close()
	}
	return n
}

func status(code int) func(context.Context, delivery.Attempt) delivery.Result {
	return func(context.Context, delivery.Attempt) delivery.Result { return delivery.OfStatus(code) }
}

// onceEach fails unless every id was attempted exactly n times.
func onceEach(t *testing.T, f *fake, n int, ids ...string) {
	t.Helper()
	got := f.counts()
	for _, id := range ids {
		if got[id] != n {
			t.Errorf("event %s was attempted %d times, want %d", id, got[id], n)
		}
	}
	if len(got) != len(ids) {
		t.Errorf("%d events were attempted, want %d", len(got), len(ids))
	}
}
