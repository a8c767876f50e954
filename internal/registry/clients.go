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
// created. The name finds a client in any case, and stays as it was created. To write what is there already changes nothing and makes no event.
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
		if want.Name, err = r.spelled(name); err != nil {
			return Client{}, false, err
		}
		old, rev, err := r.readClient(want.Name)
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
		holder, stale, err := r.readFolded(next.Name)
		if err != nil {
			return 0, err
		}
		if holder != "" {
			stale = 0 // it came between: a conflict
		}
		if err := r.place(kindClient, r.set.MaxClients, "clients"); err != nil {
			return 0, err
		}
		w.create = true
		next.birth, next.CreatedOn = next.mark, next.UpdatedOn
		index := nameKey(r.realm, filter.Fold(next.AuthenticationName))
		b.Require(index, 0)
		b.Put(index, []byte(next.Name))
		b.Require(foldedKey(r.realm, next.Name), stale)
		b.Put(foldedKey(r.realm, next.Name), []byte(next.Name))
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

// spelled returns the name, as it was created, of the client that is meant by
// name, or name if there is none. The error is a fault.Error Conflict if
// several could be meant.
func (r *Registry) spelled(name string) (string, error) {
	e, err := r.view.Load().client(name)
	if err == nil {
		return e.Name, nil
	}
	if f, ok := fault.As(err); ok && f.Code != fault.NotFound {
		return "", err
	}
	holder, _, err := r.readFolded(name)
	if err != nil || holder == "" {
		return name, err
	}
	return holder, nil
}

// readFolded returns the client in the store whose name is name but for case,
// "" if there is none, and the revision of the key that says so.
func (r *Registry) readFolded(name string) (string, store.Revision, error) {
	snap := r.engine.Snapshot()
	defer snap.Close()
	holder, rev, err := snap.Get(foldedKey(r.realm, name))
	if errors.Is(err, store.ErrNotFound) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	_, _, err = snap.Get(clientKey(r.realm, string(holder)))
	if errors.Is(err, store.ErrNotFound) { // left by a version that does not know the key
		return "", rev, nil
	}
	return string(holder), rev, err
}

// createConflict says why a create was refused, or nil if it can be tried
// again.
func (r *Registry) createConflict(next *clientRecord) error {
	same, _, err := r.readFolded(next.Name)
	if err != nil {
		return err
	}
	if same != "" {
		return fault.New(fault.Conflict, "Another request created the client '%s' at the same time.", same)
	}
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

// DeleteClient removes a client, whose name may be in any case, and reports whether there was one. Its
// connections end at once. Errors are fault.Errors: PreconditionFailed;
// Conflict if it keeps changing; Unavailable if it takes too long.
func (r *Registry) DeleteClient(ctx context.Context, name string, c Condition) (bool, error) {
	asked := name
	for range attempts {
		name, err := r.spelled(asked)
		if err != nil {
			return false, err
		}
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
		b.Delete(foldedKey(r.realm, name))
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

// Client returns a client by its resource name in any case, or a fault.Error:
// NotFound, or Conflict if the name is nobody's as it is spelled and several
// clients' in other cases, which older versions allowed.
func (r *Registry) Client(name string) (Client, error) {
	e, err := r.view.Load().client(name)
	if err != nil {
		return Client{}, err
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
