package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"testing"
	"time"

	"rollcall/internal/fault"
	"rollcall/internal/pki"
)

func TestIssueCertificate(t *testing.T) {
	dir, opened := t.TempDir(), 0
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r := open(t, Options{ClientAuthority: func(now time.Time) (*pki.Authority, error) {
		opened++
		return pki.OpenClientAuthority(dir, now)
	}})
	put(t, r, "dev", ClientSpec{AuthenticationName: "Dev One"})
	put(t, r, "dns", ClientSpec{ValidationScheme: "DnsMatchesAuthenticationName"})
	if _, err := r.CA(QuickStartCA); code(err) != fault.NotFound {
		t.Errorf("the CA before it is used: %v", err)
	}
	for _, c := range []struct {
		client string
		life   time.Duration
		want   fault.Code
	}{{"nobody", time.Hour, fault.NotFound}, {"dns", time.Hour, fault.Conflict}, {"dev", time.Second, fault.InvalidRequest}, {"dev", 1 << 62, fault.InvalidRequest}} {
		if _, _, err := r.IssueCertificate(t.Context(), c.client, c.life); code(err) != c.want {
			t.Errorf("%s for %v: %v, want %s", c.client, c.life, err, c.want)
		}
	}
	if opened != 0 {
		t.Error("the CA was made for a request that was refused")
	}
	issue := func() *x509.Certificate {
		t.Helper()
		certPEM, keyPEM, err := r.IssueCertificate(t.Context(), "dev", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf
	}
	before, _ := r.Client("dev")
	leaf := issue()
	proof := Proof{UserName: "dev one", HasUser: true, Leaf: leaf, Confidential: true}
	id, err := authenticate(r, proof)
	if err != nil || id.ClientName != "dev" || id.Method != "certificate" {
		t.Fatalf("%+v, %v", id, err)
	}
	if after, _ := r.Client("dev"); after.Revision != before.Revision {
		t.Error("issuing changed the client")
	}
	if left := time.Until(leaf.NotAfter); left > time.Hour || left < 59*time.Minute {
		t.Errorf("the certificate lasts %v, want 1h", left)
	}
	// The CA can be seen and deleted, which ends what it vouches for.
	if ca, err := r.CA(QuickStartCA); err != nil || ca.EncodedCertificate == "" {
		t.Errorf("%+v, %v", ca, err)
	}
	if existed, err := r.DeleteCA(t.Context(), QuickStartCA, Condition{}); !existed || err != nil {
		t.Errorf("%v, %v", existed, err)
	}
	if _, err := authenticate(r, proof); reason(err) != Untrusted || id.Standing() == nil {
		t.Errorf("after the CA was deleted: %v, %v", err, id.Standing())
	}
	// Issuing again registers it again.
	issue()
	if _, err := authenticate(r, proof); err != nil || opened != 1 {
		t.Errorf("after issuing again: %v; opened %d times", err, opened)
	}
	// Another certificate of that name is not replaced.
	putCA(t, r, QuickStartCA, newIssuer(t, nil, "operator's"))
	if _, _, err := r.IssueCertificate(t.Context(), "dev", time.Hour); code(err) != fault.Conflict {
		t.Errorf("with another CA in its place: %v", err)
	}
}

func TestIssueCertificateWithoutCA(t *testing.T) {
	r := open(t, Options{})
	put(t, r, "dev", ClientSpec{})
	if _, _, err := r.IssueCertificate(t.Context(), "dev", time.Hour); code(err) != fault.Conflict {
		t.Errorf("without a CA: %v", err)
	}
	broken := errors.New("broken")
	r = open(t, Options{ClientAuthority: func(time.Time) (*pki.Authority, error) { return nil, broken }})
	put(t, r, "dev", ClientSpec{})
	if _, _, err := r.IssueCertificate(t.Context(), "dev", time.Hour); !errors.Is(err, broken) {
		t.Errorf("with a broken CA: %v", err)
	}
}

func TestSettings(t *testing.T) {
	for _, s := range []Settings{
		{Anonymous: "yes"}, {MaxClients: -1}, {MaxCAs: -1},
		{AlternativeAuthenticationNameSources: []string{"ClientCertificateSerial"}},
		{AlternativeAuthenticationNameSources: []string{"ClientCertificateDns", "clientcertificatedns"}},
	} {
		if err := s.Validate("registry").Err(); code(err) != fault.InvalidRequest {
			t.Errorf("%+v: %v", s, err)
		}
	}
	for _, s := range []Settings{{}, {Anonymous: "loopback", AlternativeAuthenticationNameSources: everySource}} {
		if err := s.Validate("registry").Err(); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if _, err := Open(t.Context(), Options{Realm: "x"}); err == nil {
		t.Error("a registry without an engine")
	}
}
