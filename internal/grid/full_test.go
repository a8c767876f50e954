package grid_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/grid"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

// brimful is an engine that, while told so, refuses everything.
type brimful struct {
	store.Engine
	full atomic.Bool
}

func (e *brimful) Submit(b *store.Batch, done func(store.Result)) {
	if e.full.Load() {
		go done(store.Result{Err: store.ErrFull})
		return
	}
	e.Engine.Submit(b, done)
}

// inBubble runs f in virtual time, with a grid on an engine that can be full.
// No endpoint answers.
func inBubble(t *testing.T, f func(t *testing.T, g *grid.Grid, engine *brimful)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := mem.New()
		defer m.Close()
		engine := &brimful{Engine: m}
		hooks, err := webhook.New(webhook.Options{Rules: webhook.Rules{AllowPrivate: true}})
		if err != nil {
			t.Fatal(err)
		}
		defer hooks.Close()
		d, err := delivery.Open(delivery.Options{Engine: engine, Settings: delivery.DefaultSettings()})
		if err != nil {
			t.Fatal(err)
		}
		g, err := grid.Open(grid.Options{Engine: engine, Dispatcher: d, Webhooks: hooks, Settings: grid.DefaultSettings()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		f(t, g, engine)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A subscription that expires while the store is full is removed when there is
// room again.
func TestExpiryWhileFull(t *testing.T) {
	inBubble(t, func(t *testing.T, g *grid.Grid, engine *brimful) {
		p := properties("https://127.0.0.1:1/hook")
		p.Expiration = time.Now().Add(time.Hour)
		if _, _, err := g.Put(t.Context(), source, "hook", p, grid.Condition{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		engine.full.Store(true)
		time.Sleep(2 * time.Minute)
		if _, err := g.Get(source, "hook"); err != nil {
			t.Fatalf("removed although the store is full: %v", err)
		}
		engine.full.Store(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s, err := g.Get(source, "hook"); err == nil {
			t.Errorf("still there two minutes after there was room again: %s", s.State)
		}
	})
}

// What a handshake came to while the store was full is stored when there is
// room again.
func TestHandshakeWhileFull(t *testing.T) {
	inBubble(t, func(t *testing.T, g *grid.Grid, engine *brimful) {
		if _, _, err := g.Put(t.Context(), source, "hook", properties("https://127.0.0.1:1/hook"), grid.Condition{}); err != nil {
			t.Fatal(err)
		}
		engine.full.Store(true)
		time.Sleep(5 * time.Minute) // the endpoint was asked in vain
		engine.full.Store(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s, err := g.Get(source, "hook"); err != nil || s.State != grid.Failed {
			t.Errorf("the subscription is %s, %v; want %s", s.State, err, grid.Failed)
		}
	})
}
