package registry

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"rollcall/internal/auth"
	"rollcall/internal/fault"
	"rollcall/internal/filter"
	"rollcall/internal/store"
)

// PutClient creates or replaces a client and returns it, and whether it was
// created. To write what is there already changes nothing and makes no event.
// A change acts at once on those who are connected. Errors are fault.Errors:
// InvalidRequest with every mistake; Conflict if the authentication name is
// taken, two creates raced or there are too many clients; PreconditionFailed;
// InsufficientSpace; Unavailable if it takes too long.
func (r *Registry) PutClient(ctx context.Context, name string, s ClientSpec, c Condition) (Client, bool, error) {
	want, err := s.normalize(name, r.set.Passwords)
	if err != nil {
		return Client{}, false, err
	}
	var hash *string // of a new password, once it is computed
	for range attempts {
		old, rev, err := r.readClient(name)
		if err != nil {
			return Client{}, false, err
		}
		if err := c.judge(old != nil, rev, "client"); err != nil {
			return Client{}, false, err
		}
		next := &clientRecord{Client: want}
		if err := next.inherit(old); err != nil {
			return Client{}, false, err
		}
		if s.Password != nil && hash == nil {
			if hash, err = r.newHash(ctx, *s.Password, old); err != nil {
				return Client{}, false, err
			}
		}
		if hash != nil {
			next.hash = *hash
		}
		if next.HasPassword = next.hash != ""; old != nil && next.same(old) {
			return (&entry{clientRecord: old, rev: rev}).client(), false, nil
		}
		index, err := r.putClient(ctx, old, rev, next)
		switch {
		case err == nil:
			return (&entry{clientRecord: next, rev: store.Revision(index)}).client(), old == nil, nil
		case !errors.Is(err, store.ErrConflict):
			return Client{}, false, visible(err)
		case old == nil:
			if err := r.createConflict(next); err != nil {
				return Client{}, false, err
			}
		}
	}
	return Client{}, false, raced("client", name)
}

// judge returns a PreconditionFailed if the condition does not hold.
func (c Condition) judge(exists bool, rev store.Revision, what string) error {
	if c.Absent && exists || c.Revision != 0 && c.Revision != rev {
		return fault.New(fault.PreconditionFailed, "The %s has changed.", what)
	}
	return nil
}

// inherit takes over from the client that is replaced, nil if there is none.
func (c *clientRecord) inherit(old *clientRecord) error {
	if old == nil {
		if c.AuthenticationName == "" {
			c.AuthenticationName = c.Name
		}
		return nil
	}
	if c.AuthenticationName != "" && c.AuthenticationName != old.AuthenticationName {
		return fault.At(pathAuth, "The authentication name cannot be changed; it is '%s'.", old.AuthenticationName)
	}
	c.AuthenticationName, c.birth, c.hash = old.AuthenticationName, old.birth, old.hash
	c.CreatedOn = old.CreatedOn
	return nil
}

// same reports whether c says nothing else than old.
func (c *clientRecord) same(old *clientRecord) bool {
	return c.Description == old.Description && c.State == old.State &&
		c.ValidationScheme == old.ValidationScheme && c.hash == old.hash &&
		slices.Equal(c.AllowedThumbprints, old.AllowedThumbprints) &&
		reflect.DeepEqual(c.Attributes, old.Attributes)
}

// newHash returns the hash of a password that is written: the old one if it is
// of the same password.
func (r *Registry) newHash(ctx context.Context, password string, old *clientRecord) (*string, error) {
	if password == "" {
		return &password, nil
	}
	if old != nil && old.hash != "" {
		same, err := r.passwords.hasher.Verify(ctx, auth.Check{Hash: old.hash, Password: []byte(password)})
		if err != nil {
			return nil, busy(err)
		}
		if same {
			return &old.hash, nil
		}
	}
	hash, err := r.passwords.hasher.Hash(ctx, []byte(password))
	return &hash, busy(err)
}

