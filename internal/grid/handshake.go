package grid

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/store"
)

// plan decides what a write of properties means: they are in effect at once if
// the endpoint has consented before, otherwise it is asked. It returns the
// secret of the handshake to begin, or "".
func (g *Grid) plan(r, old *record) (token string) {
	r.FailedCode, r.FailedText = "", ""
	if r.Active != nil && r.Active.Destination.EndpointURL == r.Wanted.Destination.EndpointURL {
		r.State, r.Token, r.Deadline = Succeeded, "", time.Time{}
		wanted := r.Wanted
		r.Active = &wanted
		return ""
	}
	r.State = Creating
	if r.Active != nil {
		r.State = Updating
	}
	now := g.clock.Now()
	r.Narration = nil
	r.tell(now, fmt.Sprintf("The endpoint %s has to consent before events are sent to it.", r.Wanted.Destination.Disguised()))
	token = g.newToken()
	r.Token, r.Deadline = hashToken(token), g.clock.Steady().Add(g.set.ValidationWindow)
	return token
}

// resume takes up handshakes that a restart interrupted: those that Open found
// in the store, not those that began since. The secret of their URL is not
// stored, so they begin anew.
func (g *Grid) resume() {
	for k, hash := range g.interrupted {
		g.do(func(ctx context.Context) { g.resumeOne(ctx, k, hash) })
	}
	g.interrupted = nil
}

func (g *Grid) resumeOne(ctx context.Context, k entryKey, hash string) {
	token := g.newToken()
	err := g.insist(ctx, k, func(old *record) (*record, error) {
		if old == nil || old.Token != hash || old.State != Creating && old.State != Updating {
			return nil, errUnchanged
		}
		r := *old
		now := g.clock.Now()
		r.Token, r.Deadline = hashToken(token), g.clock.Steady().Add(g.set.ValidationWindow)
		r.tell(now, "The server was restarted; the endpoint is asked again.")
		return &r, nil
	})
	if err == nil {
		g.handshake(ctx, k, token)
	}
}

// handshake asks the endpoint of a subscription for its consent.
func (g *Grid) handshake(ctx context.Context, k entryKey, token string) {
	hash := hashToken(token)
	rec := g.current(k, hash)
	if rec == nil {
		return
	}
	dest, err := g.webhooks.Destination(string(rec.Wanted.Destination.EndpointURL), rec.Wanted.Schema, rec.Wanted.Destination.Attributes)
	if err != nil {
		g.conclude(ctx, rec, hash, webhook.Answer{Consent: webhook.Denied, Detail: err.Error()})
		return
	}
	method := "POST of a validation event"
	if rec.Wanted.Schema == event.CloudEvents {
		method = "OPTIONS"
	}
	var answer webhook.Answer
	until := g.clock.Monotonic() + g.set.ValidationWindow
	for n := 1; ; n++ {
		g.narrate(k, hash, fmt.Sprintf("Asking %s: %s, attempt %d of %d.", rec.Wanted.Destination.Disguised(), method, n, g.set.ValidationAttempts))
		code, now := g.newID(), g.clock.Now()
		answer = dest.Ask(ctx, webhook.Question{
			Subscription: rec.Name, Topic: rec.Source.ID, ID: g.newID(), Code: code,
			Callback: g.callback(rec, code, token, now), Now: now,
		})
		if answer.Consent != webhook.Unanswered || n == g.set.ValidationAttempts {
			break
		}
		pause := max(g.set.ValidationPause, answer.RetryAfter)
		if g.clock.Monotonic()+pause > until {
			answer.Detail += ", and asks to be left alone for longer than it may take to confirm"
			break
		}
		g.narrate(k, hash, fmt.Sprintf("No consent yet: %s. Trying again in %v.", answer.Detail, pause))
		if !g.pause(ctx, pause) || g.current(k, hash) == nil {
			return
		}
	}
	if ctx.Err() == nil { // else the next start asks again
		g.conclude(ctx, rec, hash, answer)
	}
}

// current returns the record whose handshake has this secret, nil if it was
// changed or confirmed meanwhile.
func (g *Grid) current(k entryKey, hash string) *record {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.entries[k]
	if e == nil || e.rec.Token != hash || e.rec.State != Creating && e.rec.State != Updating {
		return nil
	}
	return e.rec
}

// callback is the URL at which a person can give the endpoint's consent.
func (g *Grid) callback(rec *record, code, token string, now time.Time) string {
	base, _ := g.baseURL(string(rec.Wanted.Destination.EndpointURL))
	if base == "" {
		return ""
	}
	return base + "/eventsubscriptions/" + url.PathEscape(strings.ToUpper(rec.Name)) + "/validate?id=" + url.QueryEscape(code) +
		"&t=" + url.QueryEscape(event.FormatTime(now)) + "&apiVersion=2025-02-15&token=" + url.QueryEscape(token)
}

