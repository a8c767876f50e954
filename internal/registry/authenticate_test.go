package registry

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"testing"
	"time"
)

func uri(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// all the sources, in an order in which each is asked after one that is empty.
var everySource = []string{
	"ClientCertificateDns", "ClientCertificateUri", "ClientCertificateIp", "ClientCertificateEmail", "ClientCertificateSubject",
}

// Every scheme, with the name from the user name and from the certificate.
func TestSchemes(t *testing.T) {
	root := newIssuer(t, nil, "root")
	stranger := newIssuer(t, nil, "root") // of the same name
	r := open(t, Options{Settings: Settings{AlternativeAuthenticationNameSources: everySource}})
	putCA(t, r, "root", root)
	for _, c := range []struct {
		scheme Scheme
		name   string // authentication name
		shape  func(*x509.Certificate)
		want   Reason // "": admitted
	}{
		{SubjectMatches, "sub1", func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "SUB1"} }, ""},
		{SubjectMatches, "CN=sub2,O=Acme", func(c *x509.Certificate) {
			c.Subject = pkix.Name{CommonName: "sub2", Organization: []string{"Acme"}}
		}, ""},
		{SubjectMatches, "cn=sub3, o=acme", func(c *x509.Certificate) {
			c.Subject = pkix.Name{CommonName: "sub3", Organization: []string{"Acme"}}
		}, ""},
		{SubjectMatches, "sub4", func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "sub4x"} }, Mismatch},
		{SubjectMatches, "sub5", func(c *x509.Certificate) { c.DNSNames = []string{"sub5"} }, Mismatch},
		{DNSMatches, "dns1.example", func(c *x509.Certificate) { c.DNSNames = []string{"x.example", "DNS1.Example"} }, ""},
		{DNSMatches, "dns2.example", func(c *x509.Certificate) { c.DNSNames = []string{"*.example"} }, Mismatch},
		{DNSMatches, "dns3.example", func(c *x509.Certificate) { c.Subject.CommonName = "dns3.example" }, Mismatch},
		{URIMatches, "spiffe://fleet/uri1", func(c *x509.Certificate) { c.URIs = []*url.URL{uri(t, "spiffe://fleet/URI1")} }, ""},
		{URIMatches, "spiffe://fleet/uri2", func(c *x509.Certificate) { c.URIs = []*url.URL{uri(t, "spiffe://fleet/uri2/")} }, Mismatch},
		{EmailMatches, "mail1@example.com", func(c *x509.Certificate) { c.EmailAddresses = []string{"Mail1@Example.com"} }, ""},
		{EmailMatches, "mail2@example.com", func(c *x509.Certificate) { c.DNSNames = []string{"mail2@example.com"} }, Mismatch},
		{IPMatches, "10.0.0.1", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("10.0.0.1")} }, ""},
		{IPMatches, "2001:DB8:0:0::5", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("2001:db8::5")} }, ""},
		{IPMatches, "::ffff:10.0.0.9", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("10.0.0.9")} }, ""},
		{IPMatches, "10.0.0.2", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("10.0.0.3")} }, Mismatch},
		{IPMatches, "10.0.0.4", func(c *x509.Certificate) { c.DNSNames = []string{"10.0.0.4"} }, Mismatch},
	} {
		name := "c-" + thumb1(root.named(t, c.name))[:12]
		put(t, r, name, ClientSpec{AuthenticationName: c.name, ValidationScheme: string(c.scheme)})
		good, forged := root.leaf(t, c.shape), stranger.leaf(t, c.shape)
		for _, named := range []bool{true, false} {
			p := Proof{ClientID: "session", Leaf: good, Confidential: true}
			if named {
				p.HasUser, p.UserName = true, c.name
			} else if c.want != "" {
				continue // which client it is for is not known then
			}
			id, err := authenticate(r, p)
			if reason(err) != c.want || c.want == "" && (err != nil || id.AuthenticationName != c.name || id.ClientName != name || id.Method != "certificate") {
				t.Errorf("%s, %s, by user name %v: %+v, %v, want %q", c.scheme, c.name, named, id, err, c.want)
			}
			if c.want != "" {
				continue
			}
			if !id.ExpiresAt.Equal(good.NotAfter) || id.Standing() != nil {
				t.Errorf("%s: expires %v, want %v; standing %v", c.name, id.ExpiresAt, good.NotAfter, id.Standing())
			}
			p.Leaf = forged
			if _, err := authenticate(r, p); reason(err) != Untrusted {
				t.Errorf("%s, %s, signed by a stranger: %v", c.scheme, c.name, err)
			}
		}
	}
}

