package registry

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"rollcall/internal/fault"
)

func TestPutCA(t *testing.T) {
	r := open(t, Options{})
	one, two := newIssuer(t, nil, "one"), newIssuer(t, nil, "two")
	c, created, err := r.PutCA(t.Context(), "My-CA", CASpec{Description: "d", EncodedCertificate: one.pem()}, Condition{})
	if err != nil || !created || c.Name != "My-CA" || c.Description != "d" || c.EncodedCertificate != one.pem() ||
		!c.IssueTime.Equal(one.cert.NotBefore) || !c.ExpiryTime.Equal(one.cert.NotAfter) || c.ProvisioningState != "Succeeded" {
		t.Fatalf("created %v, %v: %+v", created, err, c)
	}
	again, created, err := r.PutCA(t.Context(), "my-ca", CASpec{Description: "d", EncodedCertificate: one.pem()}, Condition{})
	if err != nil || created || again.Revision != c.Revision || again.Name != "My-CA" {
		t.Errorf("the same again: created %v, %v: %+v", created, err, again)
	}
	next, created, err := r.PutCA(t.Context(), "MY-CA", CASpec{EncodedCertificate: two.pem()}, Condition{Revision: c.Revision})
	if err != nil || created || next.Name != "My-CA" || !next.CreatedOn.Equal(c.CreatedOn) || !next.UpdatedOn.After(c.UpdatedOn) || !next.Certificate().Equal(two.cert) {
		t.Errorf("replaced: created %v, %v: %+v", created, err, next)
	}
	if _, _, err := r.PutCA(t.Context(), "my-ca", CASpec{EncodedCertificate: one.pem()}, Condition{Absent: true}); code(err) != fault.PreconditionFailed {
		t.Errorf("put where it must be absent: %v", err)
	}
	putCA(t, r, "another", one)
	page, more := r.CAs("", 1, nil)
	if len(page) != 1 || page[0].Name != "another" || !more {
		t.Errorf("first page %+v, %v", page, more)
	}
	page, more = r.CAs("ANOTHER", 1, nil)
	if len(page) != 1 || page[0].Name != "My-CA" || more {
		t.Errorf("second page %+v, %v", page, more)
	}
	if _, err := r.DeleteCA(t.Context(), "my-ca", Condition{Revision: 1}); code(err) != fault.PreconditionFailed {
		t.Errorf("delete of an old revision: %v", err)
	}
	if existed, err := r.DeleteCA(t.Context(), "my-ca", Condition{}); !existed || err != nil {
		t.Errorf("delete: %v, %v", existed, err)
	}
	if existed, err := r.DeleteCA(t.Context(), "my-ca", Condition{}); existed || err != nil {
		t.Errorf("delete again: %v, %v", existed, err)
	}
	if _, err := r.CA("my-ca"); code(err) != fault.NotFound {
		t.Errorf("read after delete: %v", err)
	}
}

func TestPutCARefuses(t *testing.T) {
	r := open(t, Options{})
	good := newIssuer(t, nil, "good")
	made := func(f func(*x509.Certificate)) string {
		return sign(t, nil, func(c *x509.Certificate) {
			c.Subject.CommonName, c.IsCA, c.KeyUsage = "x", true, x509.KeyUsageCertSign
			f(c)
		}).pem()
	}
	key, err := x509.MarshalPKCS8PrivateKey(good.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, resource, cert, target string
	}{
		{"good", "good", good.pem(), ""},
		{"text around", "good2", "subject=x\n" + good.pem() + "\n", ""},
		{"short name", "ab", good.pem(), "name"},
		{"long name", strings.Repeat("a", 51), good.pem(), "name"},
		{"bad name", "a.b.c", good.pem(), "name"},
		{"nothing", "abc", "", pathCertificate},
		{"no PEM", "abc", "hello", pathCertificate},
		{"broken", "abc", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", pathCertificate},
		{"two", "abc", good.pem() + good.pem(), pathCertificate},
		{"with a key", "abc", good.pem() + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})), pathCertificate},
		{"request", "abc", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: key})), pathCertificate},
		{"no CA", "abc", made(func(c *x509.Certificate) { c.IsCA = false }), pathCertificate},
		{"must not sign", "abc", made(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), pathCertificate},
		{"expired", "abc", made(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), pathCertificate},
		{"large", "abc", good.pem() + strings.Repeat("\n", 64<<10), pathCertificate},
	} {
		_, _, err := r.PutCA(t.Context(), c.resource, CASpec{EncodedCertificate: c.cert}, Condition{})
		f, _ := fault.As(err)
		switch {
		case c.target == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.target != "" && (f == nil || f.Target != c.target || f.Code != fault.InvalidRequest):
			t.Errorf("%s: %v, want a mistake at %s", c.name, err, c.target)
		}
	}
}