// narrate adds a step to what is told about a handshake under way.
func (g *Grid) narrate(k entryKey, hash, text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.entries[k]
	if e == nil || e.rec.Token != hash {
		return
	}
	live := e.live[max(0, len(e.live)-maxSteps+1):]
	e.live = append(slices.Clone(live), Step{event.Time{Time: g.clock.Now()}, text})
	e.notify()
}

// insist is change, again and again while the store refuses, until ctx ends:
// what a handshake came to must not be lost for want of space.
func (g *Grid) insist(ctx context.Context, k entryKey, f func(old *record) (*record, error)) error {
	for {
		_, _, err := g.change(ctx, k, Condition{}, f)
		if err == nil || errors.Is(err, errUnchanged) || ctx.Err() != nil {
			return err
		}
		g.log.Warn("the state of a webhook validation cannot be stored", "subscription", k.name, "err", err)
		if !g.pause(ctx, time.Minute) {
			return err
		}
	}
}

// conclude stores the result of a handshake.
func (g *Grid) conclude(ctx context.Context, rec *record, hash string, a webhook.Answer) {
	k := rec.key()
	live := g.narration(k)
	err := g.insist(ctx, k, func(old *record) (*record, error) {
		if old == nil || old.Token != hash || old.State != Creating && old.State != Updating {
			return nil, errUnchanged
		}
		r := *old
		r.Narration = live
		now := g.clock.Now()
		r.Updated = now
		r.tell(now, sentence(a.Detail))
		base := r.Wanted.Destination.Disguised()
		ours, trust := g.baseURL(string(r.Wanted.Destination.EndpointURL))
		switch {
		case a.Consent == webhook.Granted:
			r.grant(now, a.Rate)
		case a.Consent == webhook.Awaiting && ours != "":
			r.State, r.Deadline = AwaitingManualAction, g.clock.Steady().Add(g.set.ValidationWindow)
			r.tell(now, fmt.Sprintf("Waiting until %s for a GET of the validation URL that was sent to the endpoint.", event.FormatTime(r.Deadline)))
			if trust != "" {
				r.tell(now, "That URL is served under a CA of this server's own: whoever opens it has to trust "+trust+".")
			}
		case a.Consent == webhook.Awaiting && r.Wanted.Schema == event.EventGrid:
			r.fail(now, "Webhook validation handshake failed for "+base+". The endpoint answered without the validation code, and there is no address at which it could be confirmed by hand.")
		default:
			r.fail(now, "Webhook validation handshake failed for "+base+". "+sentence(a.Detail))
		}
		return &r, nil
	})
	g.countHandshake(k, err)
}

func (g *Grid) countHandshake(k entryKey, err error) {
	if err != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.entries[k]; e != nil {
		g.metrics.handshakes.WithLabelValues(string(e.rec.State)).Inc()
		g.log.Info("webhook validation", "subscription", e.rec.Name, "state", string(e.rec.State))
	}
}

// grant puts what was asked for into effect.
func (r *record) grant(now time.Time, rate int) {
	wanted := r.Wanted
	r.State, r.Active, r.Rate = Succeeded, &wanted, rate
	r.Token, r.Deadline = "", time.Time{}
	r.Updated = now
	if rate > 0 {
		r.tell(now, fmt.Sprintf("The endpoint allows %d requests per minute.", rate))
	}
	r.tell(now, "Succeeded: events are delivered from now on.")
}

func (g *Grid) narration(k entryKey) []Step {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.entries[k]; e != nil {
		return e.live
	}
	return nil
}

// Confirm gives the consent of an endpoint by the secret of its validation
// URL, on behalf of the HTTP route that serves it, whose request's header may
// say what the endpoint allows (WebHook-Allowed-Origin, WebHook-Allowed-Rate).
// InvalidRequest if the secret is unknown, used or too old, or the origin is
// another.
func (g *Grid) Confirm(ctx context.Context, token string, header http.Header) error {
	if !g.webhooks.Permits(header) {
		return fault.New(fault.InvalidRequest, "WebHook-Allowed-Origin names another origin than the one that asked.")
	}
	hash := hashToken(token)
	g.mu.Lock()
	var k entryKey
	found := false
	for key, e := range g.entries {
		if e.rec.Token == hash && e.rec.State.settling() {
			k, found = key, true
		}
	}
	g.mu.Unlock()
	refused := fault.New(fault.InvalidRequest, "The validation URL is unknown or has expired.")
	if !found || token == "" {
		return refused
	}
	live := g.narration(k)
	_, _, err := g.change(ctx, k, Condition{}, func(old *record) (*record, error) {
		now := g.clock.Now()
		if old == nil || old.Token != hash || !old.State.settling() || !g.clock.Steady().Before(old.Deadline) {
			return nil, refused
		}
		r := *old
		r.Narration = live
		r.tell(now, "The validation URL was opened.")
		r.grant(now, webhook.AllowedRate(header))
		return &r, nil
	})
	g.countHandshake(k, err)
	return err
}

