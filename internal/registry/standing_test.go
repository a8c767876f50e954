package registry

import (
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What each change does to an identity that was admitted before it.
func TestStanding(t *testing.T) {
	root, second := newIssuer(t, nil, "root"), newIssuer(t, nil, "second")
	dev := root.leaf(t, func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = "dev", []string{"dev"} })
	cert := Proof{UserName: "dev", HasUser: true, Leaf: dev, Confidential: true}
	pass := Proof{UserName: "dev", HasUser: true, Password: []byte("secret"), Confidential: true}
	anon := Proof{ClientID: "guest"}
	thumb := Proof{UserName: "thumb", HasUser: true, Leaf: dev, Confidential: true}
	spec := ClientSpec{Password: ptr("secret")}
	with := func(f func(*ClientSpec)) ClientSpec { s := spec; f(&s); return s }
	thumbs := func(list ...string) ClientSpec {
		return ClientSpec{ValidationScheme: "ThumbprintMatch", AllowedThumbprints: list}
	}
	for _, c := range []struct {
		name   string
		proof  Proof
		change func(t *testing.T, r *Registry)
		want   string // part of the error; "": stands
	}{
		{"nothing", cert, func(*testing.T, *Registry) {}, ""},
		{"description", cert, func(t *testing.T, r *Registry) { put(t, r, "dev", with(func(s *ClientSpec) { s.Description = "x" })) }, ""},
		{"attributes", pass, func(t *testing.T, r *Registry) {
			put(t, r, "dev", with(func(s *ClientSpec) { s.Attributes = map[string]any{"a": "b"} }))
		}, ""},
		{"another client", cert, func(t *testing.T, r *Registry) { put(t, r, "other", ClientSpec{}) }, ""},
		{"disabled", cert, func(t *testing.T, r *Registry) { put(t, r, "dev", with(func(s *ClientSpec) { s.State = "Disabled" })) }, "was disabled"},
		{"disabled", pass, func(t *testing.T, r *Registry) { put(t, r, "dev", with(func(s *ClientSpec) { s.State = "Disabled" })) }, "was disabled"},
		{"disabled and enabled again", cert, func(t *testing.T, r *Registry) {
			put(t, r, "dev", with(func(s *ClientSpec) { s.State = "Disabled" }))
			put(t, r, "dev", spec)
		}, ""},
		{"deleted", cert, func(t *testing.T, r *Registry) { r.DeleteClient(t.Context(), "dev", Condition{}) }, "was deleted"},
		{"deleted", pass, func(t *testing.T, r *Registry) { r.DeleteClient(t.Context(), "dev", Condition{}) }, "was deleted"},
		{"deleted and created again", cert, func(t *testing.T, r *Registry) {
			r.DeleteClient(t.Context(), "dev", Condition{})
			put(t, r, "dev", spec)
		}, "created again"},
		{"scheme the certificate passes too", cert, func(t *testing.T, r *Registry) {
			put(t, r, "dev", with(func(s *ClientSpec) { s.ValidationScheme = "DnsMatchesAuthenticationName" }))
		}, ""},
		{"scheme the certificate does not pass", cert, func(t *testing.T, r *Registry) {
			put(t, r, "dev", with(func(s *ClientSpec) { s.ValidationScheme = "UriMatchesAuthenticationName" }))
		}, "would not be admitted"},
		{"CA deleted", cert, func(t *testing.T, r *Registry) { r.DeleteCA(t.Context(), "root", Condition{}) }, "would not be admitted"},
		{"CA replaced", cert, func(t *testing.T, r *Registry) { putCA(t, r, "root", second) }, "would not be admitted"},
		{"CA described", cert, func(t *testing.T, r *Registry) {
			if _, _, err := r.PutCA(t.Context(), "root", CASpec{Description: "x", EncodedCertificate: root.pem()}, Condition{}); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"another CA deleted", cert, func(t *testing.T, r *Registry) { r.DeleteCA(t.Context(), "second", Condition{}) }, ""},
		{"CA deleted, by password", pass, func(t *testing.T, r *Registry) { r.DeleteCA(t.Context(), "root", Condition{}) }, ""},
		{"CA deleted, by thumbprint", thumb, func(t *testing.T, r *Registry) { r.DeleteCA(t.Context(), "root", Condition{}) }, ""},
		{"password changed", pass, func(t *testing.T, r *Registry) { put(t, r, "dev", ClientSpec{Password: ptr("other")}) }, "password of client dev was changed"},
		{"password removed", pass, func(t *testing.T, r *Registry) { put(t, r, "dev", ClientSpec{Password: ptr("")}) }, "password of client dev was changed"},
		{"password written again", pass, func(t *testing.T, r *Registry) {
			put(t, r, "dev", with(func(s *ClientSpec) { s.Description = "x" }))
		}, ""},
		{"password changed, by certificate", cert, func(t *testing.T, r *Registry) { put(t, r, "dev", ClientSpec{Password: ptr("other")}) }, ""},
		{"thumbprint added", thumb, func(t *testing.T, r *Registry) { put(t, r, "thumb", thumbs(thumb1(root.cert), thumb1(dev))) }, ""},
		{"thumbprint removed", thumb, func(t *testing.T, r *Registry) { put(t, r, "thumb", thumbs(thumb1(root.cert))) }, "would not be admitted"},
		{"name registered", anon, func(t *testing.T, r *Registry) { put(t, r, "g", ClientSpec{AuthenticationName: "GUEST"}) }, "is now the authentication name"},
		{"another name registered", anon, func(t *testing.T, r *Registry) { put(t, r, "guest", ClientSpec{AuthenticationName: "x"}) }, ""},
	} {
		r := open(t, Options{Settings: Settings{Passwords: true, Anonymous: "all"}})
		putCA(t, r, "root", root)
		putCA(t, r, "second", second)
		put(t, r, "dev", spec)
		put(t, r, "thumb", thumbs(thumb1(dev)))
		id, err := authenticate(r, c.proof)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		c.change(t, r)
		for range 2 {
			err := id.Standing()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: %v, want %q", c.name, id.Method, err, c.want)
			}
		}
	}
}

func TestStandingEndsWithTheCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newIssuer(t, nil, "root")
		dev := root.leaf(t, func(c *x509.Certificate) { c.Subject.CommonName, c.NotAfter = "dev", time.Now().Add(time.Hour) })
		r := open(t, Options{})
		putCA(t, r, "root", root)
		put(t, r, "dev", ClientSpec{})
		id, err := authenticate(r, Proof{UserName: "dev", HasUser: true, Leaf: dev})
		if err != nil || id.Standing() != nil {
			t.Fatalf("%v, %v", err, id.Standing())
		}
		time.Sleep(time.Hour + time.Second) // in the bubble's time
		if err := id.Standing(); err == nil || err.Error() != id.ExpiryDetail || !strings.Contains(err.Error(), "client certificate expired") {
			t.Errorf("after the end: %v, detail %q", err, id.ExpiryDetail)
		}
	})
}

// hub is what a broker does with identities: it registers a connection, asks
// once more whether it stands, and ends those that do not after each change.
type hub struct {
	mu    sync.Mutex
	turns sync.Cond
	conns map[*link]bool // true: online
}

type link struct{ standing func() error }

func newHub(r *Registry) *hub {
	h := &hub{conns: make(map[*link]bool)}
	h.turns.L = &h.mu
	r.OnChange(h.reconsider)
	return h
}

func (h *hub) connect(r *Registry, t *testing.T, p Proof) bool {
	id, err := authenticate(r, p)
	if err != nil {
		return false
	}
	l := &link{id.Standing}
	h.mu.Lock()
	h.conns[l] = true
	h.mu.Unlock()
	if l.standing() != nil {
		h.mu.Lock()
		delete(h.conns, l)
		h.mu.Unlock()
		return false
	}
	return true
}

