package broker

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"

	"rollcall/internal/clock"
	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
)

// applicant is a CONNECT that is being judged.
type applicant struct {
	c       *conn
	id      string
	connect *packet.Connect
	expiry  uint32
	settled func() // called once the session knows what came of it

	once  sync.Once
	timer atomic.Pointer[clock.Timer] // bounds the wait for an answer
}

// judge asks who the client is, has its session claimed, and calls settled once
// the session knows what came of it. It waits for nobody: what has to wait for
// an answer goes on when it comes, on the broker's workers, which nothing holds
// that waits.
func (c *conn) judge(r *round, id string, p *packet.Connect, expiry uint32, settled func()) {
	a := &applicant{c: c, id: id, connect: p, expiry: expiry, settled: settled}
	defer a.guard(r)
	if !c.borrowConnect(p) {
		c.turnAway(r, "memory", packet.ServerBusy, "too much is held for clients that are not let in")
		settled()
		return
	}
	who, known, err := c.b.opts.Gatekeeper.Admit(Credentials{
		ClientID: id,
		UserName: p.UserName.Value, HasUser: p.UserName.Set,
		Password: p.Password, Info: c.info, Wanted: c.wanted,
	}, a.later)
	if known {
		a.once.Do(func() { a.judged(r, who, err) })
		return
	}
	timer := c.b.opts.Clock.AfterFunc(c.b.opts.AdmitTimeout, func() {
		a.later(Identity{}, &Refusal{Code: packet.ServerBusy, Text: "who the client is was not known in time"})
	})
	a.timer.Store(&timer) // an answer that was faster leaves it to run out
}

// later goes on with an answer that had to be waited for. It does not block.
func (a *applicant) later(who Identity, err error) {
	a.once.Do(func() {
		b := a.c.b
		b.admissions.submit(func() {
			r := b.begin()
			defer b.done(r)
			defer a.guard(r)
			a.judged(r, who, err)
		})
	})
}

// guard turns the client away after a fault of ours.
func (a *applicant) guard(r *round) {
	if what := recover(); what != nil {
		a.c.failed(r, what)
		a.c.turnAway(r, "fault", packet.ServerUnavailable, "")
		a.settled()
	}
}

var errLeft = errors.New("broker: the client has left")

// wanted reports that nobody waits to be let in any more.
func (c *conn) wanted() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || c.s.Doomed() {
		return errLeft
	}
	return nil
}

// judged has the session claimed, now that it is known who the client is, or
// turns the client away.
func (a *applicant) judged(r *round, who Identity, err error) {
	if timer := a.timer.Load(); timer != nil {
		(*timer).Stop()
	}
	c, settled := a.c, a.settled
	if err != nil {
		c.refuse(r, err)
		settled()
		return
	}
	c.info.TLS = nil // has served its purpose
	c.name = sessionName{c.info.Realm, a.id}
	c.mu.Lock()
	c.standing = who.Standing
	c.mu.Unlock()
	// The registry may have changed since it was asked. From here on
	// Reconsider sees this connection; what came before is seen now.
	if who.Standing != nil {
		if err := who.Standing(); err != nil {
			c.refuse(r, &Refusal{Code: packet.NotAuthorized, Text: err.Error()})
			settled()
			return
		}
	}
	c.mu.Lock()
	doomed := c.s.Doomed()
	c.mu.Unlock()
	if doomed { // by Shutdown or Reconsider: there is nothing to claim any more
		c.turnAway(r, "ended", packet.ServerUnavailable, "the client has left, or was ended, before it was let in")
		settled()
		return
	}
	if bx := c.realm.box(a.id); bx != nil && !bx.belongsTo(who.AuthenticationName) {
		c.claimRefused(r, ErrOwned)
		settled()
		return
	}
	c.awaitLastWords(func() { c.claim(who, a.connect, a.expiry, settled) })
}

// belongsTo reports whether the client of that authentication name may have the
// session: it is its own, or has expired.
func (bx *box) belongsTo(owner string) bool {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	meta := bx.staged.pick(&bx.meta)
	expires, ends := meta.ExpiresAt()
	return strings.EqualFold(meta.Owner, owner) || ends && !bx.b.clock.Steady().Before(expires)
}

