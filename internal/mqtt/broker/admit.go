package broker

import (
	"context"
	"errors"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// admit asks who the client is and claims its session. It runs on the reader's
// goroutine, which has nothing else to do until CONNACK has left.
func (c *conn) admit(id string, p *packet.Connect) {
	ctx, cancel := context.WithTimeout(context.Background(), c.b.opts.AdmitTimeout)
	defer cancel()
	who, err := c.b.opts.Gatekeeper.Admit(ctx, Credentials{
		ClientID: id,
		UserName: p.UserName.Value, HasUser: p.UserName.Set,
		Password: p.Password, Info: c.info,
	})
	if err != nil {
		c.refuse(err)
		return
	}
	c.info.TLS = nil // has served its purpose
	c.name = sessionName{c.info.Realm, id}
	c.mu.Lock()
	c.standing = who.Standing
	c.mu.Unlock()
	// The registry may have changed since it was asked. From here on
	// Reconsider sees this connection; what came before is seen now.
	if who.Standing != nil {
		if err := who.Standing(); err != nil {
			c.refuse(&Refusal{Code: packet.NotAuthorized, Text: err.Error()})
			return
		}
	}
	c.mu.Lock()
	doomed := c.s.Doomed()
	c.mu.Unlock()
	if doomed { // by Shutdown or Reconsider: there is nothing to claim any more
		c.turnAway("ended", packet.ServerUnavailable, "")
		return
	}
	c.claim(who)
}

// claim claims the session and waits for the outcome.
func (c *conn) claim(who Identity) {
	protocol := "MQTT " + c.s.Version().String() // set by CONNECT, which was this goroutine's
	settled := make(chan struct{})
	c.b.opts.Presence.Claim(Claim{
		Realm: c.name.realm, Session: c.name.id, Owner: who.AuthenticationName,
		Protocol: protocol, Transport: c.info.Transport, Remote: c.info.Remote, Method: who.Method, Conn: c,
	}, func(h Hold, err error) {
		// In commit order, so that a later take-over finds the session
		// admitted.
		defer close(settled)
		defer c.guard()
		if err != nil {
			c.claimRefused(err)
			return
		}
		c.b.metrics.connects.WithLabelValues("accepted").Inc()
		c.b.admitted(c)
		c.perform(c.hired(h, who))
	})
	<-settled
}

// hired tells the session that the hold is its own. What is left to perform is
// at most its end.
func (c *conn) hired(h Hold, who Identity) *actions {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = h
	return c.stepLocked(session.Input{Kind: session.Admitted, Admission: session.Admission{
		ExpiresAt: who.ExpiresAt, ExpiryDetail: who.ExpiryDetail,
	}})
}

// admitted makes c the connection that End finds.
func (b *Broker) admitted(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.byName[c.name] = c
}

func (c *conn) claimRefused(err error) {
	switch {
	case errors.Is(err, ErrOwned):
		c.turnAway("owned", packet.NotAuthorized, "the session belongs to another client")
	case errors.Is(err, ErrBusy):
		c.turnAway("busy", packet.ServerBusy, "too many connects of this session at once")
	case errors.Is(err, ErrFull):
		c.turnAway("full", packet.QuotaExceeded, "the server's storage is full")
	case errors.Is(err, ErrGone):
		c.turnAway("gone", packet.ServerUnavailable, "")
	default:
		c.b.opts.Log.Error("a connect could not be stored", "session", c.name.id, "err", err)
		c.turnAway("fault", packet.ServerUnavailable, "")
	}
}

// refuse answers a CONNECT that the gatekeeper turned down.
func (c *conn) refuse(err error) {
	var r *Refusal
	if errors.As(err, &r) {
		c.b.opts.Log.Info("connect refused", "remote", c.info.Remote, "code", r.Code.String(), "why", r.Text)
		c.turnAway("refused", r.Code, "")
		return
	}
	c.b.opts.Log.Error("a connect could not be judged", "remote", c.info.Remote, "err", err)
	c.turnAway("fault", packet.ServerUnavailable, "")
}

func (c *conn) turnAway(label string, code packet.ReasonCode, text string) {
	c.b.metrics.connects.WithLabelValues(label).Inc()
	c.perform(c.step(session.Input{Kind: session.Refused, Code: code, Text: text}))
}

var lostByClient = session.Ending{
	Reason: disconnect.ConnectionLost,
	Evidence: disconnect.Evidence{
		Kind: disconnect.Transport, Detail: "the client closed the connection without DISCONNECT",
	},
}
