// Package presence is the ledger of who is here: it numbers each session's
// transitions and stores them before anyone can see them.
//
// Its promises, per (realm, session name): Connected(n), Disconnected(n),
// Connected(n+1) … strictly alternating, the number never resetting (P1); a
// transition is durable before Claim reports it, before its event can be read
// and before the old connection of a take-over is told (P2); whatever a crash
// left open is closed, with reason and evidence, before the session's next
// Connected (P3); every Disconnected has one reason and its evidence (P5). A
// transition and the events that tell of it are one commit.
//
// A session name has one serial owner within the process, its seat: claims and
// releases of one name happen one after the other, of different names side by
// side. Nothing here waits for the disk while holding a lock.
package presence

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/clock"
	"rollcall/internal/disconnect"
	"rollcall/internal/store"
	"rollcall/internal/store/setaside"
	"rollcall/internal/task"
)

// Why a claim can fail. Compare with errors.Is; a failed claim leaves a
// connection that held the session before untouched.
var (
	// ErrOwned: another owner holds the session.
	ErrOwned = errors.New("presence: the session belongs to another client")
	// ErrBusy: too many claims of this session wait already.
	ErrBusy = errors.New("presence: too many connects of this session at once")
	// ErrGone: the claiming connection died before its turn came; nothing was
	// committed.
	ErrGone = errors.New("presence: the connection is gone")
	// ErrFull: the disk has no room for a new transition.
	ErrFull = store.ErrFull
)

// maxWaiting bounds how many operations may wait for one session name.
const maxWaiting = 32

// Stager adds what follows from a transition to its batch: the event that
// tells of it. It may be called concurrently and must not block. The returned
// function, which may be nil, is called once with the outcome that the engine
// reports for the batch, in commit order among batches that succeeded, and must
// not block either.
type Stager interface {
	Stage(b *store.Batch, partition uint8, t *Transition) (done func(store.Result))
}

// Stage adds to the batch of a transition what else is to change with it, in
// keys of the same partition. It may be called again with another batch, if the
// first conflicted, and must not block.
type Stage func(b *store.Batch, partition uint8, t *Transition)

// Connection is what the ledger needs of the connection that claims or holds a
// session. Its methods must not block. They may release a hold, and claim
// nothing.
type Connection interface {
	// Freeze stops the connection from acting on anything that arrives: its
	// session is being taken over.
	Freeze()
	// Unfreeze undoes Freeze: the take-over failed.
	Unfreeze()
	// Evict tells the connection that its session has been taken over by a
	// connection of the given origin. That is durable.
	Evict(by Origin)
	// Gone reports that the connection is known to be dead.
	Gone() bool
}

// Options configure a Ledger. Engine and Node are required.
type Options struct {
	Engine store.Engine
	Node   string // name of this machine among those that share a store
	Stager Stager // nil: transitions have no events
	// Crashed is the Stage of Disconnecteds that close what an earlier
	// incarnation left open; nil: none.
	Crashed   Stage
	Clock     clock.Clock
	NewID     func() string // event ids; default random UUIDs
	Log       *slog.Logger
	Retention Retention
	SetAside  *setaside.List // of records that cannot be read; nil: one of its own
}

// Ledger is the owner of all session names of one incarnation. Its methods may
// be called concurrently.
type Ledger struct {
	engine    store.Engine
	stager    Stager
	crashed   Stage
	clock     *clock.Steady
	newID     func() string
	log       *slog.Logger
	retention Retention
	self      Incarnation
	metrics   *metrics
	setAside  *setaside.List

	work task.Group // goroutines that reload or resolve

	seed   maphash.Seed
	shards [64]shard

	open    atomic.Int64 // holds that are not settled
	unsure  atomic.Int64 // those and the claims that are not decided
	drained sync.Cond    // on drainMu; broadcast when unsure falls to zero
	drainMu sync.Mutex
}

type shard struct {
	mu    sync.Mutex
	seats map[name]*seat
}

type name struct{ realm, session string }

