package grid

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/event"
)

// tails is the live tails. Sending takes no lock while there are none.
type tails struct {
	dropped prometheus.Counter
	count   atomic.Int64

	mu  sync.Mutex
	all map[*Tail]struct{}
}

// Tail is a live view of all events as they are committed, wanted by a
// subscription or not.
type Tail struct {
	tails  *tails
	events chan *event.Event
	missed atomic.Uint64
}

// Tail begins a live view. The caller closes it.
func (g *Grid) Tail() *Tail {
	t := &Tail{tails: &g.tails, events: make(chan *event.Event, g.set.TailBuffer)}
	g.tails.mu.Lock()
	defer g.tails.mu.Unlock()
	if g.tails.all == nil {
		g.tails.all = make(map[*Tail]struct{})
	}
	g.tails.all[t] = struct{}{}
	g.tails.count.Add(1)
	return t
}

// Events is the events, in commit order. It is closed by Close. A reader that
// lags behind the configured buffer misses events; Missed counts them.
func (t *Tail) Events() <-chan *event.Event { return t.events }

// Missed is the number of events that the reader was too slow for.
func (t *Tail) Missed() uint64 { return t.missed.Load() }

// Close ends the view. It may be called more than once.
func (t *Tail) Close() {
	t.tails.mu.Lock()
	defer t.tails.mu.Unlock()
	if _, ok := t.tails.all[t]; ok {
		delete(t.tails.all, t)
		t.tails.count.Add(-1)
		close(t.events)
	}
}

func (t *tails) send(e *event.Event) {
	if t.count.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for tail := range t.all {
		select { // never blocks, so the lock is held for moments only
		case tail.events <- e:
		default:
			tail.missed.Add(1)
			t.dropped.Inc()
		}
	}
}