func TestThumbprintScheme(t *testing.T) {
	ca := newIssuer(t, nil, "never registered")
	one, two, three := ca.named(t, "one"), ca.named(t, "two"), ca.named(t, "three")
	self := sign(t, nil, func(c *x509.Certificate) { c.Subject.CommonName = "self" }).cert
	r := open(t, Options{})
	put(t, r, "a", ClientSpec{AuthenticationName: "Dev-A", ValidationScheme: "ThumbprintMatch", AllowedThumbprints: []string{thumb256(one), thumb1(two)}})
	put(t, r, "b", ClientSpec{ValidationScheme: "ThumbprintMatch", AllowedThumbprints: []string{thumb256(one)}})
	put(t, r, "s", ClientSpec{ValidationScheme: "ThumbprintMatch", AllowedThumbprints: []string{thumb256(self)}})
	put(t, r, "off", ClientSpec{State: "Disabled", ValidationScheme: "ThumbprintMatch", AllowedThumbprints: []string{thumb256(one)}})
	for _, c := range []struct {
		user string
		cert *x509.Certificate
		want Reason
	}{
		{"dev-a", one, ""}, {"DEV-A", two, ""}, {"Dev-A", three, WrongThumb},
		{"b", one, ""}, {"b", two, WrongThumb}, {"s", self, ""},
		{"off", one, IsDisabled}, {"a", one, Unknown}, {"", one, NoName},
	} {
		id, err := authenticate(r, Proof{UserName: c.user, HasUser: true, Leaf: c.cert, Confidential: true})
		if reason(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s with %s: %v, want %q", c.user, c.cert.Subject, err, c.want)
		}
		if err == nil && (id.Method != "thumbprint" || !id.ExpiresAt.Equal(c.cert.NotAfter)) {
			t.Errorf("%s: %+v", c.user, id)
		}
	}
}

// The order of sources, and what stands in several fields or several times.
func TestAlternativeSources(t *testing.T) {
	root := newIssuer(t, nil, "root")
	for _, c := range []struct {
		name    string
		sources []string
		shape   func(*x509.Certificate)
		want    string // client
		reason  Reason
	}{
		{"none configured", nil, func(c *x509.Certificate) { c.Subject.CommonName = "sub" }, "", NoName},
		{"field missing", []string{"clientcertificatedns"}, func(c *x509.Certificate) { c.Subject.CommonName = "sub" }, "", NoName},
		{"first that is there", []string{"ClientCertificateDns", "ClientCertificateSubject"}, func(c *x509.Certificate) { c.Subject.CommonName = "sub" }, "sub", ""},
		{"the field decides even if nobody has that name", []string{"ClientCertificateDns", "ClientCertificateSubject"}, func(c *x509.Certificate) {
			c.Subject.CommonName, c.DNSNames = "sub", []string{"nobody"}
		}, "", Unknown},
		{"order", []string{"ClientCertificateSubject", "ClientCertificateDns"}, func(c *x509.Certificate) {
			c.Subject.CommonName, c.DNSNames = "sub", []string{"dns"}
		}, "sub", ""},
		{"first registered value", []string{"ClientCertificateDns"}, func(c *x509.Certificate) { c.DNSNames = []string{"nobody", "dns", "dns2"} }, "dns", ""},
		{"the client's scheme must hold too", []string{"ClientCertificateDns"}, func(c *x509.Certificate) { c.DNSNames = []string{"sub"} }, "", Mismatch},
	} {
		r := open(t, Options{Settings: Settings{AlternativeAuthenticationNameSources: c.sources}})
		putCA(t, r, "root", root)
		put(t, r, "sub", ClientSpec{})
		put(t, r, "dns", ClientSpec{ValidationScheme: "DnsMatchesAuthenticationName"})
		put(t, r, "dns2", ClientSpec{ValidationScheme: "DnsMatchesAuthenticationName"})
		for _, p := range []Proof{{}, {HasUser: true}} { // an empty user name is none
			p.Leaf, p.Confidential = root.leaf(t, c.shape), true
			id, err := authenticate(r, p)
			if id.ClientName != c.want || reason(err) != c.reason {
				t.Errorf("%s: client %q, %v, want %q, %q", c.name, id.ClientName, err, c.want, c.reason)
			}
		}
	}
}

