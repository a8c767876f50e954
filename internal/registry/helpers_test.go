package registry

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"testing"
	"time"

	"rollcall/internal/auth"
	"rollcall/internal/fault"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

var cheap = auth.Params{Memory: 8192, Time: 1, Threads: 1}

// open opens a registry on a new engine in memory, unless o has one.
func open(t testing.TB, o Options) *Registry {
	t.Helper()
	if o.Engine == nil {
		e := mem.New()
		t.Cleanup(func() { e.Close() })
		o.Engine = e
	}
	if o.Realm == "" {
		o.Realm = "default"
	}
	o.Settings.PasswordCost = cheap
	r, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// run runs r until the test ends.
func run(t testing.TB, r *Registry) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

func put(t testing.TB, r *Registry, name string, s ClientSpec) Client {
	t.Helper()
	c, _, err := r.PutClient(t.Context(), name, s, Condition{})
	if err != nil {
		t.Fatalf("put client %s: %v", name, err)
	}
	return c
}

func putCA(t testing.TB, r *Registry, name string, ca *issuer) CA {
	t.Helper()
	c, _, err := r.PutCA(t.Context(), name, CASpec{EncodedCertificate: ca.pem()}, Condition{})
	if err != nil {
		t.Fatalf("put CA certificate %s: %v", name, err)
	}
	return c
}

// code returns the fault code of err.
func code(err error) fault.Code {
	if f, ok := fault.As(err); ok {
		return f.Code
	}
	return ""
}

// reason returns why err denies.
func reason(err error) Reason {
	var d *Denied
	if errors.As(err, &d) {
		return d.Reason
	}
	return ""
}

// issuer is a CA of a test.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func sign(t testing.TB, parent *issuer, shape func(*x509.Certificate)) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<60))
	c := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true,
	}
	shape(c)
	by, signer := c, crypto.Signer(key)
	if parent != nil {
		by, signer = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key}
}

func newIssuer(t testing.TB, parent *issuer, name string) *issuer {
	return sign(t, parent, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: name}
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
		c.NotAfter = time.Now().Add(48 * time.Hour)
	})
}

// leaf makes a client certificate.
func (ca *issuer) leaf(t testing.TB, shape func(*x509.Certificate)) *x509.Certificate {
	return sign(t, ca, func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		shape(c)
	}).cert
}

func (ca *issuer) named(t testing.TB, cn string) *x509.Certificate {
	return ca.leaf(t, func(c *x509.Certificate) { c.Subject.CommonName = cn })
}

func (ca *issuer) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}))
}

func thumb256(c *x509.Certificate) string { h := sha256.Sum256(c.Raw); return hex.EncodeToString(h[:]) }
func thumb1(c *x509.Certificate) string   { h := sha1.Sum(c.Raw); return hex.EncodeToString(h[:]) }

// recorder is a Stager that writes each event into the batch, and remembers
// those whose batch was committed.
type recorder struct {
	mu     sync.Mutex
	events []Change
	index  uint64
	disord bool
	wake   chan struct{}
}

func newRecorder() *recorder { return &recorder{wake: make(chan struct{}, 1)} }

func (r *recorder) Stage(b *store.Batch, p uint8, c *Change) func(store.Result) {
	b.PutSequenced(store.AppendKey(nil, p, store.TableEvent, "test"), []byte(fmt.Sprintf("%d %s %s", c.Kind, c.Client.Name, c.EventID)))
	return func(res store.Result) {
		if res.Err != nil {
			return
		}
		r.mu.Lock()
		r.events = append(r.events, *c)
		r.disord = r.disord || res.Index <= r.index
		r.index = res.Index
		r.mu.Unlock()
		signal(r.wake)
	}
}

func (r *recorder) all() []Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Change(nil), r.events...)
}

// stored returns the events in the store.
func stored(t testing.TB, e store.Engine) []string {
	t.Helper()
	snap := e.Snapshot()
	defer snap.Close()
	prefix := store.AppendKey(nil, partition, store.TableEvent, "test")
	it := snap.Iter(prefix, store.PrefixEnd(prefix))
	defer it.Close()
	var all []string
	for it.Next() {
		all = append(all, string(it.Value()))
	}
	return all
}

func ptr[T any](v T) *T { return &v }