// putClient commits next in place of old and returns the commit's index.
func (r *Registry) putClient(ctx context.Context, old *clientRecord, rev store.Revision, next *clientRecord) (uint64, error) {
	next.mark = r.newID()
	before := time.Time{}
	class := store.Normal
	if old != nil {
		before = old.UpdatedOn
		if old.State == Enabled && next.State == Disabled {
			class = store.Reserve // to shut a client out must not fail for want of space
		}
	}
	next.UpdatedOn = r.instant(before)
	b := store.NewBatch(class)
	w := &write{batch: b, kind: kindClient, name: next.Name}
	key := clientKey(r.realm, next.Name)
	b.Require(key, rev)
	if old == nil {
		if err := r.place(kindClient, r.set.MaxClients, "clients"); err != nil {
			return 0, err
		}
		w.create = true
		next.birth, next.CreatedOn = next.mark, next.UpdatedOn
		index := nameKey(r.realm, filter.Fold(next.AuthenticationName))
		b.Require(index, 0)
		b.Put(index, []byte(next.Name))
	}
	b.Put(key, next.encode())
	owes := r.announce(w, Upserted, next.Client, next.UpdatedOn)
	w.apply = func(i uint64) {
		r.master.set(newEntry(next, store.Revision(i)))
		owes(i)
	}
	w.stands = func(v *view) (uint64, bool) {
		e, ok := v.clients.Get(next.Name)
		if ok && e.mark == next.mark {
			return uint64(e.rev), true
		}
		return 0, false
	}
	return r.commit(ctx, w)
}

// createConflict says why a create was refused, or nil if it can be tried
// again.
func (r *Registry) createConflict(next *clientRecord) error {
	holder, _, err := store.Get(r.engine, nameKey(r.realm, filter.Fold(next.AuthenticationName)))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case string(holder) == next.Name:
		return fault.New(fault.Conflict, "Another request created the client '%s' at the same time.", next.Name)
	}
	f := fault.New(fault.Conflict, "The authentication name '%s' is that of the client '%s'.", next.AuthenticationName, holder)
	f.Target = pathAuth
	return f
}

// DeleteClient removes a client and reports whether there was one. Its
// connections end at once. Errors are fault.Errors: PreconditionFailed;
// Conflict if it keeps changing; Unavailable if it takes too long.
func (r *Registry) DeleteClient(ctx context.Context, name string, c Condition) (bool, error) {
	for range attempts {
		old, rev, err := r.readClient(name)
		if err != nil || old == nil {
			return false, err
		}
		if err := c.judge(true, rev, "client"); err != nil {
			return false, err
		}
		b := store.NewBatch(store.Reserve)
		w := &write{batch: b, kind: kindClient, name: name}
		b.Require(clientKey(r.realm, name), rev)
		b.Delete(clientKey(r.realm, name))
		b.Delete(nameKey(r.realm, filter.Fold(old.AuthenticationName)))
		owes := r.announce(w, Deleted, old.Client, r.instant(old.UpdatedOn))
		w.apply = func(i uint64) {
			r.master.remove(name)
			owes(i)
		}
		w.stands = func(v *view) (uint64, bool) {
			e, ok := v.clients.Get(name)
			return 0, !ok || e.birth != old.birth
		}
		_, err = r.commit(ctx, w)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		return err == nil, visible(err)
	}
	return false, raced("client", name)
}

// Client returns a client by its resource name, or a fault.Error NotFound.
func (r *Registry) Client(name string) (Client, error) {
	e, ok := r.view.Load().clients.Get(name)
	if !ok {
		return Client{}, fault.New(fault.NotFound, "The client '%s' was not found.", name)
	}
	return e.client(), nil
}

// ClientByAuthenticationName returns the client with that authentication name,
// in any case, and whether there is one.
func (r *Registry) ClientByAuthenticationName(name string) (Client, bool) {
	e := r.view.Load().byName(name)
	if e == nil {
		return Client{}, false
	}
	return e.client(), true
}

// Clients returns up to limit clients (0: all) in the order of their names,
// from the first name above after that keep accepts, and whether there are
// more. keep sees names only; nil keeps all.
func (r *Registry) Clients(after string, limit int, keep func(name string) bool) (page []Client, more bool) {
	r.view.Load().clients.Ascend(after, func(name string, e *entry) bool {
		switch {
		case name == after && after != "" || keep != nil && !keep(name):
			return true
		case limit > 0 && len(page) == limit:
			more = true
			return false
		}
		page = append(page, e.client())
		return true
	})
	return page, more
}