func TestChains(t *testing.T) {
	root := newIssuer(t, nil, "root")
	middle := newIssuer(t, root, "middle")
	short := sign(t, root, func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.KeyUsage = "short", true, x509.KeyUsageCertSign
		c.NotAfter = time.Now().Add(time.Hour)
	})
	old := sign(t, nil, func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.KeyUsage = "old", true, x509.KeyUsageCertSign
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(time.Hour)
	})
	byRoot, byMiddle, byShort := root.named(t, "dev"), middle.named(t, "dev"), short.named(t, "dev")
	shaped := func(f func(*x509.Certificate)) *x509.Certificate {
		return root.leaf(t, func(c *x509.Certificate) { c.Subject.CommonName = "dev"; f(c) })
	}
	chain := func(cs ...*issuer) (out []*x509.Certificate) {
		for _, c := range cs {
			out = append(out, c.cert)
		}
		return
	}
	long := chain(root, root, root, root, root, root, root, root, root)
	for _, c := range []struct {
		name    string
		trusted *issuer
		leaf    *x509.Certificate
		chain   []*x509.Certificate
		want    Reason
		expires time.Time
	}{
		{"direct", root, byRoot, nil, "", byRoot.NotAfter},
		{"nothing registered", nil, byRoot, nil, Untrusted, time.Time{}},
		{"intermediate registered", middle, byMiddle, nil, "", byMiddle.NotAfter},
		{"intermediate registered, root sent", middle, byMiddle, chain(middle, root), "", byMiddle.NotAfter},
		{"intermediate missing", root, byMiddle, nil, Untrusted, time.Time{}},
		{"intermediate sent", root, byMiddle, chain(middle), "", byMiddle.NotAfter},
		{"intermediate registered, leaf of the root", middle, byRoot, chain(root), Untrusted, time.Time{}},
		{"the CA ends first", short, byShort, nil, "", short.cert.NotAfter},
		{"a sent CA ends first", root, byShort, chain(short), "", short.cert.NotAfter},
		{"too long a chain", root, byRoot, long, Untrusted, time.Time{}},
		{"for servers only", root, shaped(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil, Untrusted, time.Time{}},
		{"for any use", root, shaped(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), nil, "", byRoot.NotAfter},
		{"no use named", root, shaped(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), nil, "", byRoot.NotAfter},
		{"expired", root, shaped(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), nil, NotValidNow, time.Time{}},
		{"not valid yet", root, shaped(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), nil, NotValidNow, time.Time{}},
		{"self-signed", root, sign(t, nil, func(c *x509.Certificate) { c.Subject.CommonName = "dev" }).cert, nil, Untrusted, time.Time{}},
		{"one moment in the CA's life", old, old.named(t, "dev"), nil, "", old.cert.NotAfter},
	} {
		r := open(t, Options{})
		put(t, r, "dev", ClientSpec{})
		if c.trusted != nil {
			putCA(t, r, "ca1", c.trusted)
		}
		id, err := authenticate(r, Proof{UserName: "dev", HasUser: true, Leaf: c.leaf, Chain: c.chain, Confidential: true})
		if reason(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err == nil && id.ExpiresAt.Sub(c.expires).Abs() > time.Minute {
			t.Errorf("%s: expires %v (%s), want about %v", c.name, id.ExpiresAt, id.ExpiryDetail, c.expires)
		}
	}
}

func TestPasswords(t *testing.T) {
	root := newIssuer(t, nil, "root")
	settings := Settings{Passwords: true, Anonymous: "all"}
	plain := settings
	plain.PasswordsOverPlaintext = true
	azure := settings
	azure.Passwords = false
	for _, c := range []struct {
		name     string
		settings Settings
		proof    Proof
		want     Reason
		code     Code
	}{
		{"right", settings, Proof{UserName: "Dev", HasUser: true, Password: []byte("secret"), Confidential: true}, "", 0},
		{"right, on loopback", settings, Proof{UserName: "dev", HasUser: true, Password: []byte("secret"), Loopback: true}, "", 0},
		{"right, in the clear", settings, Proof{UserName: "dev", HasUser: true, Password: []byte("secret")}, Plaintext, NotAuthorized},
		{"right, in the clear where that is wanted", plain, Proof{UserName: "dev", HasUser: true, Password: []byte("secret")}, "", 0},
		{"wrong", settings, Proof{UserName: "dev", HasUser: true, Password: []byte("Secret"), Confidential: true}, WrongSecret, BadUserNameOrPassword},
		{"far too long", settings, Proof{UserName: "dev", HasUser: true, Password: make([]byte, 60000), Confidential: true}, WrongSecret, BadUserNameOrPassword},
		{"unknown", settings, Proof{UserName: "nobody", HasUser: true, Password: []byte("secret"), Confidential: true}, WrongSecret, BadUserNameOrPassword},
		{"client without", settings, Proof{UserName: "none", HasUser: true, Password: []byte("secret"), Confidential: true}, WrongSecret, BadUserNameOrPassword},
		{"client without, empty", settings, Proof{UserName: "none", HasUser: true, Password: []byte{}, Confidential: true}, NoProof, NotAuthorized},
		{"disabled", settings, Proof{UserName: "off", HasUser: true, Password: []byte("secret"), Confidential: true}, IsDisabled, NotAuthorized},
		{"disabled, wrong", settings, Proof{UserName: "off", HasUser: true, Password: []byte("x"), Confidential: true}, WrongSecret, BadUserNameOrPassword},
		{"no user name", settings, Proof{ClientID: "dev", Password: []byte("secret"), Confidential: true}, NoName, BadUserNameOrPassword},
		{"no password", settings, Proof{ClientID: "x", UserName: "dev", HasUser: true, Confidential: true}, NoProof, NotAuthorized},
		{"no passwords in this profile", azure, Proof{UserName: "dev", HasUser: true, Password: []byte("secret"), Confidential: true}, NoPasswords, NotAuthorized},
		{"beside a certificate that is no good", settings, Proof{UserName: "dev", HasUser: true, Password: []byte("secret"), Confidential: true, Leaf: root.named(t, "dev")}, "", 0},
		{"wrong beside a certificate that is no good", settings, Proof{UserName: "dev", HasUser: true, Password: []byte("x"), Confidential: true, Leaf: root.named(t, "dev")}, WrongSecret, BadUserNameOrPassword},
	} {
		r := open(t, Options{Settings: Settings{Passwords: true}})
		put(t, r, "c-dev", ClientSpec{AuthenticationName: "dev", Password: ptr("secret")})
		put(t, r, "off", ClientSpec{State: "Disabled", Password: ptr("secret")})
		put(t, r, "none", ClientSpec{})
		r = open(t, Options{Engine: r.engine, Settings: c.settings})
		for _, time := range []string{"first", "second"} {
			id, err := authenticate(r, c.proof)
			if reason(err) != c.want || (err == nil) != (c.want == "") {
				t.Errorf("%s, %s time: %v, want %q", c.name, time, err, c.want)
			}
			if err == nil && (id.Method != "password" || id.AuthenticationName != "dev" || id.ClientName != "c-dev" || !id.ExpiresAt.IsZero()) {
				t.Errorf("%s: %+v", c.name, id)
			}
			if d, ok := err.(*Denied); ok && d.Code != c.code {
				t.Errorf("%s: code %d, want %d", c.name, d.Code, c.code)
			}
		}
	}
}

func TestAnonymous(t *testing.T) {
	for _, c := range []struct {
		setting string
		proof   Proof
		want    Reason
	}{
		{"off", Proof{ClientID: "x", Loopback: true}, NoAnonymous},
		{"", Proof{ClientID: "x", Loopback: true}, NoAnonymous},
		{"loopback", Proof{ClientID: "x", Loopback: true}, ""},
		{"loopback", Proof{ClientID: "x", Confidential: true}, NoAnonymous},
		{"all", Proof{ClientID: "x"}, ""},
		{"all", Proof{ClientID: "x", HasUser: true, Password: []byte{}}, ""},
		{"all", Proof{ClientID: ""}, NoName},
		{"all", Proof{ClientID: "Registered-NAME"}, Reserved},
		{"all", Proof{ClientID: "Disabled-name"}, Reserved},
		{"all", Proof{ClientID: "resource"}, ""}, // a resource's name means nothing here
		{"all", Proof{ClientID: "x", UserName: "x", HasUser: true}, NoProof},
		{"all", Proof{ClientID: "x", Password: []byte("x")}, NoPasswords},
		{"all", Proof{ClientID: "x", Leaf: newIssuer(t, nil, "x").cert}, NoName},
	} {
		r := open(t, Options{Settings: Settings{Anonymous: c.setting}})
		put(t, r, "resource", ClientSpec{AuthenticationName: "registered-name"})
		put(t, r, "off", ClientSpec{AuthenticationName: "disabled-name", State: "Disabled"})
		id, err := authenticate(r, c.proof)
		if reason(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s, %+v: %v, want %q", c.setting, c.proof, err, c.want)
		}
		if err == nil && (id.Method != "anonymous" || id.AuthenticationName != c.proof.ClientID || id.ClientName != "") {
			t.Errorf("%+v", id)
		}
	}
}
