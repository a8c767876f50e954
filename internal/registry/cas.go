package registry

import (
	"context"
	"errors"
	"time"

	"rollcall/internal/fault"
	"rollcall/internal/filter"
	"rollcall/internal/store"
)

// PutCA creates or replaces a CA certificate and returns it, and whether it was
// created. To write what is there already changes nothing. A certificate that
// is replaced vouches for nobody any more, at once. Errors are those of
// PutClient.
func (r *Registry) PutCA(ctx context.Context, name string, s CASpec, c Condition) (CA, bool, error) {
	want, err := s.normalize(name, r.clock.Steady())
	if err != nil {
		return CA{}, false, err
	}
	for range attempts {
		old, rev, err := r.readCA(name)
		if err != nil {
			return CA{}, false, err
		}
		if err := c.judge(old != nil, rev, "CA certificate"); err != nil {
			return CA{}, false, err
		}
		next := &caRecord{CA: want}
		before := time.Time{}
		if old != nil {
			if next.Description == old.Description && next.EncodedCertificate == old.EncodedCertificate {
				return (&caEntry{caRecord: old, rev: rev}).ca(), false, nil
			}
			next.Name, next.CreatedOn, before = old.Name, old.CreatedOn, old.UpdatedOn
		}
		next.UpdatedOn = r.instant(before)
		index, err := r.putCA(ctx, old == nil, rev, next)
		switch {
		case err == nil:
			return (&caEntry{caRecord: next, rev: store.Revision(index)}).ca(), old == nil, nil
		case !errors.Is(err, store.ErrConflict):
			return CA{}, false, visible(err)
		case old == nil:
			return CA{}, false, fault.New(fault.Conflict, "Another request created the CA certificate '%s' at the same time.", name)
		}
	}
	return CA{}, false, raced("CA certificate", name)
}

// putCA commits next and returns the commit's index.
func (r *Registry) putCA(ctx context.Context, create bool, rev store.Revision, next *caRecord) (uint64, error) {
	next.mark = r.newID()
	w := &write{batch: store.NewBatch(store.Normal), kind: kindCA, name: next.Name}
	if create {
		if err := r.place(kindCA, r.set.MaxCAs, "CA certificates"); err != nil {
			return 0, err
		}
		w.create = true
		next.CreatedOn = next.UpdatedOn
	}
	key := caKey(r.realm, next.Name)
	w.batch.Require(key, rev)
	w.batch.Put(key, next.encode())
	folded := filter.Fold(next.Name)
	w.apply = func(i uint64) {
		r.master.trust = r.master.trust.with(&caEntry{caRecord: next, rev: store.Revision(i), folded: folded})
	}
	w.stands = func(v *view) (uint64, bool) {
		e := v.trust.get(next.Name)
		if e != nil && e.mark == next.mark {
			return uint64(e.rev), true
		}
		return 0, false
	}
	return r.commit(ctx, w)
}

// DeleteCA removes a CA certificate and reports whether there was one. The
// connections of clients that it alone vouched for end at once. Errors are
// those of DeleteClient.
func (r *Registry) DeleteCA(ctx context.Context, name string, c Condition) (bool, error) {
	for range attempts {
		old, rev, err := r.readCA(name)
		if err != nil || old == nil {
			return false, err
		}
		if err := c.judge(true, rev, "CA certificate"); err != nil {
			return false, err
		}
		w := &write{batch: store.NewBatch(store.Reserve), kind: kindCA, name: name}
		w.batch.Require(caKey(r.realm, name), rev)
		w.batch.Delete(caKey(r.realm, name))
		w.apply = func(uint64) { r.master.trust = r.master.trust.without(filter.Fold(name)) }
		w.stands = func(v *view) (uint64, bool) {
			e := v.trust.get(name)
			return 0, e == nil || e.mark != old.mark
		}
		_, err = r.commit(ctx, w)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		return err == nil, visible(err)
	}
	return false, raced("CA certificate", name)
}

// CA returns a CA certificate by its resource name in any case, or a
// fault.Error NotFound.
func (r *Registry) CA(name string) (CA, error) {
	e := r.view.Load().trust.get(name)
	if e == nil {
		return CA{}, fault.New(fault.NotFound, "The CA certificate '%s' was not found.", name)
	}
	return e.ca(), nil
}

// CAs returns up to limit CA certificates (0: all) in the order of their folded
// names, from the first above after that keep accepts, and whether there are
// more. keep sees names as they were created; nil keeps all.
func (r *Registry) CAs(after string, limit int, keep func(name string) bool) (page []CA, more bool) {
	folded := filter.Fold(after)
	for _, e := range r.view.Load().trust.cas {
		switch {
		case after != "" && e.folded <= folded || keep != nil && !keep(e.Name):
			continue
		case limit > 0 && len(page) == limit:
			return page, true
		}
		page = append(page, e.ca())
	}
	return page, false
}
