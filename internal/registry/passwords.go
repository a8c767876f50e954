package registry

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rollcall/internal/auth"
	"rollcall/internal/clock"
	"rollcall/internal/fault"
	"rollcall/internal/filter"
)

// The rates of wrong passwords: what is let through of a flood.
//
// They are counted by client and network, so that nobody can lock a client out
// from elsewhere, and by network alone, so that one cannot try many clients. A
// network is an IPv4 address or an IPv6 /64, which is what one customer has, and
// its /48, which is what one organization has. What comes from everywhere at
// once is counted by name, and that only delays: whoever knows the password gets
// in.
const (
	clientBurst = 8
	clientEvery = 2 * time.Second
	sourceBurst = 64
	sourceEvery = 250 * time.Millisecond
	siteBurst   = 4 * sourceBurst
	siteEvery   = sourceEvery / 4
	nameBurst   = 64
	nameEvery   = 2 * time.Second
	nameDelay   = 3 * time.Second // at most
	slots       = 1 << 13

	maxDelayed = 1024 // attempts at once
	mayDelay   = 4    // attempts at once, of one client and network
)

var errLimited = errors.New("registry: too many wrong passwords")

// passwordVerifier verifies passwords at bounded cost. Its methods may be called
// concurrently.
type passwordVerifier struct {
	hasher  *auth.Hasher
	clock   clock.Clock
	key     [sha256.Size]byte // of digests, new with every process
	clients *auth.Throttle
	sources *auth.Throttle
	sites   *auth.Throttle
	names   *auth.Throttle

	mu      sync.Mutex
	delayed map[string]*delayedName // by folded name
	total   int                     // attempts of them
}

// delayedName is what is delayed of one name.
type delayedName struct {
	attempts []*delayedAttempt // in the order in which they came
	from     map[string]int    // how many, by network
}

type delayedAttempt struct {
	attempt
	timer  clock.Timer
	refuse func()
	over   bool // its time has come, or it was refused
}

func newPasswordVerifier(s Settings, c clock.Clock, random func([]byte)) (*passwordVerifier, error) {
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
	p := &passwordVerifier{
		hasher: h, clock: c, delayed: make(map[string]*delayedName),
		clients: auth.NewThrottle(slots, clientBurst, clientEvery, now),
		sources: auth.NewThrottle(slots, sourceBurst, sourceEvery, now),
		sites:   auth.NewThrottle(slots, siteBurst, siteEvery, now),
		names:   auth.NewThrottle(slots, nameBurst, nameEvery, now),
	}
	random(p.key[:])
	return p, nil
}

// network returns what the attempts from an address are counted by, and the site
// that it is part of; "": none.
func network(source string) (net, site string) {
	a, err := netip.ParseAddr(source)
	if err != nil || a.Unmap().Is4() {
		return source, ""
	}
	narrow, _ := a.WithZone("").Prefix(64) // both are lengths of IPv6 prefixes
	wide, _ := a.WithZone("").Prefix(48)
	return narrow.String(), wide.String()
}

// attempt is one password that is tried.
type attempt struct {
	name      string // folded
	net, site string // see network
}

func (a attempt) who() string { return a.name + "\x00" + a.net }

// allowed reports whether a may be judged now, as errLimited.
func (p *passwordVerifier) allowed(a attempt) error {
	now := p.clock.Monotonic()
	if !p.clients.Allowed(a.who(), now) || a.net != "" && !p.sources.Allowed(a.net, now) || a.site != "" && !p.sites.Allowed(a.site, now) {
		return errLimited
	}
	return nil
}

// failed counts a wrong password.
func (p *passwordVerifier) failed(a attempt) {
	now := p.clock.Monotonic()
	p.clients.Failed(a.who(), now)
	p.names.Failed(a.name, now)
	if a.net != "" {
		p.sources.Failed(a.net, now)
	}
	if a.site != "" {
		p.sites.Failed(a.site, now)
	}
}

