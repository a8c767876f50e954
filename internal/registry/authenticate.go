package registry

import (
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
	// Wanted, which may be nil, is asked before what is costly. An error means
	// that nobody waits for the answer any more, and becomes the answer. It does
	// not block.
	Wanted func() error
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
// that shows nothing at all is anonymous. It does not block: it returns the
// answer, or false and then calls later once with it, on another goroutine,
// which must not be held. Only a password, which has to be hashed, makes it so.
//
// The caller asks the Identity's Standing once it can be reached by OnChange, so
// that no change is missed. The error is a *Denied, or else a fault of the
// server, or that of Wanted.
func (r *Registry) Authenticate(p Proof, later func(Identity, error)) (id Identity, known bool, err error) {
	method := MethodAnonymous
	named, secret := p.HasUser && p.UserName != "", len(p.Password) > 0
	switch {
	case p.Leaf != nil:
		var denied *Denied
		method = MethodCertificate
		if id, denied = r.byCertificate(p); denied == nil {
			method = id.Method
			break
		}
		if named && secret && r.set.Passwords {
			return r.byPassword(p, later)
		}
		err = denied
	case secret:
		return r.byPassword(p, later)
	case named:
		method, err = "none", deny(NoProof, "user name %.128q came without password or certificate", p.UserName)
	default:
		id, err = r.byNothing(p)
	}
	id, err = r.judged(method, id, err)
	return id, true, err
}

// judged counts an answer and returns it, unless the registry has changed
// meanwhile.
func (r *Registry) judged(method string, id Identity, err error) (Identity, error) {
	if err == nil {
		if changed := id.Standing(); changed != nil {
			id, err = Identity{}, deny(Changed, "%v", changed)
		}
	}
	r.metrics.count(method, err)
	return id, err
}

// byPassword judges user name and password, as Authenticate does.
func (r *Registry) byPassword(p Proof, later func(Identity, error)) (Identity, bool, error) {
	var v *view
	var e *entry
	answer := func(ok bool, err error) (Identity, error) {
		id := Identity{}
		if err = r.passwordVerdict(&p, e, ok, err); err == nil {
			id = Identity{
				AuthenticationName: e.AuthenticationName, ClientName: e.Name, Method: MethodPassword,
				Standing: r.passwordStanding(v, e),
			}
		}
		return r.judged(MethodPassword, id, err)
	}
	var ok, known bool
	err := r.passwordPermitted(&p)
	if known = err != nil; !known {
		v = r.view.Load()
		e = v.byName(p.UserName)
		ok, known, err = r.passwords.check(e, p.UserName, p.Source, p.Password, p.Wanted, func(ok bool, err error) {
			later(answer(ok, err))
		})
	}
	if !known {
		return Identity{}, false, nil
	}
	id, err := answer(ok, err)
	return id, true, err
}

// passwordPermitted reports why a password may not be judged at all.
func (r *Registry) passwordPermitted(p *Proof) error {
	switch {
	case !r.set.Passwords:
		return deny(NoPasswords, "passwords are not accepted")
	case !p.Confidential && !p.Loopback && !r.set.PasswordsOverPlaintext:
		return deny(Plaintext, "the password came over a connection without TLS")
	case !p.HasUser || p.UserName == "":
		return &Denied{BadUserNameOrPassword, NoName, "a password came without a user name"}
	}
	return nil
}

// passwordVerdict says what the check of a password means.
func (r *Registry) passwordVerdict(p *Proof, e *entry, ok bool, err error) error {
	var denied *Denied
	switch {
	case errors.As(err, &denied):
		return denied
	case errors.Is(err, errLimited):
		return &Denied{TooManyAttempts, Limited, fmt.Sprintf("too many wrong passwords for %.128q or from %q", p.UserName, p.Source)}
	case errors.Is(err, auth.ErrBusy):
		return &Denied{ServerBusy, Busy, "too many passwords are being checked"}
	case err != nil:
		return fmt.Errorf("check the password of client %.128q: %w", p.UserName, err)
	case !ok:
		return &Denied{BadUserNameOrPassword, WrongSecret, fmt.Sprintf("no client %.128q with that password", p.UserName)}
	case e.State != Enabled:
		return deny(IsDisabled, "client %s is disabled", e.Name)
	}
	return nil
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
