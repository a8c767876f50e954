// Package grid knows which event subscriptions exist and stores every event
// once, together with the subscriptions that want it.
//
// Its promise: an event and the facts that it tells of are one commit, made by
// whoever stages the event; the subscriptions matched are those that were in
// effect when it was staged; their ids are part of the stored event, so that a
// later change of a filter never changes what an accepted event is for. Staging
// takes no lock and does no I/O. Subscriptions are resources in partition 0 of
// the store; each write of one is a commit guarded by its revision. A
// subscription matches events from the moment its endpoint has consented
// (Succeeded), not before. A change that names another endpoint leaves the old
// destination and settings in effect until the new one has consented, and if it
// never does. What becomes of pending events is told by package delivery.
package grid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/clock"
	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/fault"
	"rollcall/internal/store"
	"rollcall/internal/store/setaside"
)

// Settings are the bounds of subscriptions and of the handshakes with their
// endpoints.
type Settings struct {
	// MaxSubscriptions bounds the subscriptions of one source. Default 500; 0: no bound.
	MaxSubscriptions int `yaml:"maxSubscriptions"`
	// ValidationWindow is how long a subscription may be confirmed by URL.
	// Default 10m; 1s to 24h.
	ValidationWindow time.Duration `yaml:"validationWindow"`
	// ValidationAttempts is how often an endpoint that does not answer is
	// asked. Default 3; 1 to 100.
	ValidationAttempts int `yaml:"validationAttempts"`
	// ValidationPause is the time between those attempts. Default 5s.
	ValidationPause time.Duration `yaml:"validationPause"`
	// TailBuffer is how many events a live tail may lag behind before it
	// misses some. Default 256; 1 to 65,536.
	TailBuffer int `yaml:"tailBuffer"`
}

// DefaultSettings returns the documented values.
func DefaultSettings() Settings {
	return Settings{
		MaxSubscriptions: 500, ValidationWindow: 10 * time.Minute,
		ValidationAttempts: 3, ValidationPause: 5 * time.Second, TailBuffer: 256,
	}
}

// Validate returns every mistake in s by path below prefix, for instance
// "grid".
func (s Settings) Validate(prefix string) fault.List {
	var bad fault.List
	if s.MaxSubscriptions < 0 {
		bad.Add(fault.At(prefix+".maxSubscriptions", "%d is negative", s.MaxSubscriptions))
	}
	if s.ValidationWindow < time.Second || s.ValidationWindow > 24*time.Hour {
		bad.Add(fault.At(prefix+".validationWindow", "%v is not between 1s and 24h", s.ValidationWindow))
	}
	if s.ValidationAttempts < 1 || s.ValidationAttempts > 100 {
		bad.Add(fault.At(prefix+".validationAttempts", "%d is not between 1 and 100", s.ValidationAttempts))
	}
	if s.ValidationPause < 0 || s.ValidationPause > time.Hour {
		bad.Add(fault.At(prefix+".validationPause", "%v is not between 0 and 1h", s.ValidationPause))
	}
	if s.TailBuffer < 1 || s.TailBuffer > 65536 {
		bad.Add(fault.At(prefix+".tailBuffer", "%d is not between 1 and 65536", s.TailBuffer))
	}
	return bad
}

// Options configure a Grid.
type Options struct {
	Engine     store.Engine         // required
	Dispatcher *delivery.Dispatcher // required; its Run starts after Open
	Webhooks   *webhook.Client      // required
	Clock      clock.Clock          // default: clock.System
	Log        *slog.Logger         // default: discards
	Settings   Settings             // required; see DefaultSettings

	// NewID makes event ids and validation codes. Default: random UUIDs.
	NewID func() string
	// NewToken makes the secrets of validation URLs. Default: 32 random bytes in hexadecimal.
	NewToken func() string
	// BaseURL is where our own validation URLs are served for an endpoint, without
	// a slash at the end, and the file of the CA certificate that whoever opens
	// them has to trust, if any. Nil or "": endpoints can't be told of a URL and must consent themselves.
	BaseURL func(endpoint string) (base, trust string)
	// EventTypes lists the event types that a source can emit. Nil, and a nil
	// answer: any.
	EventTypes func(Source) []string
	// DeadLetters says that the dispatcher has a dead-letter root.
	DeadLetters bool
	SetAside    *setaside.List // of records that cannot be read; nil: one of its own
}

