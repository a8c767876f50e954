package broker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
)

// Load reads the sessions that are stored. It is to be called once, before
// anything connects.
func (b *Broker) Load() error {
	n := 0
	chunks := make(chan *loadChunk, 4)
	built := make(chan struct{})
	go func() { // ends with chunks
		defer close(built)
		for c := range chunks {
			c.build(b)
		}
	}()
	c := new(loadChunk)
	err := b.store.Load(func(s *stored.Session, subs []stored.Subscription) error {
		if s.Expiry == 0 { // it ended with the process, as soon as somebody says so
			subs = nil
		}
		c.sessions = append(c.sessions, *s)
		c.subs = append(c.subs, subs...)
		c.ends = append(c.ends, len(c.subs))
		if n++; len(c.sessions) == loadAtOnce {
			chunks <- c
			c = new(loadChunk)
		}
		return nil
	})
	chunks <- c
	close(chunks)
	<-built
	if err != nil {
		return fmt.Errorf("read stored sessions: %w", err)
	}
	if err := b.loadWills(); err != nil {
		return err
	}
	if n > 0 {
		b.opts.Log.Info("stored sessions", "sessions", n)
	}
	return nil
}

// loadAtOnce is how many sessions are handed over at once from who reads them
// to who builds what the broker knows of them.
const loadAtOnce = 512

// loadChunk is some sessions as they are stored.
type loadChunk struct {
	sessions []stored.Session
	subs     []stored.Subscription // of all of them
	ends     []int                 // where those of each end
}

func (c *loadChunk) build(b *Broker) {
	boxes := make([]box, len(c.sessions))
	from, start := 0, b.store.Start()
	for i := range c.sessions {
		meta := &c.sessions[i]
		rl := b.realm(meta.Realm)
		bx := &boxes[i]
		bx.b, bx.realm, bx.name, bx.key, bx.meta, bx.last = b, rl, meta.Name, meta.Key(), *meta, start
		rl.install(bx)
		for j := from; j < c.ends[i]; j++ {
			sub := &c.subs[j]
			bx.subscribe(sub.Filter, grant{box: bx, id: sub.Identifier, qos: sub.QoS, noLocal: sub.NoLocal, asPublished: sub.RetainAsPublished})
		}
		from = c.ends[i]
	}
}

// loadWills reads the Wills that are due of names without a session, so that a
// client which comes back before they have been published does not replace them
// unseen. Those of a session are read when it is resumed.
func (b *Broker) loadWills() error {
	items, err := b.store.Due(b.clock.Steady(), math.MaxInt)
	if err != nil {
		return fmt.Errorf("read due Wills: %w", err)
	}
	for _, it := range items {
		rl := b.realm(it.Realm)
		if it.Kind != stored.WillDelayed || rl.box(it.Session) != nil || strings.Contains(it.Session, "\x00") {
			continue
		}
		w, err := b.store.Will(it.Realm, it.Session)
		if err != nil {
			return fmt.Errorf("read the Will of %s: %w", it.Session, err)
		}
		if w != nil {
			rl.setWill(it.Session, w)
		}
	}
	return nil
}

const (
	dueEvery = 500 * time.Millisecond
	dueLimit = 256
	dueAgain = 30 * time.Second // after a failure
)

// Run ends sessions that have expired, or whose end could not be stored, and
// publishes Wills whose delay is over, until ctx ends. Then it waits for whatever
// reads the store for connections: they have ended, or Shutdown has been called.
func (b *Broker) Run(ctx context.Context) error {
	defer func() {
		b.admissions.close() // where no loops do
		b.work.Wait()
	}()
	b.work.Go(func() { b.findEmpty(ctx) })         // ends when all queues are found, or with ctx
	busy := make(map[stored.DueItem]time.Duration) // being worked off, until when they are not tried again
	for b.workOffDue(busy) && b.pause(ctx, dueEvery) {
	}
	return nil
}

// workOffDue works off what is due, but for what is in busy until its time has
// come. It reports false when the store is closed.
func (b *Broker) workOffDue(busy map[stored.DueItem]time.Duration) bool {
	b.eraseAgain()
	items, err := b.store.Due(b.clock.Steady(), dueLimit)
	if err != nil {
		if errors.Is(err, store.ErrClosed) {
			return false
		}
		b.opts.Log.Error("what is due cannot be read", "err", err)
	}
	seen := make(map[stored.DueItem]bool, len(items))
	for _, it := range items {
		seen[it] = true
		if now := b.clock.Monotonic(); now >= busy[it] && !b.publishes(it) {
			busy[it] = now + dueAgain
			b.workOff(it)
		}
	}
	for it := range busy {
		if !seen[it] {
			delete(busy, it)
		}
	}
	return true
}

// publishes reports that somebody works it off already.
func (b *Broker) publishes(it stored.DueItem) bool {
	rl := b.realm(it.Realm)
	return it.Kind == stored.WillDelayed && (rl.publishesWill(it.Session) || rl.isReplaced(it.Session))
}

func (b *Broker) pause(ctx context.Context, d time.Duration) bool {
	woken := make(chan struct{})
	t := b.opts.Clock.AfterFunc(d, func() { close(woken) })
	defer t.Stop()
	select {
	case <-woken:
		return true
	case <-ctx.Done():
		return false
	}
}

func (b *Broker) workOff(it stored.DueItem) {
	rl := b.realm(it.Realm)
	if it.Kind == stored.SessionExpired {
		b.expire(rl, it)
		return
	}
	b.willDue(rl, it.Session)
}

// expire ends a session whose client has not come back in time.
func (b *Broker) expire(rl *realm, it stored.DueItem) {
	if bx := rl.box(it.Session); bx != nil && bx.key.Epoch == it.Epoch {
		bx.erase()
	}
}

// willDue publishes a Will whose delay is over, or which was replaced before a
// crash.
func (b *Broker) willDue(rl *realm, key string) {
	var w *stored.Will
	name, _, replaced := strings.Cut(key, "\x00")
	b.opts.Presence.Amend(rl.name, name, func(_ *store.Batch, open bool) bool {
		var err error
		w, err = b.store.Will(rl.name, key)
		if err != nil || rl.isReplaced(key) || w != nil && (w.DueAt.IsZero() || w.DueAt.After(b.clock.Steady())) {
			w = nil
		}
		if w != nil && !rl.beginWill(key, true) {
			w = nil
		}
		return false
	}, func(error) {
		if w == nil {
			return
		}
		if bx := rl.box(name); bx != nil && !replaced {
			bx.takeWill()
		}
		r := b.begin()
		r.remote = true
		defer b.done(r)
		b.publishWill(r, rl, key, w, nil)
	})
}
