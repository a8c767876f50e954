package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"rollcall/internal/clock"
)

// ErrBusy: too many passwords wait to be hashed, or one has waited too long.
var ErrBusy = errors.New("auth: too many passwords are being checked")

// HasherOptions configure a Hasher. The zero value is usable.
type HasherOptions struct {
	Params Params // of new hashes; zero: DefaultParams
	// Parallel is how many hashes are computed at once. Default and most: one
	// per core.
	Parallel int
	// MaxWaiting bounds how many may wait for a turn. Default 256.
	MaxWaiting int
	// Wait bounds how long one waits for its turn. Default 5 s.
	Wait   time.Duration
	Clock  clock.Clock  // default: clock.System
	Random func([]byte) // fills with random bytes; default: crypto/rand
}

// Hasher makes and verifies argon2id hashes, not more at once than there are
// cores. Its methods may be called concurrently; they block for a turn and for
// the computation, so they do not belong on an event loop.
type Hasher struct {
	opts    HasherOptions
	turns   chan struct{}
	waiting atomic.Int64
	dummy   phc
	hashes  atomic.Uint64
}

// NewHasher returns a Hasher, or an error about the parameters.
func NewHasher(o HasherOptions) (*Hasher, error) {
	if o.Params == (Params{}) {
		o.Params = DefaultParams()
	}
	if err := o.Params.Validate("passwords").Err(); err != nil {
		return nil, err
	}
	if cores := runtime.GOMAXPROCS(0); o.Parallel <= 0 || o.Parallel > cores {
		o.Parallel = cores
	}
	if o.MaxWaiting <= 0 {
		o.MaxWaiting = 256
	}
	if o.Wait <= 0 {
		o.Wait = 5 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Random == nil {
		o.Random = Random
	}
	h := &Hasher{opts: o, turns: make(chan struct{}, o.Parallel)}
	h.dummy = h.fresh()
	o.Random(h.dummy.hash)
	return h, nil
}

// Random fills p with random bytes.
func Random(p []byte) { _, _ = rand.Read(p) } // never fails, by its documentation

func (h *Hasher) fresh() phc {
	n := phc{params: h.opts.Params, salt: make([]byte, saltSize), hash: make([]byte, hashSize)}
	h.opts.Random(n.salt)
	return n
}

// Hash returns the hash string of a password under a new salt. Errors: ErrBusy,
// and the context's.
func (h *Hasher) Hash(ctx context.Context, password []byte) (string, error) {
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer h.leave()
	n := h.fresh()
	n.hash = n.derive(password)
	return n.String(), nil
}

// Verify reports whether hash is of password. An empty hash is of none, which
// takes as long to find out. When the turn has come, still is asked whether the
// computation is wanted; its error, if any, is returned instead. Errors: that,
// ErrBusy, the context's, and one for a hash string that cannot be read.
func (h *Hasher) Verify(ctx context.Context, hash string, password []byte, still func() error) (bool, error) {
	p := h.dummy
	if hash != "" {
		var err error
		if p, err = parsePHC(hash); err != nil {
			return false, err
		}
	}
	if err := h.enter(ctx); err != nil {
		return false, err
	}
	defer h.leave()
	if still != nil {
		if err := still(); err != nil {
			return false, err
		}
	}
	return p.matches(password) && hash != "", nil
}

// Hashes is how many hashes have been begun.
func (h *Hasher) Hashes() uint64 { return h.hashes.Load() }

// enter waits for a turn.
func (h *Hasher) enter(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	select {
	case h.turns <- struct{}{}:
		h.hashes.Add(1)
		return nil
	default:
	}
	if h.waiting.Add(1) > int64(h.opts.MaxWaiting) {
		h.waiting.Add(-1)
		return ErrBusy
	}
	defer h.waiting.Add(-1)
	late := make(chan struct{})
	t := h.opts.Clock.AfterFunc(h.opts.Wait, func() { close(late) })
	defer t.Stop()
	select {
	case h.turns <- struct{}{}:
		h.hashes.Add(1)
		return nil
	case <-late:
		return fmt.Errorf("%w: no turn within %v", ErrBusy, h.opts.Wait)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *Hasher) leave() { <-h.turns }