// check reports whether password is that of e, nil meaning a client that does
// not exist: at once where no hash is needed, and known is true; else by calling
// later once, on another goroutine, which must not be held. A password that e was
// seen with before costs no hash; one that is wrong takes the same time whether
// or not e exists. wanted, which may be nil, is asked before a hash is computed;
// its error becomes the outcome. Errors: that, errLimited, auth.ErrBusy, and that
// of a hash that cannot be read.
func (p *passwordVerifier) check(e *entry, name, source string, password []byte, wanted func() error, later func(bool, error)) (ok, known bool, err error) {
	if len(password) > maxPassword {
		return false, true, nil
	}
	digest, hash := p.digest(password), ""
	if e != nil {
		if hash = e.hash; hash != "" {
			if seen := e.verified.Load(); seen != nil && hmac.Equal(seen[:], digest[:]) {
				return true, true, nil
			}
		}
	}
	a := attempt{name: filter.Fold(name)}
	a.net, a.site = network(source)
	if err := p.allowed(a); err != nil {
		return false, true, err
	}
	from := a.site // one organization has one turn at a time, however many networks it has
	if from == "" {
		from = a.net
	}
	c := auth.Check{Source: from, Hash: hash, Password: password, Still: func() error {
		if wanted != nil {
			if err := wanted(); err != nil {
				return err
			}
		}
		return p.allowed(a)
	}}
	verify := func() {
		p.hasher.Submit(c, func(ok bool, err error) {
			switch {
			case err != nil:
			case ok:
				e.verified.Store(digest)
			default:
				p.failed(a)
			}
			later(ok, err)
		})
	}
	delay := min(p.names.Wait(a.name, p.clock.Monotonic()), nameDelay)
	switch {
	case delay <= 0:
		verify()
	case !p.delay(a, delay, verify, func() { later(false, auth.ErrBusy) }):
		return false, true, auth.ErrBusy
	}
	return false, false, nil
}

// delay calls f after d, or reports that too many wait already. At the most that
// may wait, the name that has the most of them gives its newest one up, by
// calling its refuse: whoever guesses the password of one client does not keep
// others out.
func (p *passwordVerifier) delay(a attempt, d time.Duration, f, refuse func()) bool {
	p.mu.Lock()
	n := p.delayed[a.name]
	if n != nil && n.from[a.net] >= mayDelay {
		p.mu.Unlock()
		return false
	}
	var out *delayedAttempt
	if p.total >= maxDelayed {
		most := n
		for _, other := range p.delayed {
			if most == nil || len(other.attempts) > len(most.attempts) {
				most = other
			}
		}
		if n != nil && len(n.attempts) >= len(most.attempts) || len(most.attempts) == 1 {
			p.mu.Unlock()
			return false
		}
		out = most.attempts[len(most.attempts)-1]
		out.timer.Stop()
		p.undelayLocked(out)
	}
	if n == nil {
		n = &delayedName{from: make(map[string]int)}
		p.delayed[a.name] = n
	}
	x := &delayedAttempt{attempt: a, refuse: refuse}
	n.attempts = append(n.attempts, x)
	n.from[a.net]++
	p.total++
	x.timer = p.clock.AfterFunc(d, func() {
		p.mu.Lock()
		refused := x.over
		if !refused {
			p.undelayLocked(x)
		}
		p.mu.Unlock()
		if !refused {
			f()
		}
	})
	p.mu.Unlock()
	if out != nil {
		out.refuse()
	}
	return true
}

func (p *passwordVerifier) undelayLocked(x *delayedAttempt) {
	x.over = true
	p.total--
	n := p.delayed[x.name]
	i := slices.Index(n.attempts, x)
	n.attempts = slices.Delete(n.attempts, i, i+1)
	if n.from[x.net]--; n.from[x.net] == 0 {
		delete(n.from, x.net)
	}
	if len(n.attempts) == 0 {
		delete(p.delayed, x.name)
	}
}

func (p *passwordVerifier) digest(password []byte) *[sha256.Size]byte {
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
