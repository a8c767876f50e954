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
	// MaxWaiting bounds how many may wait for a turn. Default 1,024.
	MaxWaiting int
	// Wait bounds how long one waits for its turn. Default 5 s.
	Wait   time.Duration
	Clock  clock.Clock  // default: clock.System
	Random func([]byte) // fills with random bytes; default: crypto/rand
}

// Hasher makes and verifies argon2id hashes, not more at once than there are
// cores. What waits for a turn holds no goroutine, and the sources it comes from
// have turns one after the other, so that whoever asks for many waits for
// himself. Its methods may be called concurrently.
type Hasher struct {
	opts   HasherOptions
	queue  turns
	dummy  phc
	hashes atomic.Uint64
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
		o.MaxWaiting = 1024
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
	h := &Hasher{opts: o, queue: turns{workers: o.Parallel, most: o.MaxWaiting}}
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

// Check is a password to be verified.
type Check struct {
	// Source is where it comes from: sources have turns in turn.
	Source string
	// Hash is what the password should be that of. An empty one is of none,
	// which takes as long to find out.
	Hash     string
	Password []byte // not changed until it is done
	// Still is asked, when the turn has come, whether the computation is wanted;
	// its error, if any, is the outcome. It does not block. May be nil.
	Still func() error
}

// Submit verifies c when its turn has come, and then calls done, once, on a
// goroutine of the hasher's, which must not be held. Errors: that of Still,
// ErrBusy, and one for a hash string that cannot be read. Submit does not block;
// done may be called before it returns.
func (h *Hasher) Submit(c Check, done func(bool, error)) {
	p := h.dummy
	if c.Hash != "" {
		var err error
		if p, err = parsePHC(c.Hash); err != nil {
			done(false, err)
			return
		}
	}
	h.submit(c.Source, func() {
		if c.Still != nil {
			if err := c.Still(); err != nil {
				done(false, err)
				return
			}
		}
		h.hashes.Add(1)
		done(p.matches(c.Password) && c.Hash != "", nil)
	}, func(err error) { done(false, err) })
}

// submit has run called when a turn has come, or else refused.
func (h *Hasher) submit(source string, run func(), refused func(error)) {
	t := &turn{run: run, refused: refused}
	waits, evicted := h.queue.add(source, t)
	if evicted != nil {
		evicted.refuse(ErrBusy)
	}
	if !waits {
		return
	}
	timer := h.opts.Clock.AfterFunc(h.opts.Wait, func() {
		if h.queue.remove(t) {
			t.refused(fmt.Errorf("%w: no turn within %v", ErrBusy, h.opts.Wait))
		}
	})
	h.queue.watch(t, timer)
}

// Hash returns the hash string of a password under a new salt, and blocks until
// it has had its turn. Errors: ErrBusy, and the context's.
func (h *Hasher) Hash(ctx context.Context, password []byte) (string, error) {
	var hash string
	err := h.wait(ctx, func(done func(error)) {
		h.submit("", func() {
			h.hashes.Add(1)
			n := h.fresh()
			n.hash = n.derive(password)
			hash = n.String()
			done(nil)
		}, done)
	})
	if err != nil {
		return "", err
	}
	return hash, nil
}

// Verify is Submit for whoever can wait. Errors: those of Submit, and the
// context's.
func (h *Hasher) Verify(ctx context.Context, c Check) (ok bool, err error) {
	still := c.Still
	c.Still = func() error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if still != nil {
			return still()
		}
		return nil
	}
	var matches bool
	err = h.wait(ctx, func(done func(error)) {
		h.Submit(c, func(ok bool, err error) {
			matches = ok
			done(err)
		})
	})
	return err == nil && matches, err
}

// wait calls begin and waits until done is called or ctx ends.
func (h *Hasher) wait(ctx context.Context, begin func(done func(error))) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	outcome := make(chan error, 1)
	begin(func(err error) { outcome <- err })
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Hashes is how many hashes have been begun.
func (h *Hasher) Hashes() uint64 { return h.hashes.Load() }

// Waiting is how many wait for a turn.
func (h *Hasher) Waiting() int { return h.queue.len() }
