// Package registry holds a namespace's client resources and CA certificates,
// and says whether a client that connects is one of them.
//
// Its promises: a change is durable before it is visible, and visible to
// Authenticate and to every Identity's Standing before OnChange's functions are
// called, so that a connection is either judged by the change or told of it. A
// change and the event that tells of it are one commit, or, where events are
// coalesced, the change and the durable note that an event is owed. The event
// and the removal of that note are one commit again. Authentication names are
// unique ignoring case, whoever else writes to the store. Lookups take no lock
// and do no I/O; only passwords make Authenticate wait, for a turn at the hash.
package registry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/auth"
	"rollcall/internal/clock"
	"rollcall/internal/fault"
	"rollcall/internal/pki"
	"rollcall/internal/store"
	"rollcall/internal/store/setaside"
)

// Who may connect without any proof.
const (
	AnonymousOff      = "off"
	AnonymousLoopback = "loopback" // over connections with both ends on loopback
	AnonymousAll      = "all"
)

// Settings are the rules of the namespace.
type Settings struct {
	// AlternativeAuthenticationNameSources are where else than in the user name
	// a certificate client's authentication name may be, in order:
	// ClientCertificateSubject, …Dns, …Uri, …Ip, …Email. Default: nowhere.
	AlternativeAuthenticationNameSources []string
	// Anonymous is who may connect without proof. Default AnonymousOff.
	Anonymous string
	// Passwords lets clients have passwords. Without it none is accepted.
	Passwords bool
	// PasswordsOverPlaintext admits passwords that came unprotected from
	// beyond loopback.
	PasswordsOverPlaintext bool
	// MaxClients bounds the client resources. 0: no bound.
	MaxClients int
	// MaxCAs bounds the CA certificates. Default 10.
	MaxCAs int
	// PasswordCost is the cost of new password hashes. Default auth.DefaultParams.
	PasswordCost auth.Params
	// MaxHashes is how many passwords are hashed at once. Default and most: one per core.
	MaxHashes int
	// HashWait is how long a CONNECT waits for its turn. Default 5 s.
	HashWait time.Duration
}

// Validate returns every mistake in s by path below prefix.
func (s Settings) Validate(prefix string) fault.List {
	var bad fault.List
	switch s.Anonymous {
	case "", AnonymousOff, AnonymousLoopback, AnonymousAll:
	default:
		bad.Add(fault.At(prefix+".anonymous", "%q is not off, loopback or all", s.Anonymous))
	}
	seen := make(map[auth.Source]bool)
	for _, name := range s.AlternativeAuthenticationNameSources {
		src, ok := auth.ParseSource(name)
		switch {
		case !ok:
			bad.Add(fault.At(prefix+".alternativeAuthenticationNameSources", "%q is not one of %v", name, auth.Sources()))
		case seen[src]:
			bad.Add(fault.At(prefix+".alternativeAuthenticationNameSources", "%s is there twice", src))
		}
		seen[src] = true
	}
	if s.MaxClients < 0 {
		bad.Add(fault.At(prefix+".maxClients", "%d is negative", s.MaxClients))
	}
	if s.MaxCAs < 0 {
		bad.Add(fault.At(prefix+".maxCAs", "%d is negative", s.MaxCAs))
	}
	if s.PasswordCost != (auth.Params{}) {
		bad = append(bad, s.PasswordCost.Validate(prefix+".passwordCost")...)
	}
	return bad
}

// Options configure a Registry. Engine and Realm are required.
type Options struct {
	Engine   store.Engine
	Realm    string // name of the namespace
	Settings Settings
	Clock    clock.Clock    // default: clock.System
	NewID    func() string  // event ids and marks of writes; default: random UUIDs
	Random   func([]byte)   // salts and keys; default: crypto/rand
	Log      *slog.Logger   // default: discards
	Stager   Stager         // nil: changes have no events
	SetAside *setaside.List // of records that cannot be read; nil: one of its own

	// Coalesce is how long a client must have been left alone before the event
	// that tells of its changes is emitted. 0: every change has its own event,
	// in the same commit.
	Coalesce time.Duration
	// CoalesceCap is how long that may take in all. Default 5/3 of Coalesce.
	CoalesceCap time.Duration

	// ClientAuthority opens the CA of quick-start certificates, making it the
	// first time. Nil: there is none.
	ClientAuthority func(now time.Time) (*pki.Authority, error)
}

