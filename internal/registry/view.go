package registry

import (
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tidwall/btree"

	"rollcall/internal/auth"
	"rollcall/internal/fault"
	"rollcall/internal/filter"
	"rollcall/internal/store"
)

// view is everything there is at one moment. The registry's master is changed
// under its lock; copies of it are published and never change, so that readers
// take no lock. A copy costs the same however many clients there are.
type view struct {
	generation uint64 // rises with every change
	clients    *btree.Map[string, *entry]
	// spellings has the clients by folded name, a zero byte and the name: older
	// versions let two have names that differ in case only.
	spellings *btree.Map[string, *entry]
	names     *btree.Map[string, *entry] // by folded authentication name
	// addresses has the clients whose authentication name is an IP address, by
	// its canonical text, a zero byte and the folded name: an address has many
	// spellings.
	addresses *btree.Map[string, *entry]
	trust     *trust
}

func newView() view {
	return view{
		clients:   btree.NewMap[string, *entry](0),
		spellings: btree.NewMap[string, *entry](0),
		names:     btree.NewMap[string, *entry](0),
		addresses: btree.NewMap[string, *entry](0),
		trust:     newTrust(nil),
	}
}

// copy returns a view to publish.
func (v *view) copy() *view {
	c := *v
	c.clients, c.spellings, c.names, c.addresses = v.clients.Copy(), v.spellings.Copy(), v.names.Copy(), v.addresses.Copy()
	return &c
}

// entry is a client in memory. Only verified changes.
type entry struct {
	*clientRecord
	rev         store.Revision
	folded      string // authentication name
	address     string // canonical, if the authentication name is one
	thumbprints []auth.Thumbprint
	// verified is the keyed digest of the password that last matched hash, so
	// that reconnects need not compute the hash again.
	verified atomic.Pointer[[sha256.Size]byte]
}

func newEntry(rec *clientRecord, rev store.Revision) *entry {
	e := &entry{clientRecord: rec, rev: rev, folded: filter.Fold(rec.AuthenticationName)}
	e.address, _ = auth.CanonicalAddress(rec.AuthenticationName)
	for _, s := range rec.AllowedThumbprints {
		if t, ok := auth.ParseThumbprint(s); ok {
			e.thumbprints = append(e.thumbprints, t)
		}
	}
	return e
}

// client returns the resource for a caller to keep.
func (e *entry) client() Client {
	c := e.Client.clone()
	c.Revision = e.rev
	return c
}

func (e *entry) addressKey() string { return e.address + "\x00" + e.folded }

func (v *view) set(e *entry) {
	old, had := v.clients.Set(e.Name, e)
	if had {
		v.forget(old)
		if old.hash == e.hash {
			e.verified.Store(old.verified.Load())
		}
	}
	v.spellings.Set(spelling(e.Name), e)
	v.names.Set(e.folded, e)
	if e.address != "" {
		v.addresses.Set(e.addressKey(), e)
	}
}

func (v *view) remove(name string) {
	if old, had := v.clients.Delete(name); had {
		v.spellings.Delete(spelling(name))
		v.forget(old)
	}
}

// forget removes e from the indexes, unless another client has its place.
func (v *view) forget(e *entry) {
	if have, ok := v.names.Get(e.folded); ok && have.Name == e.Name {
		v.names.Delete(e.folded)
	}
	if e.address != "" {
		v.addresses.Delete(e.addressKey())
	}
}

func spelling(name string) string { return filter.Fold(name) + "\x00" + name }

// client finds a client by its resource name: the one that is spelled so, or
// else the only one whose name differs in case alone. The error is a
// fault.Error NotFound, or Conflict if there are several.
func (v *view) client(name string) (*entry, error) {
	if e, ok := v.clients.Get(name); ok {
		return e, nil
	}
	var found []*entry
	prefix := filter.Fold(name) + "\x00"
	v.spellings.Ascend(prefix, func(key string, e *entry) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		found = append(found, e)
		return len(found) < 2
	})
	switch len(found) {
	case 0:
		return nil, fault.New(fault.NotFound, "The client '%s' was not found.", name)
	case 1:
		return found[0], nil
	}
	return nil, fault.New(fault.Conflict, "The clients '%s' and '%s' differ in case only; spell the name as one of them is.",
		found[0].Name, found[1].Name)
}

// byName finds a client by its authentication name in any case.
func (v *view) byName(name string) *entry {
	e, _ := v.names.Get(filter.Fold(name))
	return e
}

// byAddress finds a client whose authentication name is an address, given in
// canonical text; the first if there are several spellings.
func (v *view) byAddress(canonical string) *entry {
	if e := v.byName(canonical); e != nil {
		return e
	}
	var found *entry
	prefix := canonical + "\x00"
	v.addresses.Ascend(prefix, func(key string, e *entry) bool {
		if strings.HasPrefix(key, prefix) {
			found = e
		}
		return false
	})
	return found
}

// trust is the CA certificates, at most a few. It never changes.
type trust struct {
	cas  []*caEntry // by folded name
	pool *x509.CertPool
}

type caEntry struct {
	*caRecord
	rev    store.Revision
	folded string
}

func (e *caEntry) ca() CA {
	c := e.CA
	c.Revision = e.rev
	return c
}

func newTrust(cas []*caEntry) *trust {
	t := &trust{cas: cas, pool: x509.NewCertPool()}
	for _, c := range cas {
		t.pool.AddCert(c.cert)
	}
	return t
}

func (t *trust) find(folded string) (int, bool) {
	return slices.BinarySearchFunc(t.cas, folded, func(e *caEntry, f string) int { return strings.Compare(e.folded, f) })
}

func (t *trust) get(name string) *caEntry {
	if i, ok := t.find(filter.Fold(name)); ok {
		return t.cas[i]
	}
	return nil
}

func (t *trust) with(e *caEntry) *trust {
	cas := slices.Clone(t.cas)
	if i, ok := t.find(e.folded); ok {
		cas[i] = e
	} else {
		cas = slices.Insert(cas, i, e)
	}
	return newTrust(cas)
}

func (t *trust) without(folded string) *trust {
	i, ok := t.find(folded)
	if !ok {
		return t
	}
	return newTrust(slices.Delete(slices.Clone(t.cas), i, i+1))
}

// nameOf returns the name of the resource that holds the certificate.
func (t *trust) nameOf(c *x509.Certificate) string {
	for _, e := range t.cas {
		if e.cert.Equal(c) {
			return e.Name
		}
	}
	return ""
}