// claim claims the session. settled is called, in commit order, so that a later
// take-over finds the session admitted or on its way to be.
func (c *conn) claim(who Identity, p *packet.Connect, expiry uint32, settled func()) {
	c.partition = c.b.store.Partition(c.name.realm, c.name.id)
	var e *entry
	c.b.opts.Presence.Claim(Claim{
		Realm: c.name.realm, Session: c.name.id, Owner: who.AuthenticationName,
		Protocol: "MQTT " + p.Version.String(), Transport: c.info.Transport, Remote: c.info.Remote, Method: who.Method, Conn: c,
		Stage: func(b *store.Batch, number uint64) {
			e.forget(c) // an earlier try
			e = c.decide(p, who.AuthenticationName, expiry, number, c.b.clock.Steady())
			if err := e.stage(c.b.store, b, c.name.realm, c.name.id); err != nil {
				c.b.opts.Log.Error("a Will cannot be stored", "session", c.name.id, "err", err)
			}
		},
	}, func(h Hold, err error) {
		r := c.b.begin()
		r.remote = true
		defer c.b.done(r)
		defer settled()
		defer c.guard(r)
		if err != nil {
			e.forget(c)
			c.claimRefused(r, err)
			return
		}
		c.b.metrics.accepted.Inc()
		c.hired(r, h, who, e)
	})
}

// hired tells the session that the hold is its own.
func (c *conn) hired(r *round, h Hold, who Identity, e *entry) {
	c.mu.Lock()
	c.hold = h
	c.repay()
	over := c.s.Ended() // only a fault of ours ends it before it is admitted
	c.mu.Unlock()
	if over {
		c.enter(r, e, session.Admission{})(r) // as the claim has stored it; the client is told nothing
		c.ended(r, &session.Final{Expiry: e.expiry(), Ending: session.Ending{Reason: disconnect.ServerError, Evidence: disconnect.Evidence{
			Kind: disconnect.Internal, Detail: "the connection failed inside the server"}}})
		if bx := c.box; bx != nil && (e.expiry() == 0 || bx.isDead()) {
			bx.end(r)
		}
		return
	}
	before := c.realm.holds(c)
	admit := c.enter(r, e, session.Admission{ExpiresAt: who.ExpiresAt, ExpiryDetail: who.ExpiryDetail})
	c.afterEarlier(r, before, admit)
}

func (c *conn) claimRefused(r *round, err error) {
	switch {
	case errors.Is(err, ErrOwned):
		c.turnAway(r, "owned", packet.NotAuthorized, "the session belongs to another client")
	case errors.Is(err, ErrBusy):
		c.turnAway(r, "busy", packet.ServerBusy, "too many connects of this session at once")
	case errors.Is(err, ErrFull):
		c.turnAway(r, "full", packet.QuotaExceeded, "the server's storage is full")
	case errors.Is(err, ErrGone):
		c.turnAway(r, "gone", packet.ServerUnavailable, "the client has left before it was let in")
	default:
		c.b.opts.Log.Error("a connect could not be stored", "session", c.name.id, "err", err)
		c.turnAway(r, "fault", packet.ServerUnavailable, "")
	}
}

// refuse answers a CONNECT that the gatekeeper turned down.
func (c *conn) refuse(r *round, err error) {
	var no *Refusal
	if errors.As(err, &no) {
		reason := no.Reason
		if reason == "" {
			reason = "refused"
		}
		c.refused(reason, no.Code, true, no.Text)
		c.turnAway(r, "refused", no.Code, "")
		return
	}
	if errors.Is(err, errLeft) {
		c.turnAway(r, "ended", packet.ServerUnavailable, "the client has left, or was ended, before it was let in")
		return
	}
	c.b.opts.Log.Error("a connect could not be judged", "remote", c.info.Remote, "err", err)
	c.turnAway(r, "fault", packet.ServerUnavailable, "")
}

func (c *conn) turnAway(r *round, label string, code packet.ReasonCode, text string) {
	c.b.metrics.connects.WithLabelValues(label).Inc()
	c.refused(label, code, true, text)
	c.step(r, session.Input{Kind: session.Refused, Code: code, Text: text})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link.rouse()
}