// Registry is the clients and CA certificates of one namespace. All methods
// may be called concurrently.
type Registry struct {
	engine    store.Engine
	realm     string
	set       Settings
	sources   []auth.Source
	clock     *clock.Steady
	newID     func() string
	log       *slog.Logger
	stager    Stager
	passwords *passwordVerifier
	coalesce  time.Duration
	ceiling   time.Duration
	openCA    func(time.Time) (*pki.Authority, error)
	metrics   *metrics
	setAside  *setaside.List

	view   atomic.Pointer[view]
	stop   chan struct{} // closed by Close
	work   sync.WaitGroup
	notice chan struct{} // there is a change to tell of
	due    chan struct{} // there is a new event owed

	mu       sync.Mutex
	master   view   // what view was copied from
	applied  uint64 // counts changes to master
	creating [2]int // creations under way, by kind
	owed     map[string]*owed
	wake     time.Duration // when emit looks again, monotonic; 0: when it is told to
	hooks    []func()
	closed   bool

	caMu      sync.Mutex // guards authority; held while it is opened
	authority *pki.Authority
}

// Open loads the resources of a namespace. Run must be called for OnChange and
// for coalesced events.
func Open(_ context.Context, o Options) (*Registry, error) {
	if o.Engine == nil || o.Realm == "" {
		return nil, errors.New("registry: Engine and Realm are required")
	}
	if err := o.Settings.Validate("registry").Err(); err != nil {
		return nil, err
	}
	if o.Coalesce < 0 || o.CoalesceCap < 0 || o.CoalesceCap > 0 && o.CoalesceCap < o.Coalesce {
		return nil, errors.New("registry: Coalesce must not be negative, nor CoalesceCap below it")
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.SetAside == nil {
		o.SetAside = setaside.New(o.Log)
	}
	r := &Registry{
		engine: o.Engine, realm: o.Realm, set: o.Settings, clock: clock.SteadyOf(o.Clock), newID: o.NewID, log: o.Log, setAside: o.SetAside,
		stager: o.Stager, coalesce: o.Coalesce, ceiling: o.CoalesceCap, openCA: o.ClientAuthority,
		metrics: newMetrics(), stop: make(chan struct{}),
		notice: make(chan struct{}, 1), due: make(chan struct{}, 1), owed: make(map[string]*owed),
	}
	if r.set.Anonymous == "" {
		r.set.Anonymous = AnonymousOff
	}
	if r.set.MaxCAs == 0 {
		r.set.MaxCAs = 10
	}
	for _, name := range r.set.AlternativeAuthenticationNameSources {
		src, _ := auth.ParseSource(name) // validated above
		r.sources = append(r.sources, src)
	}
	if r.newID == nil {
		r.newID = uuid.NewString
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.ceiling == 0 {
		r.ceiling = r.coalesce * 5 / 3
	}
	var err error
	if r.passwords, err = newPasswordVerifier(r.set, r.clock, o.Random); err != nil {
		return nil, err
	}
	return r, r.load()
}

// OnChange has f called after changes that may matter to who is connected. One
// call may stand for several changes; each change is followed by one. f is
// called from Run, one call at a time.
func (r *Registry) OnChange(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hooks = append(r.hooks, f)
}

// Run tells of changes and emits coalesced events until ctx ends. What is owed
// then is emitted after the next Open.
func (r *Registry) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.tell(ctx) })
	r.emit(ctx)
	return nil
}

// tell calls the hooks.
func (r *Registry) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.notice:
		}
		r.mu.Lock()
		hooks := r.hooks
		r.mu.Unlock()
		for _, f := range hooks {
			f()
		}
	}
}

// Close waits for what still finds out the outcome of a write. The engine must
// still be open, or closing; Run has returned. Later writes are refused.
func (r *Registry) Close() error {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.mu.Unlock()
	if first {
		close(r.stop)
	}
	r.work.Wait()
	return nil
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
