package webhook_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
)

// What is told of a failed connection says what is wrong, and where, without
// the endpoint's path and query.
func TestFailedConnectionsSayWhy(t *testing.T) {
	const secret = "/path-secret?code=query-secret"
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := nobody.Addr().String()
	_ = nobody.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	now := time.Now()
	good := &x509.Certificate{Subject: pkix.Name{CommonName: "Some CA"}, IPAddresses: []net.IP{{127, 0, 0, 1}}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	misnamed, expired := *good, *good
	misnamed.IPAddresses, misnamed.DNSNames = nil, []string{"other.example"}
	expired.NotAfter = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	expired.NotBefore = expired.NotAfter.AddDate(-1, 0, 0)
	for _, c := range []struct {
		what, url string
		roots     *x509.CertPool
		want      string
	}{
		{"refused", "https://" + refusing, nil, "the connection is refused at " + refusing},
		{"no TLS", strings.Replace(plain.URL, "http:", "https:", 1), nil, "the server does not speak TLS at that port"},
		tlsCase(t, "unknown CA", good, false, `the server's certificate is from a CA that is not trusted here ("CN=Some CA")`),
		tlsCase(t, "name", &misnamed, true, "the server's certificate is not for 127.0.0.1"),
		tlsCase(t, "expired", &expired, true, "the server's certificate is valid from 2019-01-02T03:04:05Z to 2020-01-02T03:04:05Z only"),
	} {
		t.Run(c.what, func(t *testing.T) {
			client := newClient(t, webhook.Options{Rules: local, RootCAs: c.roots})
			r := deliver(t, destination(t, client, c.url+secret, event.EventGrid), attempt(1))
			if r.Detail != c.want {
				t.Errorf("delivery: %q, want %q", r.Detail, c.want)
			}
			a := destination(t, client, c.url+secret, event.CloudEvents).Ask(t.Context(), webhook.Question{Now: now})
			if a.Detail != c.want || a.Consent != webhook.Unanswered {
				t.Errorf("handshake: %+v, want %q", a, c.want)
			}
		})
	}
}

// tlsCase is a server with a certificate that signs itself.
func tlsCase(t *testing.T, what string, tmpl *x509.Certificate, trusted bool, want string) struct {
	what, url string
	roots     *x509.CertPool
	want      string
} {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SerialNumber, tmpl.IsCA, tmpl.BasicConstraintsValid = big.NewInt(1), true, true
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	if trusted {
		roots.AddCert(leaf)
	}
	return struct {
		what, url string
		roots     *x509.CertPool
		want      string
	}{what, s.URL, roots, want}
}

// Which addresses may be dialled: those of the internet, and private ones where
// the server is configured for them.
func TestTargets(t *testing.T) {
	const always, private, never = 2, 1, 0
	for address, want := range map[string]int{
		"8.8.8.8": always, "2606:4700::1111": always, "2a00:1450::1": always, "64:ff9b::808:808": always, "2002:808:808::1": always,
		"127.0.0.1": private, "::1": private, "10.1.2.3": private, "100.64.0.1": private, "fc00::1": private, "fd12::1": private,
		"fec0::1": private, "64:ff9b::a00:1": private, "2002:a00:1::1": private, "::ffff:10.0.0.1": private,
		"0.0.0.0": never, "::": never, "169.254.169.254": never, "fe80::1": never, "64:ff9b::a9fe:a9fe": never,
		"2002:a9fe:a9fe::1": never, "::ffff:169.254.169.254": never, "::169.254.169.254": never, "::8.8.8.8": never,
		"::ffff:0:8.8.8.8": never, "64:ff9b:1::a9fe:a9fe": never, "64:ff9b:1:ffff::1": never, "2001:0:1::1": never,
		"100::1": never, "4000::1": never, "ff02::1": never, "224.0.0.1": never, "255.255.255.255": never,
		"100.100.100.200": never, "168.63.129.16": never, "192.0.0.192": never, "192.0.0.8": never,
		"fd00:ec2::254": never, "fd20:ce::254": never, "fd00:42::42": never,
	} {
		url := "https://" + net.JoinHostPort(address, "443") + "/"
		for _, allow := range []bool{false, true} {
			_, err := webhook.Rules{AllowPrivate: allow}.Parse("endpointUrl", url)
			if ok := want == always || want == private && allow; ok != (err == nil) {
				t.Errorf("%s with AllowPrivate %v: %v", address, allow, err)
			}
		}
	}
}

// A validation URL leaves as it is, so that it can be copied from a log of the
// receiver.
func TestValidationURLIsNotEscapedForHTML(t *testing.T) {
	got := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- string(body)
	}))
	defer s.Close()
	const url = "http://127.0.0.1/validate?id=1&token=<2>"
	destination(t, newClient(t, webhook.Options{Rules: local}), s.URL, event.EventGrid).Ask(t.Context(), webhook.Question{Callback: url, Now: time.Now()})
	if body := <-got; !strings.Contains(body, `"validationUrl":"`+url+`"`) {
		t.Errorf("sent %s, want the URL %s", body, url)
	}
}

// A certificate that is not valid yet is mostly a clock here that was not set:
// the error says what it shows.
func TestCertificateFromTheFuture(t *testing.T) {
	now := time.Now()
	c := tlsCase(t, "future", &x509.Certificate{IPAddresses: []net.IP{{127, 0, 0, 1}}, NotBefore: now.Add(time.Hour), NotAfter: now.Add(2 * time.Hour)}, true, "")
	r := deliver(t, destination(t, newClient(t, webhook.Options{Rules: local, RootCAs: c.roots}), c.url, event.EventGrid), attempt(1))
	if !strings.Contains(r.Detail, "look whether the clock here is right (current time 20") {
		t.Errorf("%q", r.Detail)
	}
}
