package registry

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"rollcall/internal/auth"
	"rollcall/internal/clock"
	"rollcall/internal/fault"
	"rollcall/internal/filter"
)

// The rates of wrong passwords: what is let through of a flood. They are counted
// by client and source, so that nobody can lock a client out from elsewhere,
// and by source, so that one source cannot try many clients.
const (
	clientBurst = 8
	clientEvery = 2 * time.Second
	sourceBurst = 64
	sourceEvery = 250 * time.Millisecond
	slots       = 1 << 13
)

var errLimited = errors.New("registry: too many wrong passwords")

// passkeys verifies passwords at bounded cost.
type passkeys struct {
	hasher  *auth.Hasher
	clock   clock.Clock
	key     [sha256.Size]byte // of digests, new with every process
	clients *auth.Throttle
	sources *auth.Throttle
}

func newPasskeys(s Settings, c clock.Clock, random func([]byte)) (*passkeys, error) {
	if random == nil {
		random = auth.Random
	}
	h, err := auth.NewHasher(auth.HasherOptions{
		Params: s.PasswordCost, Parallel: s.MaxHashes, Wait: s.HashWait, Clock: c, Random: random,
	})
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	now := c.Monotonic()
	p := &passkeys{
		hasher: h, clock: c,
		clients: auth.NewThrottle(slots, clientBurst, clientEvery, now),
		sources: auth.NewThrottle(slots, sourceBurst, sourceEvery, now),
	}
	random(p.key[:])
	return p, nil
}

// check reports whether password is that of e, nil meaning a client that does
// not exist. A password that e was seen with before costs no hash; one that is
// wrong takes the same time whether or not e exists. Errors: errLimited,
// auth.ErrBusy, the context's, and that of a hash that cannot be read.
func (p *passkeys) check(ctx context.Context, e *entry, name, source string, password []byte) (bool, error) {
	if len(password) > maxPassword {
		return false, nil
	}
	digest, hash := p.digest(password), ""
	if e != nil {
		if hash = e.hash; hash != "" {
			if seen := e.verified.Load(); seen != nil && hmac.Equal(seen[:], digest[:]) {
				return true, nil
			}
		}
	}
	who := filter.Fold(name) + "\x00" + source
	allowed := func() error {
		now := p.clock.Monotonic()
		if !p.clients.Allowed(who, now) || source != "" && !p.sources.Allowed(source, now) {
			return errLimited
		}
		return nil
	}
	if err := allowed(); err != nil {
		return false, err
	}
	ok, err := p.hasher.Verify(ctx, hash, password, allowed)
	switch {
	case err != nil:
		return false, err
	case !ok:
		now := p.clock.Monotonic()
		p.clients.Failed(who, now)
		if source != "" {
			p.sources.Failed(source, now)
		}
		return false, nil
	}
	e.verified.Store(digest)
	return true, nil
}

func (p *passkeys) digest(password []byte) *[sha256.Size]byte {
	m := hmac.New(sha256.New, p.key[:])
	m.Write(password)
	return (*[sha256.Size]byte)(m.Sum(nil))
}

// busy makes a hasher's refusal one that a caller may see.
func busy(err error) error {
	if errors.Is(err, auth.ErrBusy) {
		return fault.New(fault.TooManyRequests, "Too many passwords are being hashed; try again.")
	}
	return err
}
