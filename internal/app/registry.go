package app

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"runtime"
	"time"

	"rollcall/internal/config"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/pki"
	"rollcall/internal/registry"
)

// Under azure the events of a client's changes are coalesced: after three
// quiet seconds, at the latest after five.
const (
	coalesceAfter = 3 * time.Second
	coalesceCap   = 5 * time.Second
)

func (s *Server) openRegistry(ctx context.Context, ev *events) (err error) {
	a := s.cfg.Access
	o := registry.Options{
		SetAside: s.setAside,
		Engine:   s.engine, Realm: s.namespaceRealm(), Clock: s.clock, Log: s.log, Stager: changes{ev, s.log},
		Settings: registry.Settings{MaxCAs: 10},
		ClientAuthority: func(now time.Time) (*pki.Authority, error) {
			return pki.OpenClientAuthority(filepath.Join(s.cfg.Data, "pki"), now)
		},
	}
	o.Settings.Anonymous = a.Anonymous
	o.Settings.AlternativeAuthenticationNameSources = a.AuthenticationNameSources
	o.Settings.PasswordsOverPlaintext = a.PasswordsOverPlaintext
	o.Settings.Passwords = s.cfg.Profile == config.Open
	// A hash occupies a core for tens of milliseconds. Half of the cores are
	// left to everybody else, whatever flood comes in.
	o.Settings.MaxHashes = max(1, runtime.NumCPU()/2)
	if s.cfg.Profile == config.Azure {
		o.Coalesce, o.CoalesceCap = coalesceAfter, coalesceCap
	}
	s.registry, err = registry.Open(ctx, o)
	return err
}

// gatekeeper makes the registry what the broker asks for.
type gatekeeper struct{ *registry.Registry }

// Admit implements broker.Gatekeeper.
func (g gatekeeper) Admit(c broker.Credentials, later func(broker.Identity, error)) (broker.Identity, bool, error) {
	p := registry.Proof{
		ClientID: c.ClientID, UserName: c.UserName, HasUser: c.HasUser, Password: c.Password,
		Loopback: c.Info.Loopback, Confidential: c.Info.Confidential, Source: c.Info.Remote, Wanted: c.Wanted,
	}
	if host, _, err := net.SplitHostPort(c.Info.Remote); err == nil {
		p.Source = host
	}
	if t := c.Info.TLS; t != nil && len(t.PeerCertificates) > 0 {
		p.Leaf, p.Chain = t.PeerCertificates[0], t.PeerCertificates[1:]
	}
	id, known, err := g.Authenticate(p, func(id registry.Identity, err error) { later(identity(id, err)) })
	if !known {
		return broker.Identity{}, false, nil
	}
	who, err := identity(id, err)
	return who, true, err
}

// identity translates an answer of the registry.
func identity(id registry.Identity, err error) (broker.Identity, error) {
	if err != nil {
		return broker.Identity{}, refusal(err)
	}
	return broker.Identity{
		AuthenticationName: id.AuthenticationName, Method: id.Method,
		ExpiresAt: id.ExpiresAt, ExpiryDetail: id.ExpiryDetail, Standing: id.Standing,
	}, nil
}

// refusal translates why the registry turned a client down. Other errors are
// faults and stay as they are.
func refusal(err error) error {
	var d *registry.Denied
	if !errors.As(err, &d) {
		return err
	}
	code := packet.NotAuthorized
	switch d.Code {
	case registry.BadUserNameOrPassword:
		code = packet.BadUserNameOrPassword
	case registry.TooManyAttempts:
		code = packet.ConnectionRateExceeded
	case registry.ServerBusy:
		code = packet.ServerBusy
	}
	return &broker.Refusal{Code: code, Reason: string(d.Reason), Text: d.Text}
}
