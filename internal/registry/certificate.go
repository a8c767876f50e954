package registry

import (
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"rollcall/internal/auth"
	"rollcall/internal/filter"
)

// maxChain bounds the certificates that a client may send with its own.
const maxChain = 8

// fields are the certificate fields that the schemes compare.
func (s Scheme) field() auth.Source {
	switch s {
	case DNSMatches:
		return auth.DNS
	case URIMatches:
		return auth.URI
	case IPMatches:
		return auth.IP
	case EmailMatches:
		return auth.Email
	}
	return auth.Subject
}

// byCertificate judges a client certificate.
func (r *Registry) byCertificate(p Proof) (Identity, *Denied) {
	v := r.view.Load()
	e, denied := r.resolve(v, p)
	if denied != nil {
		return Identity{}, denied
	}
	c := &certified{leaf: p.Leaf, chain: p.Chain}
	verdict, denied := c.judge(v.trust, e, r.clock.Steady())
	if denied != nil {
		return Identity{}, denied
	}
	return Identity{
		AuthenticationName: e.AuthenticationName, ClientName: e.Name, Method: verdict.method,
		ExpiresAt: verdict.expires, ExpiryDetail: verdict.detail,
		Standing: r.certificateStanding(v, e, c, verdict),
	}, nil
}

// resolve finds the client that a certificate is shown for: by the user name,
// else by the first of the configured fields that is in the certificate.
func (r *Registry) resolve(v *view, p Proof) (*entry, *Denied) {
	if p.HasUser && p.UserName != "" {
		if e := v.byName(p.UserName); e != nil {
			return e, nil
		}
		return nil, deny(Unknown, "no client has the authentication name %.128q", p.UserName)
	}
	for _, src := range r.sources {
		names := auth.CertificateNames(p.Leaf, src)
		if len(names) == 0 {
			continue
		}
		for _, name := range names {
			e := v.byName(name)
			if e == nil && src == auth.IP {
				e = v.byAddress(name)
			}
			if e != nil {
				return e, nil
			}
		}
		return nil, deny(Unknown, "no client has an authentication name that the certificate has as %s: %.128q", src, names)
	}
	if len(r.sources) == 0 {
		return nil, deny(NoName, "the certificate came without a user name")
	}
	return nil, deny(NoName, "the certificate came without a user name and has none of %v", r.sources)
}

// certified is a certificate as a client showed it.
type certified struct {
	leaf  *x509.Certificate
	chain []*x509.Certificate
}

// verdict is how a certificate was found good.
type verdict struct {
	method  string
	expires time.Time
	detail  string
}

// judge weighs a certificate against a client.
func (c *certified) judge(t *trust, e *entry, now time.Time) (verdict, *Denied) {
	if e.State != Enabled {
		return verdict{}, deny(IsDisabled, "client %s is disabled", e.Name)
	}
	if now.Before(c.leaf.NotBefore) || now.After(c.leaf.NotAfter) {
		return verdict{}, deny(NotValidNow, "the certificate is valid from %s to %s only", stamp(c.leaf.NotBefore), stamp(c.leaf.NotAfter))
	}
	if e.ValidationScheme == ThumbprintMatch {
		if !slices.ContainsFunc(e.thumbprints, func(p auth.Thumbprint) bool { return p.Matches(c.leaf) }) {
			return verdict{}, deny(WrongThumb, "the certificate has none of the thumbprints of client %s", e.Name)
		}
		return verdict{MethodThumbprint, c.leaf.NotAfter, "the client certificate expired at " + stamp(c.leaf.NotAfter)}, nil
	}
	if src := e.ValidationScheme.field(); !e.named(c.leaf, src) {
		return verdict{}, deny(Mismatch, "the certificate does not have %.128q as %s", e.AuthenticationName, src)
	}
	return t.verify(c, now)
}

// named reports whether a field of a certificate is the client's authentication
// name.
func (e *entry) named(c *x509.Certificate, src auth.Source) bool {
	for _, name := range auth.CertificateNames(c, src) {
		if filter.Fold(name) == e.folded || src == auth.IP && name == e.address {
			return true
		}
	}
	return false
}

// verify finds a chain from the certificate to a CA certificate of ours, which
// need not be a root, and returns how long the most durable one lasts.
func (t *trust) verify(c *certified, now time.Time) (verdict, *Denied) {
	if len(c.chain) > maxChain {
		return verdict{}, deny(Untrusted, "the certificate came with %d others, which is more than %d", len(c.chain), maxChain)
	}
	between := x509.NewCertPool()
	for _, cert := range c.chain {
		between.AddCert(cert)
	}
	chains, err := c.leaf.Verify(x509.VerifyOptions{
		Roots: t.pool, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		reason := Untrusted
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			reason = NotValidNow
		}
		return verdict{}, deny(reason, "no registered CA certificate vouches for the certificate: %v", err)
	}
	var best *x509.Certificate
	for _, chain := range chains {
		first := slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
		if best == nil || first.NotAfter.After(best.NotAfter) {
			best = first
		}
	}
	v := verdict{method: MethodCertificate, expires: best.NotAfter}
	switch name := t.nameOf(best); {
	case best == c.leaf:
		v.detail = "the client certificate expired at " + stamp(best.NotAfter)
	case name != "":
		v.detail = "the CA certificate " + name + " expired at " + stamp(best.NotAfter)
	default:
		v.detail = "a CA certificate that the client sent expired at " + stamp(best.NotAfter)
	}
	return v, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
