// Package broker is everything of MQTT that moves: it drives a session state
// machine per connection, hands out messages between connected clients, asks
// who may connect, and tells presence who came and who went.
//
// It knows neither events nor registries: it declares what it needs of them
// (Gatekeeper, Presence). A CONNACK leaves only after Presence has called
// back; no lock is held across I/O or across a call to either.
package broker

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/clock"
	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/listen"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
	"rollcall/internal/task"
)

// Credentials are what a client shows at CONNECT.
type Credentials struct {
	ClientID string
	UserName string
	HasUser  bool
	Password []byte // nil: none
	Info     listen.Info
	// Wanted is asked before what is costly. An error means that nobody waits
	// for the answer any more, and becomes the answer. It does not block.
	Wanted func() error
}

// Identity is a client that may connect.
type Identity struct {
	AuthenticationName string
	Method             string    // how it was proved: "certificate", "thumbprint", "password", "anonymous"
	ExpiresAt          time.Time // when the proof ends; zero: never
	ExpiryDetail       string    // what ends then
	// Standing reports whether the client would still be let in, or why not:
	// an error whose text is evidence. It is asked after the registry has
	// changed, must not block, and may be nil.
	Standing func() error
}

// Refusal is why a client may not connect.
type Refusal struct {
	Code   packet.ReasonCode // for CONNACK
	Reason string            // of a small closed set, for counting; "": "refused"
	Text   string            // for the operator; the client is told the code only
}

// Error implements error.
func (r *Refusal) Error() string { return r.Code.String() + ": " + r.Text }

// Gatekeeper decides who may connect. Its methods may be called concurrently.
type Gatekeeper interface {
	// Admit judges a CONNECT. It does not block: it returns the answer, or false
	// and then calls later once with it, on another goroutine, which later does
	// not hold. The error is a *Refusal, or else a fault of the server.
	Admit(c Credentials, later func(Identity, error)) (who Identity, known bool, err error)
}

// Claim is a connection that wants to hold a session.
type Claim struct {
	Realm     string
	Session   string
	Owner     string
	Protocol  string
	Transport string
	Remote    string
	Method    string
	Conn      Connection
	Stage     Stage // of the Connected
}

// Stage adds to the batch of a transition what else changes with it, in the
// partition of the session's name. Number is that of the transition. It may be
// called again with another batch, and does not block.
type Stage func(b *store.Batch, number uint64)

// Connection is what Presence may do with a connection. The methods do not
// block.
type Connection interface {
	Freeze()
	Unfreeze()
	// Evict ends the connection because its session was taken over, durably.
	// evidence says by whom.
	Evict(evidence disconnect.Evidence)
	Gone() bool
}

// Hold is a connection's tenure of its session.
type Hold interface {
	// Release ends it. It returns at once and is never lost. Stage, which may
	// be nil, is that of the Disconnected, and is not called if there is none.
	Release(r disconnect.Reason, v disconnect.Evidence, stage Stage)
}

// Reasons of Presence for turning a claim down. Others are faults.
var (
	ErrOwned = errors.New("the session belongs to another client")
	ErrBusy  = errors.New("too many connects of this session at once")
	ErrFull  = errors.New("storage is full")
	ErrGone  = errors.New("the connection is gone")
)

// Presence numbers sessions and makes their comings and goings durable.
type Presence interface {
	// Claim calls done exactly once: with a hold once the client's coming is
	// durable, or with an error. done does not block.
	Claim(c Claim, done func(Hold, error))
	// Amend changes what else is kept under a session's name, in its turn among
	// the name's claims and releases. Stage is told whether somebody holds the
	// session, and returns false if there is nothing to change after all.
	// Neither stage nor done blocks.
	Amend(realm, session string, stage func(b *store.Batch, open bool) bool, done func(error))
}

// Options configure a Broker. Gatekeeper, Presence, Session and Store are
// required.
type Options struct {
	Gatekeeper Gatekeeper
	Presence   Presence
	Session    session.Config
	Store      *stored.Store
	Partitions int // of the store
	Clock      clock.Clock
	Log        *slog.Logger
	// NewClientID makes client ids for clients that send none. Default "auto-"
	// and a random UUID.
	NewClientID func() string
	// AdmitTimeout bounds the Gatekeeper's judgement; then the client is told to
	// come again. Default 10 s.
	AdmitTimeout time.Duration
	// WriteTimeout is how long a client may take to accept bytes before it
	// counts as lost. Default 30 s.
	WriteTimeout time.Duration
	// UnadmittedBytes is how much may be held for all clients that are not let
	// in yet; a connection that needs more is closed. Default 64 MiB.
	UnadmittedBytes int
	// OutputBytes is how much may wait for a client that reads slowly before
	// QoS 0 messages to it are dropped and QoS 1 ones queue. Default 1 MiB.
	OutputBytes int
	// FullQueue is what becomes of messages for a stored session whose queue is
	// full. Default EndSession.
	FullQueue FullQueue
	// SubscriptionBytes bounds the memory that all subscriptions take, as
	// topic.Weight estimates it: beyond it new ones are refused with 0x97. 0: no
	// bound.
	SubscriptionBytes int64
	// MaxMatches is how many subscriptions of one client may match one topic. A
	// client with more is ended (0x97, QuotaExceeded), and a stored session whose
	// client is away with its subscriptions. 0: no bound.
	MaxMatches int
	// Loops is how many event loops serve plain TCP, on systems that have
	// them; a connection belongs to one. Default one per core; below 0 none,
	// and every connection has a goroutine.
	Loops int
}