// arm sets the timer of an entry: the deadline of its confirmation or its
// expiration. The grid is locked.
func (g *Grid) arm(e *entry) {
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
	next := e.rec.Wanted.Expiration
	if e.rec.State == AwaitingManualAction && (next.IsZero() || e.rec.Deadline.Before(next)) {
		next = e.rec.Deadline
	}
	if next.IsZero() || g.stopped {
		return
	}
	k := e.rec.key()
	// A timer measures how much time passes, and by the clock the moment can
	// come earlier or later than that: it is looked at again and again.
	wait := min(max(0, next.Sub(g.clock.Steady())), lookAgain)
	e.timer = g.clock.AfterFunc(wait, func() {
		if g.clock.Steady().Before(next) {
			g.rearm(k)
			return
		}
		g.do(func(ctx context.Context) { g.lapse(ctx, k) })
	})
}

// lookAgain is how often it is looked whether a subscription has run out.
const lookAgain = time.Minute

// rearm sets the timer of an entry that has not run out.
func (g *Grid) rearm(k entryKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.entries[k]; e != nil {
		g.arm(e)
	}
}

// lapse ends what has run out: the subscription, or the time to confirm it.
func (g *Grid) lapse(ctx context.Context, k entryKey) {
	expired, err := g.remove(ctx, k, func(old *record, _ store.Revision) bool {
		at := old.Wanted.Expiration
		return !at.IsZero() && !g.clock.Steady().Before(at)
	})
	if expired {
		g.log.Info("event subscription expired", "subscription", k.name)
		return
	}
	live := g.narration(k)
	if f, ok := fault.As(err); ok && f.Code == fault.PreconditionFailed { // it has not expired
		_, _, err = g.change(ctx, k, Condition{}, func(old *record) (*record, error) {
			now := g.clock.Now()
			if old == nil || old.State != AwaitingManualAction || g.clock.Steady().Before(old.Deadline) {
				return nil, errUnchanged
			}
			r := *old
			r.Narration = live
			r.Updated = now
			r.fail(now, "Webhook validation handshake failed for "+r.Wanted.Destination.Disguised()+
				". Http POST request retuned 2XX response. When a validation request is accepted without validation code in the response body, "+
				"Http GET is expected on the validation url included in the validation event(within "+inWords(g.set.ValidationWindow)+").")
			return &r, nil
		})
		if err == nil {
			g.countHandshake(k, nil)
			return
		}
		if errors.Is(err, errUnchanged) { // it was changed meanwhile, or the clock was set back
			g.rearm(k)
			return
		}
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, errUnchanged) { // the store refused: again later
		g.log.Warn("an event subscription has run out and cannot be changed", "subscription", k.name, "err", err)
		if g.pause(ctx, time.Minute) {
			g.do(func(ctx context.Context) { g.lapse(ctx, k) })
		}
	}
}

// farewell tells an endpoint that its subscription is gone: one attempt.
func (g *Grid) farewell(ctx context.Context, rec *record) {
	p := rec.Active
	d, err := g.webhooks.Destination(string(p.Destination.EndpointURL), p.Schema, p.Destination.Attributes)
	if err != nil {
		return
	}
	r := d.Farewell(ctx, rec.Name, rec.Source.ID, rec.view(0).ResourceID(), g.newID(), g.clock.Now())
	g.log.Debug("deletion notice", "subscription", rec.Name, "outcome", r.Outcome.String())
}

// pause waits for d and reports whether ctx is still alive.
func (g *Grid) pause(ctx context.Context, d time.Duration) bool {
	done := make(chan struct{})
	t := g.clock.AfterFunc(d, func() { close(done) })
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// inWords writes a duration as the documented messages do: "10 minutes".
func inWords(d time.Duration) string {
	for _, unit := range []struct {
		d    time.Duration
		name string
	}{{time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := d / unit.d; n > 0 && d%unit.d == 0 {
			if n == 1 {
				return "1 " + unit.name
			}
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return d.String()
}

// sentence makes text one: a capital first, a full stop last.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + strings.TrimSuffix(text[1:], ".") + "."
}
