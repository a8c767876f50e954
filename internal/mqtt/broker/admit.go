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
func (c *conn) admit(a *session.Action) {
	ctx, cancel := context.WithTimeout(context.Background(), c.b.opts.AdmitTimeout)
	defer cancel()
	id, err := c.b.opts.Gatekeeper.Admit(ctx, Credentials{
		ClientID: a.ClientID,
		UserName: a.Connect.UserName.Value, HasUser: a.Connect.UserName.Set,
		Password: a.Connect.Password, Info: c.info,
	})
	if err != nil {
		c.refuse(err)
		return
	}
	c.name = sessionName{c.info.Realm, a.ClientID}
	c.mu.Lock()
	c.standing = id.Standing
	c.mu.Unlock()
	// The registry may have changed since it was asked. From here on
	// Reconsider sees this connection; what came before is seen now.
	if id.Standing != nil {
		if err := id.Standing(); err != nil {
			c.refuse(&Refusal{Code: packet.NotAuthorized, Text: err.Error()})
			return
		}
	}
	c.claim(a, id)
}

func (c *conn) claim(a *session.Action, id Identity) {
	protocol := "MQTT " + c.s.Version().String() // set by CONNECT, which was this goroutine's
	done := make(chan []session.Action, 1)
	c.b.opts.Presence.Claim(Claim{
		Realm: c.name.realm, Session: c.name.id, Owner: id.AuthenticationName,
		Protocol: protocol, Transport: c.info.Transport, Remote: c.info.Remote, Method: id.Method, Conn: c,
	}, func(h Hold, err error) {
		// In commit order, so that a later take-over finds the session
		// admitted.
		if err != nil {
			done <- c.claimRefused(err)
			return
		}
		c.mu.Lock()
		c.hold = h
		_, todo := c.stepLocked(session.Input{Kind: session.Admitted, Admission: session.Admission{
			ExpiresAt: id.ExpiresAt, ExpiryDetail: id.ExpiryDetail,
		}})
		c.mu.Unlock()
		c.b.admitted(c)
		done <- todo
	})
	c.perform(<-done)
}

// admitted makes c the connection that End finds.
func (b *Broker) admitted(c *conn) {
	b.metrics.connects.WithLabelValues("accepted").Inc()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.byName[c.name] = c
}

func (c *conn) claimRefused(err error) []session.Action {
	in := session.Input{Kind: session.Refused, Code: packet.ServerUnavailable}
	label := "fault"
	switch {
	case errors.Is(err, ErrOwned):
		in.Code, in.Text, label = packet.NotAuthorized, "the session belongs to another client", "owned"
	case errors.Is(err, ErrBusy):
		in.Code, in.Text, label = packet.ServerBusy, "too many connects of this session at once", "busy"
	case errors.Is(err, ErrFull):
		in.Code, in.Text, label = packet.QuotaExceeded, "the server's storage is full", "full"
	case errors.Is(err, ErrGone):
		label = "gone"
	default:
		c.b.opts.Log.Error("a connect could not be stored", "session", c.name.id, "err", err)
	}
	c.b.metrics.connects.WithLabelValues(label).Inc()
	c.mu.Lock()
	defer c.mu.Unlock()
	_, todo := c.stepLocked(in)
	return todo
}

// refuse answers a CONNECT that the gatekeeper turned down.
func (c *conn) refuse(err error) {
	in := session.Input{Kind: session.Refused, Code: packet.ServerUnavailable}
	label := "fault"
	var r *Refusal
	if errors.As(err, &r) {
		in.Code, label = r.Code, "refused"
		c.b.opts.Log.Info("connect refused", "remote", c.info.Remote, "code", r.Code.String(), "why", r.Text)
	} else {
		c.b.opts.Log.Error("a connect could not be judged", "remote", c.info.Remote, "err", err)
	}
	c.b.metrics.connects.WithLabelValues(label).Inc()
	c.step(in)
}

var lostByClient = session.Ending{
	Reason: disconnect.ConnectionLost,
	Evidence: disconnect.Evidence{
		Kind: disconnect.Transport, Detail: "the client closed the connection without DISCONNECT",
	},
}
