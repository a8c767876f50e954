package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func selfSigned(t testing.TB, shape func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	shape(c)
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificateNames(t *testing.T) {
	u, _ := url.Parse("spiffe://fleet/Device1")
	full := selfSigned(t, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "dev, one", Organization: []string{"Acme"}, Country: []string{"DE"}}
		c.DNSNames = []string{"one.example", "two.example"}
		c.EmailAddresses = []string{"one@example.com"}
		c.URIs = []*url.URL{u}
		c.IPAddresses = []net.IP{net.ParseIP("10.0.0.1"), net.ParseIP("2001:db8:0:0::1")}
	})
	bare := selfSigned(t, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "dev1"} })
	none := selfSigned(t, func(c *x509.Certificate) {})
	for _, c := range []struct {
		cert *x509.Certificate
		src  Source
		want []string
	}{
		{full, Subject, []string{
			`CN=dev\, one,O=Acme,C=DE`, `CN=dev\, one, O=Acme, C=DE`,
			`C=DE,O=Acme,CN=dev\, one`, `C=DE, O=Acme, CN=dev\, one`, "dev, one",
		}},
		{full, DNS, []string{"one.example", "two.example"}},
		{full, Email, []string{"one@example.com"}},
		{full, URI, []string{"spiffe://fleet/Device1"}},
		{full, IP, []string{"10.0.0.1", "2001:db8::1"}},
		{bare, Subject, []string{"CN=dev1", "dev1"}},
		{bare, DNS, nil}, {bare, Email, nil}, {bare, URI, nil}, {bare, IP, nil},
		{none, Subject, nil},
	} {
		if got := CertificateNames(c.cert, c.src); !slices.Equal(got, c.want) {
			t.Errorf("%s of %s: got %q, want %q", c.src, c.cert.Subject, got, c.want)
		}
	}
}

func TestParseSource(t *testing.T) {
	for _, s := range Sources() {
		if got, ok := ParseSource(strings.ToUpper(string(s))); !ok || got != s {
			t.Errorf("ParseSource(%q) = %q, %v", strings.ToUpper(string(s)), got, ok)
		}
	}
	if _, ok := ParseSource("ClientCertificateSerial"); ok {
		t.Error("an unknown source is accepted")
	}
}

func TestCanonicalAddress(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1": "10.0.0.1", "::ffff:10.0.0.1": "10.0.0.1", "2001:DB8:0:0:0::1": "2001:db8::1",
		"dev1": "", "10.0.0.1:80": "", "fe80::1%eth0": "", "": "", "010.0.0.1": "",
	} {
		if got, ok := CanonicalAddress(in); got != want || ok != (want != "") {
			t.Errorf("CanonicalAddress(%q) = %q, %v, want %q", in, got, ok, want)
		}
	}
}

func TestThumbprint(t *testing.T) {
	cert := selfSigned(t, func(c *x509.Certificate) { c.Subject.CommonName = "x" })
	other := selfSigned(t, func(c *x509.Certificate) { c.Subject.CommonName = "x" })
	s1, s256 := sha1.Sum(cert.Raw), sha256.Sum256(cert.Raw)
	long, short := hex.EncodeToString(s256[:]), hex.EncodeToString(s1[:])
	var colons []string
	for i := 0; i < len(long); i += 2 {
		colons = append(colons, long[i:i+2])
	}
	for _, s := range []string{long, short, strings.ToUpper(long), strings.ToUpper(short), strings.Join(colons, ":"), strings.Join(colons, " ")} {
		p, ok := ParseThumbprint(s)
		if !ok || !p.Matches(cert) || p.Matches(other) {
			t.Errorf("%q: parsed %v, matches its certificate %v, another %v", s, ok, p.Matches(cert), p.Matches(other))
		}
	}
	for _, s := range []string{"", "ab", long[1:], long + "0", long + "00", strings.Replace(long, long[:1], "g", 1), short + "0", "0x" + short, strings.Repeat("é", 32)} {
		if _, ok := ParseThumbprint(s); ok {
			t.Errorf("%q is accepted", s)
		}
	}
	if (Thumbprint{}).Matches(cert) {
		t.Error("the zero thumbprint matches")
	}
}

func FuzzParseThumbprint(f *testing.F) {
	f.Add(strings.Repeat("Ab:", 32))
	f.Add(strings.Repeat("0 ", 40))
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := ParseThumbprint(s)
		if !ok {
			return
		}
		if again, ok := ParseThumbprint(p.String()); !ok || again != p {
			t.Fatalf("%q reads as %s, which does not read back", s, p)
		}
	})
}

func FuzzCanonicalAddress(f *testing.F) {
	f.Add("::ffff:1.2.3.4")
	f.Add("2001:DB8::1")
	f.Fuzz(func(t *testing.T, s string) {
		a, ok := CanonicalAddress(s)
		if !ok {
			return
		}
		if again, ok := CanonicalAddress(a); !ok || again != a {
			t.Fatalf("%q is %q, whose canonical form is %q", s, a, again)
		}
	})
}

// A common name that spells a distinguished name is not one.
func TestCommonNameThatSpellsADistinguishedName(t *testing.T) {
	for cn, counts := range map[string]bool{
		"CN=dev1,O=Acme": false, "cn=dev1, o=Acme": false, "O=Acme,CN=dev1": false, "1.2.840.113549.1.9.1=#1301": false,
		" OU = x": false, "dev1": true, "dev=1": true, "=": false, "a,O=Acme": true,
	} {
		c := selfSigned(t, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: cn} })
		if got := slices.Contains(CertificateNames(c, Subject), cn); got != counts {
			t.Errorf("the CN %q counts as a name: %v, want %v", cn, got, counts)
		}
	}
}
