package registry

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// seen is against what an identity was last found good. Its generation alone
// decides while nothing has changed; entry and trust spare what has not changed
// from being judged again. It keeps no view alive, only one client.
type seen struct {
	generation uint64
	entry      *entry
	trust      *trust
}

// standing returns a Standing that has again judge what changed since v. again
// gets the client as it is now, which is the same resource and enabled.
func (r *Registry) standing(v *view, e *entry, again func(now *view, e *entry, before *seen) error) func() error {
	var last atomic.Pointer[seen]
	last.Store(&seen{v.generation, e, v.trust})
	return func() error {
		now, before := r.view.Load(), last.Load()
		if now.generation == before.generation {
			return nil
		}
		current, ok := now.clients.Get(e.Name)
		switch {
		case !ok:
			return fmt.Errorf("client %s was deleted", e.Name)
		case current.birth != e.birth:
			return fmt.Errorf("client %s was deleted and created again", e.Name)
		case current.State != Enabled:
			return fmt.Errorf("client %s was disabled", e.Name)
		}
		if err := again(now, current, before); err != nil {
			return err
		}
		last.Store(&seen{now.generation, current, now.trust})
		return nil
	}
}

func (r *Registry) certificateStanding(v *view, e *entry, c *certified, given verdict) func() error {
	changed := r.standing(v, e, func(now *view, e *entry, before *seen) error {
		if e == before.entry && now.trust == before.trust {
			return nil
		}
		if _, denied := c.judge(now.trust, e, r.clock.Steady()); denied != nil {
			return fmt.Errorf("client %s would not be admitted any more: %s", e.Name, denied.Text)
		}
		return nil
	})
	return func() error {
		if r.clock.Steady().After(given.expires) {
			return errors.New(given.detail)
		}
		return changed()
	}
}

func (r *Registry) passwordStanding(v *view, e *entry) func() error {
	return r.standing(v, e, func(_ *view, now *entry, _ *seen) error {
		if now.hash != e.hash {
			return fmt.Errorf("the password of client %s was changed", e.Name)
		}
		return nil
	})
}

func (r *Registry) anonymousStanding(v *view, id string) func() error {
	var last atomic.Uint64
	last.Store(v.generation)
	return func() error {
		now := r.view.Load()
		if now.generation == last.Load() {
			return nil
		}
		if e := now.byName(id); e != nil {
			return fmt.Errorf("the client id is now the authentication name of client %s, which must prove who it is", e.Name)
		}
		last.Store(now.generation)
		return nil
	}
}
