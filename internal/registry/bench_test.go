package registry

import (
	"fmt"
	"testing"

	"rollcall/internal/store/mem"
)

// benchRegistry has 10,000 clients, among them those that the benchmarks use.
func benchRegistry(b *testing.B) (*Registry, *issuer) {
	engine := mem.New()
	b.Cleanup(func() { engine.Close() })
	r := open(b, Options{Engine: engine, Settings: Settings{Passwords: true, Anonymous: "all"}})
	root := newIssuer(b, nil, "root")
	putCA(b, r, "root", root)
	for i := range 10_000 {
		put(b, r, fmt.Sprint("dev", i), ClientSpec{})
	}
	return r, root
}

func BenchmarkAuthenticate(b *testing.B) {
	r, root := benchRegistry(b)
	leaf := root.named(b, "dev77")
	put(b, r, "thumb", ClientSpec{ValidationScheme: "ThumbprintMatch", AllowedThumbprints: []string{thumb256(leaf)}})
	put(b, r, "pass", ClientSpec{Password: ptr("secret")})
	for name, p := range map[string]Proof{
		"certificate": {UserName: "dev77", HasUser: true, Leaf: leaf, Confidential: true},
		"thumbprint":  {UserName: "thumb", HasUser: true, Leaf: leaf, Confidential: true},
		"password":    {UserName: "pass", HasUser: true, Password: []byte("secret"), Confidential: true},
		"anonymous":   {ClientID: "guest"},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := authenticate(r, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What a change costs each connection, and what no change does.
func BenchmarkStanding(b *testing.B) {
	r, root := benchRegistry(b)
	id, err := authenticate(r, Proof{UserName: "dev77", HasUser: true, Leaf: root.named(b, "dev77")})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			if err := id.Standing(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("changed", func(b *testing.B) {
		for b.Loop() {
			r.mu.Lock()
			r.republish()
			r.mu.Unlock()
			if err := id.Standing(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkPutClient(b *testing.B) {
	r, _ := benchRegistry(b)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		put(b, r, "dev5", ClientSpec{Description: fmt.Sprint(n)})
	}
}
