package registry

import (
	"context"
	"fmt"
	"time"

	"rollcall/internal/fault"
	"rollcall/internal/pki"
)

// QuickStartCA is the name of the CA certificate resource that vouches for
// certificates made by IssueCertificate.
const QuickStartCA = "rollcall-quickstart"

// Bounds of an issued certificate's life.
const (
	minLife = time.Minute
	maxLife = 10 * 365 * 24 * time.Hour
)

// IssueCertificate makes a certificate and its private key, both in PEM, with
// which a client can connect from now on, for life (1 minute to 10 years, and
// no longer than the CA's). It changes nothing on the client, whose scheme must
// be SubjectMatchesAuthenticationName; the CA certificate is registered as
// QuickStartCA if it is not there, also after it was deleted. The key is not
// kept. Errors are fault.Errors: NotFound, InvalidRequest, Conflict, and those
// of PutCA.
func (r *Registry) IssueCertificate(ctx context.Context, client string, life time.Duration) (certPEM, keyPEM []byte, err error) {
	e, err := r.view.Load().client(client)
	switch {
	case err != nil:
		return nil, nil, err
	case e.ValidationScheme != SubjectMatches:
		return nil, nil, fault.New(fault.Conflict,
			"The client '%s' has the validation scheme %s; certificates can be issued for %s only.", client, e.ValidationScheme, SubjectMatches)
	case life < minLife || life > maxLife:
		return nil, nil, fault.At("life", "%v is not between %v and %v.", life, minLife, maxLife)
	}
	now := r.clock.Now()
	a, err := r.clientAuthority(now)
	if err != nil {
		return nil, nil, err
	}
	if err := r.trustAuthority(ctx, a); err != nil {
		return nil, nil, err
	}
	return a.IssueClient(e.AuthenticationName, now, life)
}

// clientAuthority opens the client CA the first time.
func (r *Registry) clientAuthority(now time.Time) (*pki.Authority, error) {
	if r.openCA == nil {
		return nil, fault.New(fault.Conflict, "This server issues no client certificates.")
	}
	r.caMu.Lock()
	defer r.caMu.Unlock()
	if r.authority == nil {
		a, err := r.openCA(now)
		if err != nil {
			return nil, fmt.Errorf("open the client CA: %w", err)
		}
		r.authority = a
	}
	if now.After(r.authority.Certificate().NotAfter) {
		return nil, fault.New(fault.Conflict, "The client CA has expired; remove its files to have a new one made at the next start.")
	}
	return r.authority, nil
}

// trustAuthority registers the client CA unless it is.
func (r *Registry) trustAuthority(ctx context.Context, a *pki.Authority) error {
	for range attempts {
		if have := r.view.Load().trust.get(QuickStartCA); have != nil {
			if have.cert.Equal(a.Certificate()) {
				return nil
			}
			return fault.New(fault.Conflict,
				"The CA certificate '%s' is not the client CA's; delete it first.", QuickStartCA)
		}
		_, _, err := r.PutCA(ctx, QuickStartCA, CASpec{
			Description: "Signs certificates for quick starts.", EncodedCertificate: string(a.PEM()),
		}, Condition{Absent: true})
		f, ok := fault.As(err)
		if err == nil || !ok || f.Code != fault.PreconditionFailed {
			return err
		}
	}
	return raced("CA certificate", QuickStartCA)
}