// Grid is the subscriptions of all sources. All methods may be called
// concurrently.
type Grid struct {
	engine      store.Engine
	dispatcher  *delivery.Dispatcher
	webhooks    *webhook.Client
	clock       *clock.Steady
	log         *slog.Logger
	set         Settings
	newID       func() string
	newToken    func() string
	baseURL     func(endpoint string) (base, trust string)
	eventTypes  func(Source) []string
	deadLetters bool
	metrics     *metrics
	setAside    *setaside.List

	indexes atomic.Pointer[map[string]*index] // by realm; replaced as a whole
	tails   tails

	wake        chan struct{}
	interrupted map[entryKey]string // handshakes under way at Open, by hash of their secret; until Run

	mu      sync.Mutex
	entries map[entryKey]*entry
	tasks   []func(context.Context) // to be run by Run
	stopped bool
}

// Open loads the subscriptions and gives those that match events to the
// dispatcher.
func Open(o Options) (*Grid, error) {
	if o.Engine == nil || o.Dispatcher == nil || o.Webhooks == nil {
		return nil, errors.New("grid: an engine, a dispatcher and a webhook client are required")
	}
	if err := o.Settings.Validate("grid").Err(); err != nil {
		return nil, err
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SetAside == nil {
		o.SetAside = setaside.New(o.Log)
	}
	if o.NewID == nil {
		o.NewID = uuid.NewString
	}
	if o.NewToken == nil {
		o.NewToken = randomToken
	}
	if o.BaseURL == nil {
		o.BaseURL = func(string) (string, string) { return "", "" }
	}
	if o.EventTypes == nil {
		o.EventTypes = func(Source) []string { return nil }
	}
	g := &Grid{
		engine: o.Engine, dispatcher: o.Dispatcher, webhooks: o.Webhooks, clock: clock.SteadyOf(o.Clock), log: o.Log, set: o.Settings, setAside: o.SetAside,
		newID: o.NewID, newToken: o.NewToken, baseURL: o.BaseURL, eventTypes: o.EventTypes, deadLetters: o.DeadLetters,
		metrics: newMetrics(),
		wake:    make(chan struct{}, 1),

		interrupted: make(map[entryKey]string),
		entries:     make(map[entryKey]*entry),
	}
	g.tails.dropped = g.metrics.tailDropped
	g.indexes.Store(&map[string]*index{})
	if err := g.load(); err != nil {
		return nil, fmt.Errorf("load event subscriptions: %w", err)
	}
	return g, nil
}

func (g *Grid) load() error {
	snap := g.engine.Snapshot()
	defer snap.Close()
	prefix := []byte{store.Config, byte(store.TableSub)}
	it := snap.Iter(prefix, store.PrefixEnd(prefix))
	defer it.Close()
	for it.Next() {
		rec, err := decodeRecord(it.Value())
		if err != nil {
			// Nothing is matched to it, and what it has not been given yet stays.
			g.setAside.Add(it.Key(), err)
			g.dispatcher.KeepProgress()
			continue
		}
		g.install(rec, it.Revision())
		if rec.State == Creating || rec.State == Updating {
			g.interrupted[rec.key()] = rec.Token
		}
	}
	return it.Err()
}

// Run asks endpoints for their consent, removes expired subscriptions and
// takes up again what a restart interrupted, until ctx ends; then it waits for
// what it started. It may be called once.
func (g *Grid) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	g.resume()
	for {
		for _, task := range g.takeTasks() {
			wg.Go(func() { task(ctx) })
		}
		select {
		case <-ctx.Done():
			g.stop()
			return nil
		case <-g.wake:
		}
	}
}

// do has Run call f on a goroutine of its own.
func (g *Grid) do(f func(context.Context)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.doLocked(f)
}

func (g *Grid) doLocked(f func(context.Context)) {
	if g.stopped {
		return // what is unfinished is taken up after the next start
	}
	g.tasks = append(g.tasks, f)
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *Grid) takeTasks() []func(context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	tasks := g.tasks
	g.tasks = nil
	return tasks
}

func (g *Grid) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped, g.tasks = true, nil
	for _, e := range g.entries {
		if e.timer != nil {
			e.timer.Stop()
		}
	}
}
