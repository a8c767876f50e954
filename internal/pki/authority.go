// Package pki makes and keeps the certificates that Rollcall needs to work at
// once: a name-constrained CA and the server certificate under it, and a
// separate CA that signs clients for quick starts. The server's CA never signs
// clients. Private keys are files of mode 0600 in a directory of mode 0700.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rollcall/internal/atomicfile"
	"rollcall/internal/clock"
)

const (
	caLife = 10 * 365 * 24 * time.Hour
	// backdate makes certificates valid on machines whose clock is behind.
	backdate = time.Hour
)

// Authority is a CA whose key we hold. It may be used concurrently.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Certificate returns the CA's certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// PEM returns the CA's certificate in PEM.
func (a *Authority) PEM() []byte { return encodeCertificate(a.cert.Raw) }

// Names are what a server certificate stands for.
type Names struct {
	DNS []string
	IP  []net.IP
}

// ParseNames sorts host names and addresses. "localhost", 127.0.0.1 and ::1
// are always among the result.
func ParseNames(hosts []string) (Names, error) {
	n := Names{DNS: []string{"localhost"}, IP: []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			if v4 := ip.To4(); v4 != nil {
				ip = v4
			}
			if !slices.ContainsFunc(n.IP, ip.Equal) {
				n.IP = append(n.IP, ip)
			}
			continue
		}
		if h == "" || strings.ContainsAny(h, "/:@ *") {
			return n, fmt.Errorf("%q is neither a host name nor an IP address", h)
		}
		if h = strings.ToLower(h); !slices.Contains(n.DNS, h) {
			n.DNS = append(n.DNS, h)
		}
	}
	return n, nil
}

// KeyType is a type of keys.
type KeyType string

// The types of keys that certificates of ours may have.
const (
	ECDSA KeyType = "ecdsa" // P-256
	RSA   KeyType = "rsa"   // 2,048 bits, for clients that know nothing else
)

func (k KeyType) generate() (crypto.Signer, error) {
	if k == RSA {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// suffix tells files of the key type from those of ECDSA.
func (k KeyType) suffix() string {
	if k == RSA {
		return "-rsa"
	}
	return ""
}

// OpenServerAuthority returns the CA for server certificates of a type of keys
// kept in dir, making it the first time. It may certify only the given names and
// addresses, names below those names, and loopback addresses; if the CA in dir
// does not permit them all, that is an error that says what to do.
//
// The constraints are not critical, against RFC 5280, 4.2.1.10: stacks for small
// devices that do not know them refuse a CA with critical ones altogether, while
// those that know them obey either way.
func OpenServerAuthority(dir string, kind KeyType, names Names, now time.Time) (*Authority, error) {
	file := "server-ca" + kind.suffix()
	a, err := openAuthority(dir, file, kind, now, func(t *x509.Certificate) {
		t.Subject.CommonName = "Rollcall local server CA"
		if kind == RSA {
			t.Subject.CommonName = "Rollcall local server CA (RSA)"
		}
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		t.PermittedDNSDomains = names.DNS
		t.PermittedIPRanges = []*net.IPNet{
			{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)},
		}
		for _, ip := range names.IP {
			if v4 := ip.To4(); v4 == nil || v4[0] != 127 {
				t.PermittedIPRanges = append(t.PermittedIPRanges, host(ip))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for _, d := range names.DNS {
		if !slices.ContainsFunc(a.cert.PermittedDNSDomains, func(p string) bool {
			return d == p || strings.HasSuffix(d, "."+p)
		}) {
			return nil, notPermitted(dir, file, d)
		}
	}
	for _, ip := range names.IP {
		if !slices.ContainsFunc(a.cert.PermittedIPRanges, func(n *net.IPNet) bool { return n.Contains(ip) }) {
			return nil, notPermitted(dir, file, ip.String())
		}
	}
	return a, nil
}

func notPermitted(dir, file, name string) error {
	return fmt.Errorf("the CA in %s may not certify %s; remove %s and %s to have a new CA made (clients must then trust the new one)",
		dir, name, filepath.Join(dir, file+".crt"), filepath.Join(dir, file+".key"))
}

func host(ip net.IP) *net.IPNet {
	bits := len(ip) * 8
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, bits)}
}

// OpenClientAuthority returns the CA for quick-start client certificates kept
// in dir, making it the first time.
func OpenClientAuthority(dir string, now time.Time) (*Authority, error) {
	return openAuthority(dir, "client-ca", ECDSA, now, func(t *x509.Certificate) {
		t.Subject.CommonName = "Rollcall quick-start client CA"
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
}

func openAuthority(dir, name string, kind KeyType, now time.Time, shape func(*x509.Certificate)) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	a, err := readAuthority(certFile, keyFile)
	if err == nil {
		if now.After(a.cert.NotAfter) {
			return nil, fmt.Errorf("the CA in %s expired at %s; remove it and its key to have a new one made", certFile, a.cert.NotAfter.Format(time.RFC3339))
		}
		return a, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := kind.generate()
	if err != nil {
		return nil, err
	}
	until := now.Add(caLife)
	if now.Before(clock.Unset) { // it is known later what time it was
		until = clock.Unset.Add(2 * caLife)
	}
	t := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Rollcall"}},
		NotBefore: now.Add(-backdate), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	shape(t)
	a = &Authority{key: key}
	if a.cert, err = a.sign(t, t, key.Public()); err != nil {
		return nil, err
	}
	// The key first: a certificate without its key would be of no use.
	if err := writeKey(keyFile, key); err != nil {
		return nil, err
	}
	return a, writeFile(certFile, a.PEM(), 0o644)
}

func readAuthority(certFile, keyFile string) (*Authority, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s; put the right one back, or remove both to have a new CA made", keyFile, certFile)
	}
	return &Authority{cert: cert, key: key}, nil
}

// sign makes a certificate from t for the public key.
func (a *Authority) sign(t, parent *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// kind is the type of the CA's key.
func (a *Authority) kind() KeyType {
	if _, ok := a.key.(*rsa.PrivateKey); ok {
		return RSA
	}
	return ECDSA
}

// issue signs a leaf with a fresh key of the CA's type.
func (a *Authority) issue(t *x509.Certificate) (*x509.Certificate, crypto.Signer, error) {
	key, err := a.kind().generate()
	if err != nil {
		return nil, nil, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.BasicConstraintsValid = true
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	cert, err := a.sign(t, a.cert, key.Public())
	return cert, key, err
}

// IssueClient signs a client certificate whose subject common name is name,
// valid for life from now, and returns certificate and private key in PEM.
func (a *Authority) IssueClient(name string, now time.Time, life time.Duration) (certPEM, keyPEM []byte, err error) {
	cert, key, err := a.issue(&x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("sign a certificate for client %s: %w", name, err)
	}
	keyPEM, err = encodeKey(key)
	return encodeCertificate(cert.Raw), keyPEM, err
}

// ParseCertificate returns the first certificate in PEM text.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New("no certificate in PEM found")
		}
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
		text = rest
	}
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func writeKey(file string, key crypto.PrivateKey) error {
	text, err := encodeKey(key)
	if err != nil {
		return err
	}
	return writeFile(file, text, 0o600)
}

// readKey reads a private key of ours.
func readKey(file string) (crypto.Signer, error) {
	if err := Tighten(file, 0o600); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: no private key in PEM found", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a key of type %T cannot sign", file, key)
	}
	return signer, nil
}

// writeFile replaces file as a whole, durably.
func writeFile(file string, data []byte, mode fs.FileMode) error {
	return atomicfile.Write(file, data, mode)
}
