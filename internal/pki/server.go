package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"rollcall/internal/clock"
)

const (
	serverLife = 397 * 24 * time.Hour
	renewAhead = 30 * 24 * time.Hour
	// lookEvery is how often certificate files are looked at for changes.
	lookEvery = 10 * time.Second
)

// Server is the certificate that listeners present. It is replaced while
// connections go on: when the operator's files change, or when ours nears its
// end.
type Server struct {
	current atomic.Pointer[[]*tls.Certificate]              // in the order of preference; at least one
	reload  func(now time.Time) ([]*tls.Certificate, error) // nil: no change; an error may say why one of several has none
	clock   clock.Clock
	log     *slog.Logger
}

// TLSConfig returns a configuration that presents the server's certificate,
// speaks TLS 1.2 and 1.3, and requests a client certificate of any issuer
// without verifying it.
func (s *Server) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequestClientCert, // the list of acceptable issuers stays empty
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			all := *s.current.Load()
			for _, c := range all {
				if len(all) == 1 || hello.SupportsCertificate(c) == nil {
					return c, nil
				}
			}
			return all[0], nil // the handshake says what is missing
		},
	}
}

// Leaf returns the certificate that is presented now, the preferred one if there
// are several.
func (s *Server) Leaf() *x509.Certificate { return (*s.current.Load())[0].Leaf }

// Run replaces the certificate when it is due, until ctx ends. A file that
// cannot be used is reported once per change, and the old certificate stays.
func (s *Server) Run(ctx context.Context) error {
	var last string
	for {
		woken := make(chan struct{})
		t := s.clock.AfterFunc(lookEvery, func() { close(woken) })
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-woken:
		}
		certs, err := s.reload(s.clock.Now())
		if err != nil && err.Error() != last {
			last = err.Error()
			s.log.Error("the server certificate cannot be replaced, the old one stays", "err", err)
		}
		if certs != nil {
			if err == nil {
				last = ""
			}
			s.current.Store(&certs)
			s.log.Info("server certificate replaced", "subject", certs[0].Leaf.Subject.String(), "expires", certs[0].Leaf.NotAfter)
		}
	}
}

// OpenFiles serves the operator's certificate (chain, leaf first) and key, and
// follows changes of the files.
func OpenFiles(certFile, keyFile string, c clock.Clock, log *slog.Logger) (*Server, error) {
	var seen [2]os.FileInfo
	load := func(now time.Time) ([]*tls.Certificate, error) {
		var infos [2]os.FileInfo
		for i, f := range []string{certFile, keyFile} {
			st, err := os.Stat(f)
			if err != nil {
				return nil, err
			}
			infos[i] = st
		}
		if seen[0] != nil && same(seen[0], infos[0]) && same(seen[1], infos[1]) {
			return nil, nil
		}
		warning, err := CheckKey(keyFile)
		if err != nil {
			return nil, err
		}
		if warning != "" {
			log.Warn("the key of the server certificate is not private", "why", warning)
		}
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("load %s and %s: %w", certFile, keyFile, err)
		}
		if now.After(cert.Leaf.NotAfter) {
			return nil, fmt.Errorf("%s expired at %s", certFile, cert.Leaf.NotAfter.Format(time.RFC3339))
		}
		seen = infos
		return []*tls.Certificate{&cert}, nil
	}
	return newServer(load, c, log)
}

func same(a, b os.FileInfo) bool {
	return a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && os.SameFile(a, b)
}

// OpenLocal serves a certificate for names from each of the CAs, in the order of
// preference: a client gets the first that it can use. They are kept in dir, made
// the first time and whenever one no longer fits or nears its end. The CA is not
// sent along: who trusts it has it, and small devices may not be able to read it.
func OpenLocal(dir string, cas []*Authority, names Names, c clock.Clock, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	all := make([]*local, len(cas))
	for i, ca := range cas {
		all[i] = &local{
			certFile: filepath.Join(dir, "server"+ca.kind().suffix()+".crt"), keyFile: filepath.Join(dir, "server"+ca.kind().suffix()+".key"),
			ca: ca, names: names,
		}
	}
	return newServer(func(now time.Time) ([]*tls.Certificate, error) {
		var certs []*tls.Certificate
		var failed error
		changed := false
		for _, l := range all {
			replaced, err := l.load(now)
			if l.current == nil {
				return nil, err
			}
			failed = errors.Join(failed, err) // the others are replaced all the same
			changed = changed || replaced
			certs = append(certs, l.current)
		}
		if !changed {
			return nil, failed
		}
		return certs, failed
	}, c, log)
}

// local is a certificate that a CA of ours signs.
type local struct {
	certFile, keyFile string
	ca                *Authority
	names             Names
	current           *tls.Certificate
}

// load sees that there is a certificate that is good at now, and reports whether
// it is another one than before.
func (l *local) load(now time.Time) (replaced bool, err error) {
	if l.current != nil && !due(l.current.Leaf, l.ca, now) {
		return false, nil
	}
	if l.current == nil {
		err := Tighten(l.keyFile, 0o600)
		switch {
		case err == nil:
			cert, err := tls.LoadX509KeyPair(l.certFile, l.keyFile)
			if err == nil && fits(cert.Leaf, l.ca, l.names, now) {
				cert.Certificate = cert.Certificate[:1]
				l.current = &cert
				return true, nil
			}
		case !errors.Is(err, os.ErrNotExist):
			return false, err
		}
	}
	if ca := l.ca.cert; now.After(ca.NotAfter) {
		return false, fmt.Errorf("the CA %s expired at %s", ca.Subject.CommonName, ca.NotAfter.Format(time.RFC3339))
	}
	leaf, key, err := l.ca.issue(&x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Rollcall"}, CommonName: l.names.DNS[0]},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(serverLife),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    l.names.DNS, IPAddresses: l.names.IP,
	})
	if err != nil {
		return false, fmt.Errorf("make a server certificate: %w", err)
	}
	if err := writeKey(l.keyFile, key); err != nil {
		return false, err
	}
	if err := writeFile(l.certFile, encodeCertificate(leaf.Raw), 0o644); err != nil {
		return false, err
	}
	l.current = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	return true, nil
}

func newServer(load func(time.Time) ([]*tls.Certificate, error), c clock.Clock, log *slog.Logger) (*Server, error) {
	s := &Server{reload: load, clock: c, log: log}
	certs, err := load(c.Now())
	if err != nil {
		return nil, err
	}
	s.current.Store(&certs)
	return s, nil
}

// due reports whether leaf nears its end, unless that is the CA's own, which a
// new certificate would not outlive either.
func due(leaf *x509.Certificate, ca *Authority, now time.Time) bool {
	if leaf.NotAfter.Equal(ca.cert.NotAfter) {
		return now.After(leaf.NotAfter)
	}
	return !now.Add(renewAhead).Before(leaf.NotAfter)
}

// fits reports whether leaf still does: signed by ca, for all names, not due
// to be replaced.
func fits(leaf *x509.Certificate, ca *Authority, names Names, now time.Time) bool {
	if leaf.CheckSignatureFrom(ca.cert) != nil || due(leaf, ca, now) {
		return false
	}
	for _, d := range names.DNS {
		if !slices.Contains(leaf.DNSNames, d) {
			return false
		}
	}
	for _, ip := range names.IP {
		if !slices.ContainsFunc(leaf.IPAddresses, func(have net.IP) bool { return have.Equal(ip) }) {
			return false
		}
	}
	return true
}
