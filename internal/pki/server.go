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
	current atomic.Pointer[tls.Certificate]
	reload  func(now time.Time) (*tls.Certificate, error) // nil, nil: no change
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
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.current.Load(), nil
		},
	}
}

// Leaf returns the certificate presented now.
func (s *Server) Leaf() *x509.Certificate { return s.current.Load().Leaf }

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
		cert, err := s.reload(s.clock.Now())
		switch {
		case err != nil && err.Error() != last:
			last = err.Error()
			s.log.Error("the server certificate cannot be replaced, the old one stays", "err", err)
		case err == nil && cert != nil:
			last = ""
			s.current.Store(cert)
			s.log.Info("server certificate replaced", "subject", cert.Leaf.Subject.String(), "expires", cert.Leaf.NotAfter)
		}
	}
}

// OpenFiles serves the operator's certificate (chain, leaf first) and key, and
// follows changes of the files.
func OpenFiles(certFile, keyFile string, c clock.Clock, log *slog.Logger) (*Server, error) {
	var seen [2]os.FileInfo
	load := func(now time.Time) (*tls.Certificate, error) {
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
		if err := CheckPrivate(keyFile); err != nil {
			return nil, err
		}
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("load %s and %s: %w", certFile, keyFile, err)
		}
		if now.After(cert.Leaf.NotAfter) {
			return nil, fmt.Errorf("%s expired at %s", certFile, cert.Leaf.NotAfter.Format(time.RFC3339))
		}
		seen = infos
		return &cert, nil
	}
	return newServer(load, c, log)
}

func same(a, b os.FileInfo) bool {
	return a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && os.SameFile(a, b)
}

// OpenLocal serves a certificate for names that the CA signs, kept in dir,
// made the first time and whenever it no longer fits or nears its end.
func OpenLocal(dir string, ca *Authority, names Names, c clock.Clock, log *slog.Logger) (*Server, error) {
	certFile, keyFile := filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	var current *x509.Certificate
	load := func(now time.Time) (*tls.Certificate, error) {
		if current != nil && !due(current, ca, now) {
			return nil, nil
		}
		if current == nil {
			if err := CheckPrivate(keyFile); err == nil {
				cert, err := tls.LoadX509KeyPair(certFile, keyFile)
				if err == nil && fits(cert.Leaf, ca, names, now) {
					current = cert.Leaf
					return &cert, nil
				}
			} else if !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
		}
		if now.After(ca.cert.NotAfter) {
			return nil, fmt.Errorf("the CA %s expired at %s", ca.cert.Subject.CommonName, ca.cert.NotAfter.Format(time.RFC3339))
		}
		leaf, key, err := ca.issue(&x509.Certificate{
			Subject:   pkix.Name{Organization: []string{"Rollcall"}, CommonName: names.DNS[0]},
			NotBefore: now.Add(-backdate), NotAfter: now.Add(serverLife),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			DNSNames:    names.DNS, IPAddresses: names.IP,
		})
		if err != nil {
			return nil, fmt.Errorf("make a server certificate: %w", err)
		}
		if err := writeKey(keyFile, key); err != nil {
			return nil, err
		}
		if err := writeFile(certFile, append(encodeCertificate(leaf.Raw), ca.PEM()...), 0o644); err != nil {
			return nil, err
		}
		current = leaf
		return &tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
	}
	return newServer(load, c, log)
}

func newServer(load func(time.Time) (*tls.Certificate, error), c clock.Clock, log *slog.Logger) (*Server, error) {
	s := &Server{reload: load, clock: c, log: log}
	cert, err := load(c.Now())
	if err != nil {
		return nil, err
	}
	s.current.Store(cert)
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