func (h *hub) reconsider() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.conns {
		if l.standing() != nil {
			delete(h.conns, l)
		}
	}
	h.turns.Broadcast()
}

// drained waits until nobody is online.
func (h *hub) drained(ok func() bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.conns) > 0 && ok() {
		h.turns.Wait()
	}
}

// A change that races with connects: whoever got in under the old rules is told.
func TestChangesRaceWithConnects(t *testing.T) {
	root := newIssuer(t, nil, "root")
	leaf := root.named(t, "dev")
	cert := Proof{UserName: "dev", HasUser: true, Leaf: leaf, Confidential: true}
	pass := Proof{UserName: "dev", HasUser: true, Password: []byte("secret"), Confidential: true}
	anon := Proof{ClientID: "late"}
	for _, c := range []struct {
		name     string
		proof    Proof
		out, in  func(r *Registry)
		attempts int
	}{
		{"disable", cert,
			func(r *Registry) { put(t, r, "dev", ClientSpec{State: "Disabled"}) },
			func(r *Registry) { put(t, r, "dev", ClientSpec{}) }, 60},
		{"delete", pass,
			func(r *Registry) { r.DeleteClient(t.Context(), "dev", Condition{}) },
			func(r *Registry) { put(t, r, "dev", ClientSpec{Password: ptr("secret")}) }, 15},
		{"delete CA", cert,
			func(r *Registry) { r.DeleteCA(t.Context(), "root", Condition{}) },
			func(r *Registry) { putCA(t, r, "root", root) }, 60},
		{"register the name", anon,
			func(r *Registry) { put(t, r, "late", ClientSpec{}) },
			func(r *Registry) { r.DeleteClient(t.Context(), "late", Condition{}) }, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := open(t, Options{Settings: Settings{Passwords: true, Anonymous: "all"}})
			h := newHub(r)
			run(t, r)
			putCA(t, r, "root", root)
			put(t, r, "dev", ClientSpec{Password: ptr("secret")})
			admitted := 0
			for n := range c.attempts {
				proof := c.proof
				proof.Source = fmt.Sprint(n) // wrong passwords are counted by source
				if !h.connect(r, t, proof) { // and makes the password known
					t.Fatal("a client is refused before the change")
				}
				var wg sync.WaitGroup
				var mu sync.Mutex
				begun := make(chan struct{})
				begin := sync.OnceFunc(func() { close(begun) })
				for range 4 {
					wg.Go(func() {
						for range 3 {
							if h.connect(r, t, proof) {
								mu.Lock()
								admitted++
								mu.Unlock()
							}
							begin()
						}
					})
				}
				if n%2 == 0 { // once somebody is in; else at once
					<-begun
				}
				c.out(r)
				wg.Wait()
				// Everybody who got in must be put out by the change. There is
				// no further one: a lost wake-up hangs here.
				h.drained(func() bool { return t.Context().Err() == nil })
				if h.connect(r, t, proof) {
					t.Fatal("a client is admitted after the change")
				}
				c.in(r)
			}
			if admitted == 0 {
				t.Error("no client got in before a change: the race was not run")
			}
		})
	}
}

// Every change of a client or CA is followed by a call, with the change in view.
func TestOnChangeSeesTheChange(t *testing.T) {
	r := open(t, Options{})
	put(t, r, "dev", ClientSpec{})
	calls := make(chan State)
	r.OnChange(func() {
		c, err := r.Client("dev")
		if err != nil {
			c.State = "gone"
		}
		calls <- c.State
	})
	run(t, r)
	for _, s := range []State{Disabled, Enabled, Disabled} {
		put(t, r, "dev", ClientSpec{State: string(s)})
		if got := <-calls; got != s {
			t.Fatalf("the call saw %s, want %s", got, s)
		}
	}
	r.DeleteClient(t.Context(), "dev", Condition{})
	if got := <-calls; got != "gone" {
		t.Fatalf("the call saw %s, want none", got)
	}
}
