package registry

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"rollcall/internal/auth"
)

// Proof is what a client shows when it connects.
type Proof struct {
	ClientID string
	UserName string
	HasUser  bool
	Password []byte // nil: none
	// Leaf is the client's certificate, of which the TLS handshake has proved
	// that the client has the key; nil: none. Chain is what came with it.
	Leaf  *x509.Certificate
	Chain []*x509.Certificate
	// Loopback: both ends are on loopback and nothing was forwarded.
	Loopback bool
	// Confidential: the bytes are protected by TLS.
	Confidential bool
	// Source is where the client comes from, without a port; wrong passwords
	// are counted by it. Empty: unknown.
	Source string
}

// How an identity was proved.
const (
	MethodCertificate = "certificate" // signed by a registered CA
	MethodThumbprint  = "thumbprint"
	MethodPassword    = "password"
	MethodAnonymous   = "anonymous"
)

// Identity is a client that may connect.
type Identity struct {
	AuthenticationName string    // in its original case; the client id if anonymous
	ClientName         string    // of the resource; empty if anonymous
	Method             string    // one of the Method constants
	ExpiresAt          time.Time // when the proof ends; zero: never
	ExpiryDetail       string    // what ends then
	// Standing reports whether the client would still be admitted: nil, or an
	// error that says what has changed. It takes no lock, does no I/O, costs
	// next to nothing while nothing has changed, and may be called concurrently.
	Standing func() error
}

// Code is what a client that is refused is told.
type Code uint8

// The codes.
const (
	NotAuthorized         Code = iota + 1 // the proof is not good enough
	BadUserNameOrPassword                 // the password is wrong, or nobody has that name
	TooManyAttempts                       // too many wrong passwords lately
	ServerBusy                            // too many passwords are being checked
)

// Reason is why a client is refused: a closed set, for counting.
type Reason string

// The reasons.
const (
	NoName      Reason = "no_name"       // neither user name nor certificate gives a name
	NoProof     Reason = "no_proof"      // a user name alone
	Unknown     Reason = "unknown"       // no client has that authentication name
	IsDisabled  Reason = "disabled"      // the client is disabled
	Mismatch    Reason = "mismatch"      // the certificate's field is not the name
	WrongThumb  Reason = "thumbprint"    // no allowed thumbprint is the certificate's
	Untrusted   Reason = "untrusted"     // no registered CA vouches for the certificate
	NotValidNow Reason = "validity"      // the certificate, or its CA's, is not valid now
	NoPasswords Reason = "no_passwords"  // passwords are not accepted
	Plaintext   Reason = "plaintext"     // the password came unprotected
	WrongSecret Reason = "password"      // wrong password, or nobody has that name
	Limited     Reason = "limited"       // too many wrong passwords
	Busy        Reason = "busy"          // no turn at the hash
	NoAnonymous Reason = "not_anonymous" // proof is wanted
	Reserved    Reason = "reserved"      // an anonymous client has a registered name
	Changed     Reason = "changed"       // the registry changed during the judgement
)

// Denied is why a client may not connect.
type Denied struct {
	Code   Code
	Reason Reason
	Text   string // for the log; names no secret
}

// Error implements error.
func (d *Denied) Error() string { return d.Text }

func deny(r Reason, format string, args ...any) *Denied {
	return &Denied{Code: NotAuthorized, Reason: r, Text: fmt.Sprintf(format, args...)}
}

// Authenticate judges the proof of a client that connects: its certificate if
// it shows one, and else, or if that is not good enough, its password; a client
// that shows nothing at all is anonymous. The caller asks the Identity's
// Standing once it can be reached by OnChange, so that no change is missed.
// Only a password may block, until ctx ends. The error is a *Denied, or else a
// fault of the server.
func (r *Registry) Authenticate(ctx context.Context, p Proof) (Identity, error) {
	id, method, err := r.judge(ctx, p)
	if err == nil {
		if changed := id.Standing(); changed != nil { // while the password was checked
			id, err = Identity{}, deny(Changed, "%v", changed)
		}
	}
	r.metrics.count(method, err)
	return id, err
}

func (r *Registry) judge(ctx context.Context, p Proof) (Identity, string, error) {
	named, secret := p.HasUser && p.UserName != "", len(p.Password) > 0
	switch {
	case p.Leaf != nil:
		id, denied := r.byCertificate(p)
		if denied == nil {
			return id, id.Method, nil
		}
		if named && secret && r.set.Passwords {
			id, err := r.byPassword(ctx, p)
			return id, MethodPassword, err
		}
		return Identity{}, MethodCertificate, denied
	case secret:
		id, err := r.byPassword(ctx, p)
		return id, MethodPassword, err
	case named:
		return Identity{}, "none", deny(NoProof, "user name %.128q came without password or certificate", p.UserName)
	}
	id, err := r.byNothing(p)
	return id, MethodAnonymous, err
}

// byPassword judges user name and password.
func (r *Registry) byPassword(ctx context.Context, p Proof) (Identity, error) {
	switch {
	case !r.set.Passwords:
		return Identity{}, deny(NoPasswords, "passwords are not accepted")
	case !p.Confidential && !p.Loopback && !r.set.PasswordsOverPlaintext:
		return Identity{}, deny(Plaintext, "the password came over a connection without TLS")
	case !p.HasUser || p.UserName == "":
		return Identity{}, &Denied{BadUserNameOrPassword, NoName, "a password came without a user name"}
	}
	v := r.view.Load()
	e := v.byName(p.UserName)
	ok, err := r.passkeys.check(ctx, e, p.UserName, p.Source, p.Password)
	switch {
	case errors.Is(err, errLimited):
		return Identity{}, &Denied{TooManyAttempts, Limited, fmt.Sprintf("too many wrong passwords for %.128q or from %q", p.UserName, p.Source)}
	case errors.Is(err, auth.ErrBusy):
		return Identity{}, &Denied{ServerBusy, Busy, "too many passwords are being checked"}
	case err != nil:
		return Identity{}, fmt.Errorf("check the password of client %.128q: %w", p.UserName, err)
	case !ok:
		return Identity{}, &Denied{BadUserNameOrPassword, WrongSecret, fmt.Sprintf("no client %.128q with that password", p.UserName)}
	case e.State != Enabled:
		return Identity{}, deny(IsDisabled, "client %s is disabled", e.Name)
	}
	return Identity{
		AuthenticationName: e.AuthenticationName, ClientName: e.Name, Method: MethodPassword,
		Standing: r.passwordStanding(v, e),
	}, nil
}

// byNothing judges a client that shows neither user name nor password nor
// certificate.
func (r *Registry) byNothing(p Proof) (Identity, error) {
	switch {
	case r.set.Anonymous == AnonymousAll, r.set.Anonymous == AnonymousLoopback && p.Loopback:
	case r.set.Anonymous == AnonymousLoopback:
		return Identity{}, deny(NoAnonymous, "clients from beyond loopback must prove who they are")
	default:
		return Identity{}, deny(NoAnonymous, "clients must prove who they are")
	}
	if p.ClientID == "" {
		return Identity{}, deny(NoName, "an anonymous client needs a client id")
	}
	v := r.view.Load()
	if e := v.byName(p.ClientID); e != nil {
		return Identity{}, deny(Reserved, "client id %.128q is the authentication name of client %s, which must prove who it is", p.ClientID, e.Name)
	}
	return Identity{
		AuthenticationName: p.ClientID, Method: MethodAnonymous, Standing: r.anonymousStanding(v, p.ClientID),
	}, nil
}
