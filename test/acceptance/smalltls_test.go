package acceptance

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rollcall/internal/config"
	"rollcall/internal/servertest"
)

// withBoth starts a server as a user's first start does, with both types of
// keys, and returns it and the file of its CAs.
func withBoth(t *testing.T) (*servertest.Server, string) {
	t.Helper()
	w := servertest.Start(t, func(c *config.Config) { c.TLS.KeyType = config.Default(config.Open).TLS.KeyType })
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, w.Must("GET", "/rollcall/v1/ca", nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return w, file
}

// Mbed TLS, which small devices have, can use the certificate of the first
// start, verified and not.
func TestMbedTLS(t *testing.T) {
	program := filepath.Join(t.TempDir(), "mbedtls")
	if out, err := exec.Command("gcc", "-o", program, "../clients/mbedtls.c", "-lmbedtls", "-lmbedx509", "-lmbedcrypto").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w, ca := withBoth(t)
	host, port, err := net.SplitHostPort(w.Info.MQTTS[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, trust := range []string{ca, ""} {
		out, err := exec.CommandContext(t.Context(), program, host, port, trust).CombinedOutput()
		if err != nil {
			t.Errorf("CA file %q: %v: %s", trust, err, out)
		}
		t.Logf("%s", out)
	}
}

// A client that knows RSA only, as Tasmota does, gets a certificate that it can
// verify; others get the one of ECDSA. Neither gets the CA along.
func TestRSAOnlyClient(t *testing.T) {
	w, file := withBoth(t)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) || strings.Count(string(text), "BEGIN CERTIFICATE") != 2 {
		t.Fatalf("the CAs are %s", text)
	}
	for _, c := range []struct {
		suites []uint16
		rsa    bool
	}{{[]uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}, true}, {nil, false}} {
		nc, err := tls.Dial("tcp", w.Info.MQTTS[0], &tls.Config{RootCAs: pool, ServerName: "localhost", CipherSuites: c.suites, MaxVersion: tls.VersionTLS12})
		if err != nil {
			t.Errorf("RSA %v: %v", c.rsa, err)
			continue
		}
		sent := nc.ConnectionState().PeerCertificates
		if _, ok := sent[0].PublicKey.(*rsa.PublicKey); ok != c.rsa || len(sent) != 1 {
			t.Errorf("RSA %v: %d certificates, the key is a %T", c.rsa, len(sent), sent[0].PublicKey)
		}
		nc.Close()
	}
}