// Broker serves MQTT connections. Its methods may be called concurrently.
type Broker struct {
	opts    Options
	cfg     session.Config
	store   *stored.Store
	metrics *metrics
	wheel   *wheel
	clock   *clock.Steady

	refusals  *refusals
	strangers budget

	work       task.Group // goroutines that read the store for connections
	admissions admissions
	loader     loader
	unerased   unerased
	partitions int
	deferred   []atomic.Int32 // publications that wait for the loader, by their publishers' partition

	mu       sync.Mutex
	realms   map[string]*realm // as many as listeners name
	conns    map[*conn]struct{}
	draining bool
	loops    *loops // nil: none are running
}

type sessionName struct{ realm, id string }

// New returns a Broker.
func New(o Options) (*Broker, error) {
	if o.Gatekeeper == nil || o.Presence == nil || o.Store == nil {
		return nil, errors.New("broker: Gatekeeper, Presence and Store are required")
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.NewClientID == nil {
		o.NewClientID = func() string { return "auto-" + uuid.NewString() }
	}
	if o.AdmitTimeout <= 0 {
		o.AdmitTimeout = 10 * time.Second
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = 30 * time.Second
	}
	if o.UnadmittedBytes <= 0 {
		o.UnadmittedBytes = 64 << 20
	}
	if o.OutputBytes <= 0 {
		o.OutputBytes = 1 << 20
	}
	b := &Broker{
		opts: o, clock: clock.SteadyOf(o.Clock), refusals: newRefusals(), cfg: o.Session, store: o.Store, metrics: newMetrics(), realms: make(map[string]*realm), partitions: o.Partitions, deferred: make([]atomic.Int32, o.Partitions),
		conns: make(map[*conn]struct{}),
	}
	b.strangers.limit = int64(o.UnadmittedBytes)
	b.cfg.NewClientID = o.NewClientID
	b.admissions.clock, b.admissions.fault, b.admissions.group = o.Clock, b.fault, &b.work
	b.loader.fault, b.loader.work, b.loader.queues = b.fault, &b.work, make([][]loadJob, o.Partitions)
	b.wheel = newWheel(b.clock, b.tick)
	return b, nil
}

// enter registers a connection and returns its realm, or nil if the broker is
// shutting down.
func (b *Broker) enter(c *conn) *realm {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining {
		return nil
	}
	b.conns[c] = struct{}{}
	return b.realmLocked(c.info.Realm)
}

func (b *Broker) realm(name string) *realm {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.realmLocked(name)
}

func (b *Broker) realmLocked(name string) *realm {
	rl := b.realms[name]
	if rl == nil {
		rl = newRealm(name)
		b.realms[name] = rl
	}
	return rl
}

// subscriptions counts those of all realms.
func (b *Broker) subscriptions() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, rl := range b.realms {
		n += rl.tree.Len()
	}
	return n
}

// subscriptionBytes is the memory that the subscriptions of all realms take.
func (b *Broker) subscriptionBytes() (n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, rl := range b.realms {
		n += rl.tree.Bytes() + rl.memberBytes.Load()
	}
	return n
}

func (b *Broker) leave(c *conn) {
	c.departAtLast()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
}

// all returns the connections that f selects.
func (b *Broker) all(f func(*conn) bool) []*conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []*conn
	for c := range b.conns {
		if f(c) {
			found = append(found, c)
		}
	}
	return found
}

// Reconsider asks about every client that is connected or connecting whether
// it still may, after the registry has changed, and ends those that may not
// with ClientAuthenticationError. It returns how many it ended.
func (b *Broker) Reconsider() int {
	r := b.begin()
	defer b.done(r)
	n := 0
	for _, c := range b.all(func(c *conn) bool { return true }) {
		if c.reconsider(r) {
			n++
		}
	}
	return n
}

// Shutdown ends every connection (DISCONNECT 0x8B, ServerInitiatedDisconnect)
// and lets no new one in. It returns at once; the connections end by
// themselves.
func (b *Broker) Shutdown() {
	b.mu.Lock()
	b.draining = true
	b.mu.Unlock()
	r := b.begin()
	defer b.done(r)
	for _, c := range b.all(func(c *conn) bool { return true }) {
		c.end(r, session.Ending{
			Reason:   disconnect.ServerInitiatedDisconnect,
			Evidence: disconnect.Evidence{Kind: disconnect.Operator, Detail: "the server is shutting down"},
		}, packet.ServerShuttingDown)
	}
}