// Open starts a new incarnation of node on the engine: it makes the boot
// counter one higher, durably. Run must be called to close what earlier
// incarnations left open.
func Open(ctx context.Context, o Options) (*Ledger, error) {
	if o.Engine == nil || o.Node == "" {
		return nil, errors.New("presence: Engine and Node are required")
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.NewID == nil {
		o.NewID = uuid.NewString
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SetAside == nil {
		o.SetAside = setaside.New(o.Log)
	}
	if err := o.Retention.withDefaults().validate(); err != nil {
		return nil, err
	}
	l := &Ledger{
		engine: o.Engine, stager: o.Stager, crashed: o.Crashed, clock: clock.SteadyOf(o.Clock), newID: o.NewID, log: o.Log,
		setAside: o.SetAside, retention: o.Retention.withDefaults(), seed: maphash.MakeSeed(), metrics: newMetrics(),
	}
	l.drained.L = &l.drainMu
	for i := range l.shards {
		l.shards[i].seats = make(map[name]*seat)
	}
	boot, err := l.nextBoot(ctx, o.Node)
	if err != nil {
		return nil, fmt.Errorf("number this start of node %s: %w", o.Node, err)
	}
	l.self = Incarnation{Node: o.Node, Boot: boot}
	return l, nil
}

// Self is the incarnation that this ledger writes for.
func (l *Ledger) Self() Incarnation { return l.self }

func (l *Ledger) nextBoot(ctx context.Context, node string) (uint64, error) {
	key := bootKey(node)
	value, rev, err := store.Get(l.engine, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	// A counter never exceeds the index that it was written at.
	boot := uint64(rev)
	if len(value) == 8 {
		boot = binary.BigEndian.Uint64(value)
	}
	lost, err := l.lostWrites(key, rev)
	if err != nil {
		return 0, err
	}
	boot += lost + 1
	b := store.NewBatch(store.Reserve)
	b.Require(key, rev)
	b.Put(key, binary.BigEndian.AppendUint64(nil, boot))
	_, err = store.Commit(ctx, l.engine, b)
	return boot, err
}

// seat is the serial owner of one session name while somebody holds it or an
// operation on it is under way.
type seat struct {
	name      name
	partition uint8

	// The fields below are guarded by the shard's lock, except that while busy
	// is set state, rev, known and holder are the running operation's to read
	// and write.
	busy    bool
	stalled bool // a release waits for space; claims are refused meanwhile
	waiting []*operation
	known   bool   // state, or record, and rev are those of the store
	state   *State // nil while no operation runs, or before it is loaded
	record  []byte // state as it is stored, while no operation runs: it takes a third of the memory
	rev     store.Revision
	lost    uint64 // numbers after state's that may have been given out and lost
	holder  *Hold
}

// Hold is a connection's tenure of a session: from the Connected that its
// claim committed to the Disconnected that ends it.
type Hold struct {
	ledger *Ledger
	seat   *seat
	conn   Connection
	number uint64
	open   bool // guarded like seat.holder: not yet ended in the ledger

	once     sync.Once
	released atomic.Pointer[chan struct{}] // closed once the Disconnected is durable or void; nil: nobody has asked
}

// Number is the sequence number of the hold's Connected.
func (h *Hold) Number() uint64 { return h.number }

// operation is one claim, release, sweep or amendment. Exactly one of them is
// set.
type operation struct {
	claim   *claim
	release *release
	sweep   *sweep
	amend   *amend
	tries   int
}

func (l *Ledger) shard(n name) *shard {
	var h maphash.Hash
	h.SetSeed(l.seed)
	h.WriteString(n.realm)
	h.WriteByte(0)
	h.WriteString(n.session)
	return &l.shards[h.Sum64()%uint64(len(l.shards))]
}

// enqueue runs op when its session's turn comes, or reports false if too many
// wait. The others are never turned away.
func (l *Ledger) enqueue(n name, op *operation) error {
	sh := l.shard(n)
	sh.mu.Lock()
	s := sh.seats[n]
	if s == nil {
		s = &seat{name: n, partition: l.partition(n.realm, n.session)}
		sh.seats[n] = s
	}
	if op.claim != nil {
		switch {
		case s.stalled:
			sh.mu.Unlock()
			return ErrFull
		case len(s.waiting) >= maxWaiting:
			sh.mu.Unlock()
			return ErrBusy
		}
	}
	if s.busy {
		s.waiting = append(s.waiting, op)
		sh.mu.Unlock()
		return nil
	}
	s.busy = true
	sh.mu.Unlock()
	l.run(s, op)
	return nil
}

// run starts op on a seat that is busy with it. It may read the store, so the
// engine's callbacks come here only for seats that are known.
func (l *Ledger) run(s *seat, op *operation) {
	if err := l.unpack(s); err != nil {
		l.log.Error("cannot read a session's state", "session", s.name.session, "err", err)
		l.fail(s, op, err)
		return
	}
	switch {
	case op.claim != nil:
		l.runClaim(s, op)
	case op.release != nil:
		l.runRelease(s, op)
	case op.amend != nil:
		l.runAmend(s, op)
	default:
		l.runSweep(s, op)
	}
}

// unpack has the state of s at hand for an operation, and reads it if it is
// not known.
func (l *Ledger) unpack(s *seat) error {
	record := s.record
	s.record = nil
	switch {
	case !s.known:
		return l.load(s)
	case s.state == nil:
		s.state = &State{Realm: s.name.realm, Session: s.name.session}
		if s.state.decode(record) != nil {
			s.known = false
			return l.load(s)
		}
	}
	return nil
}

// pack is for the end of the last operation on a seat that stays.
func (s *seat) pack() {
	if s.known && s.state != nil {
		s.record = bytes.Clone(s.state.encode())
	}
	s.state = nil
}

// next ends the running operation of s and starts the one that waited longest.
func (l *Ledger) next(s *seat) {
	sh := l.shard(s.name)
	sh.mu.Lock()
	if len(s.waiting) == 0 {
		s.busy = false
		if s.holder == nil {
			delete(sh.seats, s.name)
		} else {
			s.pack()
		}
		sh.mu.Unlock()
		return
	}
	op := s.waiting[0]
	s.waiting = s.waiting[1:]
	sh.mu.Unlock()
	if s.known {
		l.run(s, op)
		return
	}
	l.work.Go(func() { l.run(s, op) })
}

// fail gives up the running operation.
func (l *Ledger) fail(s *seat, op *operation, err error) {
	switch {
	case op.claim != nil:
		l.claimFailed(s, op.claim, err)
		l.next(s)
	case op.release != nil:
		l.releaseFailed(s, op, err)
	case op.amend != nil:
		op.amend.done(err)
		l.next(s)
	default:
		op.sweep.done(err)
		l.next(s)
	}
}

// instant is the time of the seat's next transition: now, but after the one
// before, unless that was stamped by a wall clock which has been set back since.
// The order of transitions is that of their numbers.
func (l *Ledger) instant(s *seat) time.Time {
	const tick = 100 * time.Nanosecond
	now := l.clock.Now().UTC().Truncate(tick)
	if earliest := s.state.Since.Add(tick); now.Before(earliest) && earliest.Sub(now) <= clock.Tolerance {
		return earliest
	}
	return now
}

// sure counts for Drain: a claim was refused, or a hold has ended.
func (l *Ledger) sure() {
	if l.unsure.Add(-1) == 0 {
		l.drainMu.Lock()
		l.drained.Broadcast()
		l.drainMu.Unlock()
	}
}

// OpenSessions is the number of sessions held now.
func (l *Ledger) OpenSessions() int { return int(l.open.Load()) }

// Drain waits until every claim is decided, every hold released and its
// Disconnected durable, or until ctx ends. The caller has seen to it that connections end and no new
// claims come.
func (l *Ledger) Drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		l.drainMu.Lock()
		l.drained.Broadcast()
		l.drainMu.Unlock()
	})
	defer stop()
	l.drainMu.Lock()
	defer l.drainMu.Unlock()
	for l.unsure.Load() > 0 {
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("%d sessions are not closed yet: %w", l.unsure.Load(), err)
		}
		l.drained.Wait()
	}
	return nil
}

func crashEvidence(in, by Incarnation) disconnect.Evidence {
	return disconnect.Evidence{
		Kind: disconnect.Crash,
		Detail: fmt.Sprintf("start %d of node %s ended without closing this session; found by start %d of node %s",
			in.Boot, in.Node, by.Boot, by.Node),
	}
}
