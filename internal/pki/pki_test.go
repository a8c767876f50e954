package pki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/clock/clocktest"
)

func names(t testing.TB, hosts ...string) Names {
	t.Helper()
	n, err := ParseNames(hosts)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func serverCA(t testing.TB, dir string, n Names, now time.Time) *Authority {
	t.Helper()
	a, err := OpenServerAuthority(dir, ECDSA, n, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestParseNames(t *testing.T) {
	n := names(t, "Broker.Example", "broker.example", "10.0.0.1", "::ffff:10.0.0.1", "127.0.0.1", "fd00::1", "localhost")
	if want := []string{"localhost", "broker.example"}; !slices.Equal(n.DNS, want) {
		t.Errorf("names %q, want %q", n.DNS, want)
	}
	var ips []string
	for _, ip := range n.IP {
		ips = append(ips, ip.String())
	}
	if want := []string{"127.0.0.1", "::1", "10.0.0.1", "fd00::1"}; !slices.Equal(ips, want) {
		t.Errorf("addresses %q, want %q", ips, want)
	}
	for _, bad := range []string{"", "*.example", "a b", "host:80", "https://host", "user@host"} {
		if _, err := ParseNames([]string{bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// What the server CA signs verifies for its names, and for no other purpose or
// name, even if somebody has the key.
func TestServerAuthority(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	n := names(t, "broker.example", "10.0.0.1")
	ca := serverCA(t, dir, n, now)
	s, err := OpenLocal(dir, []*Authority{ca}, n, clock.System{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate())
	for _, host := range []string{"localhost", "broker.example", "127.0.0.1", "::1", "10.0.0.1"} {
		if _, err := s.Leaf().Verify(x509.VerifyOptions{Roots: pool, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := s.Leaf().Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the server's certificate is good for clients")
	}
	client, _, err := ca.IssueClient("dev", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ParseCertificate(client)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the server CA vouches for a client")
	}
	for _, c := range []struct {
		dns string
		ip  net.IP
	}{{dns: "bank.example"}, {dns: "broker.example.com"}, {ip: net.IPv4(10, 0, 0, 2).To4()}} {
		forged := &x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		if c.dns != "" {
			forged.DNSNames = []string{c.dns}
		} else {
			forged.IPAddresses = []net.IP{c.ip}
		}
		cert, _, err := ca.issue(forged)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool}); err == nil {
			t.Errorf("the CA may certify %s%v", c.dns, c.ip)
		}
	}
}

func TestAuthorityIsKept(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	first := serverCA(t, dir, names(t, "broker.example"), now)
	again := serverCA(t, dir, names(t, "broker.example", "eu.broker.example"), now) // below a permitted name
	if !first.Certificate().Equal(again.Certificate()) {
		t.Error("a second start made another CA")
	}
	for _, more := range []string{"other.example", "10.0.0.1"} {
		if _, err := OpenServerAuthority(dir, ECDSA, names(t, more), now); err == nil || !strings.Contains(err.Error(), "may not certify "+more) {
			t.Errorf("%s: %v", more, err)
		}
	}
	if _, err := OpenServerAuthority(dir, ECDSA, names(t), now.Add(caLife+time.Hour)); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after its life: %v", err)
	}
	clients, err := OpenClientAuthority(dir, now)
	if err != nil || clients.Certificate().Equal(first.Certificate()) {
		t.Errorf("the client CA: %v", err)
	}
	for file, want := range map[string]os.FileMode{"server-ca.key": 0o600, "client-ca.key": 0o600, "server-ca.crt": 0o644, "client-ca.crt": 0o644} {
		st, err := os.Stat(filepath.Join(dir, file))
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %v", file, st.Mode(), err, want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.*.*")); len(left) != 0 {
		t.Errorf("temporary files are left: %q", left)
	}
}

func TestAuthorityRefusesBadFiles(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"key of another CA", func(d string) error {
			other := filepath.Join(d, "other")
			if err := os.Mkdir(other, 0o700); err != nil {
				return err
			}
			if _, err := OpenClientAuthority(other, time.Now()); err != nil {
				return err
			}
			return os.Rename(filepath.Join(other, "client-ca.key"), filepath.Join(d, "client-ca.key"))
		}, "is not the key of"},
		{"no key in the file", func(d string) error { return os.WriteFile(filepath.Join(d, "client-ca.key"), []byte("x"), 0o600) }, "no private key"},
		{"no certificate in the file", func(d string) error { return os.WriteFile(filepath.Join(d, "client-ca.crt"), []byte("x"), 0o600) }, "no certificate"},
	} {
		dir := t.TempDir()
		if _, err := OpenClientAuthority(dir, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := c.spoil(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenClientAuthority(dir, time.Now()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	// A crash between writing the key and the certificate: made anew.
	dir := t.TempDir()
	if _, err := OpenClientAuthority(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "client-ca.crt"))
	if _, err := OpenClientAuthority(dir, time.Now()); err != nil {
		t.Errorf("without its certificate: %v", err)
	}
	if _, err := OpenClientAuthority(filepath.Join(dir, "missing"), time.Now()); err == nil {
		t.Error("a directory that does not exist is no error")
	}
}

// TestAuthorityMadeBeforeTheClockWasSet: a machine without a battery may make its CA
// in 1970. Once its clock is set the CA is as good as any, and what it has signed is
// replaced.
func TestAuthorityMadeBeforeTheClockWasSet(t *testing.T) {
	dir, n := t.TempDir(), names(t)
	hand := clocktest.NewHand(time.Unix(100, 0))
	ca, err := OpenServerAuthority(dir, ECDSA, n, hand.Now())
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenLocal(dir, []*Authority{ca}, n, hand, nil)
	if err != nil {
		t.Fatal(err)
	}
	today := time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC)
	certs, err := s.reload(today)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	for _, at := range []time.Time{today, today.AddDate(1, 0, 0)} {
		if _, err := certs[0].Leaf.Verify(x509.VerifyOptions{DNSName: "localhost", Roots: roots, CurrentTime: at}); err != nil {
			t.Errorf("%v: %v", at, err)
		}
	}
	if _, err := OpenServerAuthority(dir, ECDSA, n, today.AddDate(9, 0, 0)); err != nil {
		t.Error(err)
	}
}

func TestIssueClient(t *testing.T) {
	now := time.Now()
	ca, err := OpenClientAuthority(t.TempDir(), now)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := ca.IssueClient("dev 1", now, 50*365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate())
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool}); err == nil {
		t.Error("a client's certificate is good for servers")
	}
	if pair.Leaf.Subject.CommonName != "dev 1" || !pair.Leaf.NotAfter.Equal(ca.Certificate().NotAfter) {
		t.Errorf("it is for %s and ends at %v, want the CA's end %v", pair.Leaf.Subject, pair.Leaf.NotAfter, ca.Certificate().NotAfter)
	}
}

func TestLocalCertificateIsKept(t *testing.T) {
	dir, n := t.TempDir(), names(t)
	ca := serverCA(t, dir, names(t, "broker.example"), time.Now())
	openLocal := func(n Names) *x509.Certificate {
		t.Helper()
		s, err := OpenLocal(dir, []*Authority{ca}, n, clock.System{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return s.Leaf()
	}
	first := openLocal(n)
	if !openLocal(n).Equal(first) {
		t.Error("a second start made another certificate")
	}
	more := openLocal(names(t, "broker.example"))
	if more.Equal(first) || more.VerifyHostname("broker.example") != nil {
		t.Error("a new name did not make a new certificate")
	}
	if !openLocal(n).Equal(more) {
		t.Error("fewer names made a new certificate")
	}
	// The files of a pair do not match after a crash: made anew.
	if err := writeKey(filepath.Join(dir, "server.key"), ca.key); err != nil {
		t.Fatal(err)
	}
	if openLocal(n).Equal(more) {
		t.Error("a certificate without its key was kept")
	}
	if err := os.Chmod(filepath.Join(dir, "server.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	kept := openLocal(n)
	if st, err := os.Stat(filepath.Join(dir, "server.key")); err != nil || st.Mode().Perm() != 0o600 || !openLocal(n).Equal(kept) {
		t.Errorf("a key that a volume has opened to others: %v, %v", st.Mode(), err)
	}
}

// lines is a log to look at.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

// serve runs s until the test's bubble ends, and returns its log.
func serve(t *testing.T, open func(*slog.Logger) (*Server, error)) (*Server, *lines) {
	t.Helper()
	log := new(lines)
	s, err := open(slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s, log
}

func TestLocalCertificateIsRenewed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := serverCA(t, dir, names(t), time.Now())
		made, err := OpenLocal(dir, []*Authority{ca}, names(t), clock.System{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		first := made.Leaf()
		time.Sleep(time.Until(first.NotAfter) - renewAhead - time.Hour)
		s, log := serve(t, func(l *slog.Logger) (*Server, error) {
			return OpenLocal(dir, []*Authority{ca}, names(t), clock.System{}, l)
		})
		time.Sleep(time.Hour - time.Minute)
		synctest.Wait()
		if !s.Leaf().Equal(first) {
			t.Fatal("it was renewed before its time")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s.Leaf().Equal(first) || log.count("replaced") != 1 {
			t.Fatalf("it was not renewed once: %d", log.count("replaced"))
		}
	})
}

// One CA that has expired does not keep the certificate of the other from being
// renewed.
func TestLocalCertificateIsRenewedBesideAnExpiredCA(t *testing.T) {
	dir, n := t.TempDir(), names(t)
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var cas []*Authority
	for kind, since := range map[KeyType]time.Duration{ECDSA: caLife / 2, RSA: 0} {
		ca, err := OpenServerAuthority(dir, kind, n, start.Add(since))
		if err != nil {
			t.Fatal(err)
		}
		cas = append(cas, ca)
	}
	slices.SortFunc(cas, func(a, b *Authority) int { return b.Certificate().NotAfter.Compare(a.Certificate().NotAfter) })
	s, err := OpenLocal(dir, cas, n, clocktest.NewHand(start.Add(caLife-time.Hour)), nil)
	if err != nil {
		t.Fatal(err)
	}
	later := start.Add(caLife + serverLife)
	certs, err := s.reload(later)
	if err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("what has expired: %v", err)
	}
	if len(certs) != 2 || !certs[0].Leaf.NotAfter.After(later.Add(renewAhead)) {
		t.Errorf("%d certificates", len(certs))
	}
	if certs, err := s.reload(later); certs != nil || err == nil {
		t.Errorf("again: %d certificates, %v", len(certs), err)
	}
}

// Near the CA's end a new certificate would last no longer: there is none.
func TestLocalCertificateAtTheEndOfItsCA(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := serverCA(t, dir, names(t), time.Now())
		time.Sleep(time.Until(ca.Certificate().NotAfter) - 2*time.Hour)
		s, log := serve(t, func(l *slog.Logger) (*Server, error) {
			return OpenLocal(dir, []*Authority{ca}, names(t), clock.System{}, l)
		})
		first := s.Leaf()
		if !first.NotAfter.Equal(ca.Certificate().NotAfter) {
			t.Fatalf("it ends at %v, want the CA's end", first.NotAfter)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if !s.Leaf().Equal(first) || log.count("replaced") != 0 {
			t.Fatalf("it was replaced %d times for nothing", log.count("replaced"))
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if log.count("expired") != 1 {
			t.Fatalf("the CA's end was reported %d times, want once", log.count("expired"))
		}
	})
}

func TestFilesAreFollowed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := serverCA(t, dir, names(t, "one.example", "two.example"), time.Now())
		certFile, keyFile := filepath.Join(dir, "op.crt"), filepath.Join(dir, "op.key")
		write := func(host string) {
			leaf, key, err := ca.issue(&x509.Certificate{DNSNames: []string{host}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			if err := writeKey(keyFile, key); err != nil {
				t.Fatal(err)
			}
			if err := writeFile(certFile, encodeCertificate(leaf.Raw), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write("one.example")
		s, log := serve(t, func(l *slog.Logger) (*Server, error) { return OpenFiles(certFile, keyFile, clock.System{}, l) })
		look := func() { time.Sleep(2 * lookEvery); synctest.Wait() }
		look()
		if s.Leaf().DNSNames[0] != "one.example" || log.count("replaced") != 0 {
			t.Fatalf("it presents %v, replaced %d times", s.Leaf().DNSNames, log.count("replaced"))
		}
		write("two.example")
		look()
		if s.Leaf().DNSNames[0] != "two.example" || log.count("replaced") != 1 {
			t.Fatalf("it presents %v, replaced %d times", s.Leaf().DNSNames, log.count("replaced"))
		}
		if err := os.Chmod(keyFile, 0o604); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(certFile, []byte("nonsense"), 0o644); err != nil {
			t.Fatal(err)
		}
		look()
		look()
		if s.Leaf().DNSNames[0] != "two.example" || log.count("cannot be replaced") != 1 {
			t.Fatalf("it presents %v, complained %d times", s.Leaf().DNSNames, log.count("cannot be replaced"))
		}
		config := s.TLSConfig()
		if cert, err := config.GetCertificate(nil); err != nil || cert.Leaf != s.Leaf() ||
			config.MinVersion != tls.VersionTLS12 || config.ClientAuth != tls.RequestClientCert || config.ClientCAs != nil {
			t.Errorf("the configuration is %+v, %v", config, err)
		}
		if _, err := OpenFiles(certFile, keyFile, clock.System{}, slog.New(slog.DiscardHandler)); err == nil {
			t.Error("files that cannot be used are accepted at the start")
		}
		if _, err := OpenFiles(filepath.Join(dir, "no.crt"), keyFile, clock.System{}, slog.New(slog.DiscardHandler)); err == nil {
			t.Error("a missing file is accepted at the start")
		}
	})
}
