package delivery_test

import (
	"context"
	"testing"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/store"
)

// A cursor that the store refused is written once there is room again, though
// nothing was settled since: a crash afterwards repeats nothing.
func TestRefusedCursorIsWrittenLater(t *testing.T) {
	inBubble(t, func(t *testing.T, h *harness) {
		f := h.fake()
		h.start(h.sub(1, f))
		ids := h.publish(20, 1)
		h.engine.set(func(*store.Batch) error { return store.ErrFull })
		h.sleep(3 * time.Second) // cursors are refused
		h.engine.set(nil)
		h.sleep(5 * time.Second)
		h.crash()
		h.start(h.sub(1, f))
		h.sleep(time.Second)
		onceEach(t, f, 1, ids...)
	})
}

// forgetful is an engine that, while told so, makes batches durable and says
// that it does not know.
type forgetful struct {
	store.Engine
	forgets bool
}

func (e *forgetful) Submit(b *store.Batch, done func(store.Result)) {
	if !e.forgets {
		e.Engine.Submit(b, done)
		return
	}
	e.Engine.Submit(b, func(store.Result) { done(store.Result{Err: store.ErrUnknown}) })
}

func (e *forgetful) Outcome(context.Context, store.ID) (store.Result, bool, error) {
	return store.Result{}, false, nil
}

// P4: an event whose commit nobody knows the outcome of is delivered after the
// next start if it was stored, however long it stays unknown and whatever else
// holds up an orderly stop.
func TestDoubtOutlivesTheStop(t *testing.T) {
	for name, wait := range map[string]time.Duration{"asked in vain": 5 * time.Minute, "while it is asked": time.Second} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *harness) {
				engine := &forgetful{Engine: h.engine.Engine}
				h.engine.Engine = engine
				good, slow := h.fake(), h.fake()
				slow.answer = func(ctx context.Context, _ delivery.Attempt) delivery.Result {
					<-ctx.Done()
					return delivery.Result{}
				}
				h.start(h.sub(1, good), h.sub(2, slow))
				engine.forgets = true
				doubtful := h.publish(1, 1)
				engine.forgets = false
				h.publish(8, 1) // newer ones, of its partition too
				h.sleep(wait)
				h.publish(1, 2) // holds the stop up until the grace ends
				h.stop()
				h.start(h.sub(1, good), h.sub(2, h.fake()))
				h.sleep(time.Second)
				if n := good.counts()[doubtful[0]]; n != 1 {
					t.Errorf("the event of unknown outcome was delivered %d times, want once", n)
				}
			})
		})
	}
}
