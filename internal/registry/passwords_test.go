package registry

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/auth"
	"rollcall/internal/fault"
	"rollcall/internal/filter"
)

func secret(user, password, source string) Proof {
	return Proof{UserName: user, HasUser: true, Password: []byte(password), Confidential: true, Source: source}
}

// A password that was right is not hashed again, until the client's changes;
// one that was wrong always is.
func TestVerifiedPasswordsAreCheap(t *testing.T) {
	r := open(t, Options{Settings: Settings{Passwords: true}})
	put(t, r, "dev", ClientSpec{Password: ptr("secret")})
	hashes := r.passwords.hasher.Hashes
	for _, c := range []struct {
		name     string
		password string
		change   func()
		cost     uint64
		want     Reason
	}{
		{"first time", "secret", func() {}, 1, ""},
		{"again", "secret", func() {}, 0, ""},
		{"wrong", "x", func() {}, 1, WrongSecret},
		{"wrong again", "x", func() {}, 1, WrongSecret},
		{"right after wrong", "secret", func() {}, 0, ""},
		{"after another change", "secret", func() { put(t, r, "dev", ClientSpec{Description: "x"}) }, 0, ""},
		{"old one after a new password", "secret", func() { put(t, r, "dev", ClientSpec{Password: ptr("new")}) }, 1, WrongSecret},
		{"new one", "new", func() {}, 1, ""},
		{"after the password was removed", "new", func() { put(t, r, "dev", ClientSpec{Password: ptr("")}) }, 1, WrongSecret},
	} {
		c.change()
		before := hashes()
		_, err := authenticate(r, secret("dev", c.password, ""))
		if reason(err) != c.want || hashes()-before != c.cost {
			t.Errorf("%s: %v at %d hashes, want %q at %d", c.name, err, hashes()-before, c.want, c.cost)
		}
	}
	before := hashes()
	authenticate(r, secret("nobody", "secret", ""))
	if hashes()-before != 1 {
		t.Error("an unknown client takes another time than a wrong password")
	}
}

// A flood of wrong passwords is cut off without hashing, for the client at that
// source and for the source as a whole, and nobody else notices.
func TestPasswordFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, Options{Settings: Settings{Passwords: true}})
		put(t, r, "dev", ClientSpec{Password: ptr("secret")})
		put(t, r, "other", ClientSpec{Password: ptr("secret")})
		try := func(user, password, source string) Reason {
			_, err := authenticate(r, secret(user, password, source))
			return reason(err)
		}
		for i := range clientBurst {
			if got := try("dev", "x", "evil"); got != WrongSecret {
				t.Fatalf("attempt %d: %q", i+1, got)
			}
		}
		before := r.passwords.hasher.Hashes()
		for _, user := range []string{"dev", "DEV"} {
			if got := try(user, "secret", "evil"); got != Limited {
				t.Errorf("%s after the burst: %q, want limited", user, got)
			}
		}
		if n := r.passwords.hasher.Hashes() - before; n != 0 {
			t.Errorf("%d hashes for attempts that are cut off", n)
		}
		if got := try("dev", "secret", "home"); got != "" {
			t.Errorf("the client from elsewhere: %q", got)
		}
		if got := try("other", "secret", "evil"); got != "" {
			t.Errorf("another client from the same source: %q", got)
		}
		if got := try("dev", "secret", "evil"); got != "" {
			t.Errorf("the client from the flooded source, once known: %q", got)
		}
		// One source, many names.
		for i := 0; try("name"+string(rune('a'+i)), "x", "evil") != Limited; i++ {
			if i > sourceBurst {
				t.Fatal("one source may try any number of names")
			}
		}
		if got := try("new", "x", "home"); got != WrongSecret {
			t.Errorf("another source: %q", got)
		}
		time.Sleep(2 * clientBurst * clientEvery)
		if got := try("dev", "y", "evil"); got != WrongSecret {
			t.Errorf("after a while: %q", got)
		}
	})
}

// Concurrent wrong passwords: those that were let in while others were being
// hashed are judged again when their turn comes.
func TestPasswordFloodAtOnce(t *testing.T) {
	r := open(t, Options{Settings: Settings{Passwords: true, MaxHashes: 1, HashWait: time.Minute}})
	put(t, r, "dev", ClientSpec{Password: ptr("secret")})
	before := r.passwords.hasher.Hashes()
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[Reason]int{}
	for range 100 {
		wg.Go(func() {
			_, err := authenticate(r, secret("dev", "x", "evil"))
			mu.Lock()
			got[reason(err)]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if n := got[WrongSecret]; n < clientBurst || n > clientBurst+2 || got[Limited] != 100-n {
		t.Errorf("%v, want about %d hashed", got, clientBurst)
	}
	if n := r.passwords.hasher.Hashes() - before; n > 100 {
		t.Errorf("%d turns", n)
	}
}

func TestBusy(t *testing.T) {
	err := busy(errors.Join(errors.New("x")))
	if code(err) != "" {
		t.Errorf("an unrelated error became %v", err)
	}
	r := open(t, Options{Settings: Settings{Passwords: true, MaxHashes: 1, HashWait: time.Nanosecond}})
	// Keep the only turn taken while others ask for it.
	holding, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		r.passwords.hasher.Verify(t.Context(), auth.Check{Password: []byte("x"), Still: func() error {
			close(holding)
			<-release
			return errors.New("enough")
		}})
	})
	<-holding
	_, err = authenticate(r, secret("dev", "x", ""))
	var d *Denied
	if !errors.As(err, &d) || d.Code != ServerBusy || d.Reason != Busy {
		t.Errorf("authenticate: %v, want ServerBusy", err)
	}
	if _, _, err := r.PutClient(t.Context(), "dev", ClientSpec{Password: ptr("secret")}, Condition{}); code(err) != fault.TooManyRequests {
		t.Errorf("put: %v, want TooManyRequests", err)
	}
	close(release)
	wg.Wait()
}

func TestMetrics(t *testing.T) {
	r := open(t, Options{Settings: Settings{Passwords: true, Anonymous: "all"}})
	reg := prometheus.NewPedanticRegistry()
	if err := r.Register(reg); err != nil {
		t.Fatal(err)
	}
	if err := r.Register(reg); err == nil {
		t.Error("registering twice is no error")
	}
	put(t, r, "dev", ClientSpec{Password: ptr("secret")})
	authenticate(r, secret("dev", "secret", ""))
	authenticate(r, secret("dev", "x", ""))
	authenticate(r, Proof{ClientID: "x"})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"rollcall_registry_authentications_total anonymous admitted": 1,
		"rollcall_registry_authentications_total password admitted":  1,
		"rollcall_registry_authentications_total password password":  1,
		"rollcall_registry_clients":                                  1,
		"rollcall_registry_cas":                                      0,
		"rollcall_registry_events_owed":                              0,
		"rollcall_registry_password_hashes_total":                    3,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// What one customer or organization has of IPv6 counts as one source; IPv4
// addresses count alone, however they are written.
func TestGuessingFromNetworks(t *testing.T) {
	for _, c := range []struct{ source, net, site string }{
		{"192.0.2.7", "192.0.2.7", ""},
		{"::ffff:192.0.2.7", "::ffff:192.0.2.7", ""},
		{"2001:db8:1:2::1", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"2001:db8:1:2:3:4:5:6%eth0", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"", "", ""}, {"nonsense", "nonsense", ""},
	} {
		if net, site := network(c.source); net != c.net || site != c.site {
			t.Errorf("%q is of %q and %q, want %q and %q", c.source, net, site, c.net, c.site)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		r := open(t, Options{Settings: Settings{Passwords: true, PasswordCost: cheap}})
		try := func(user, source string) Reason {
			_, err := authenticate(r, secret(user, "x", source))
			return reason(err)
		}
		for i := range clientBurst {
			if got := try("dev", fmt.Sprintf("2001:db8:1:2::%x", i)); got != WrongSecret {
				t.Fatalf("attempt %d: %q", i+1, got)
			}
		}
		if got := try("dev", "2001:db8:1:2::ffff"); got != Limited {
			t.Errorf("a new address of the same /64: %q, want limited", got)
		}
		for i := range siteBurst {
			at := attempt{name: fmt.Sprint("name", i)}
			at.net, at.site = network(fmt.Sprintf("2001:db8:1:%x::1", i))
			r.passwords.failed(at)
		}
		if got := try("another", "2001:db8:1:ffff::1"); got != Limited {
			t.Errorf("a new /64 of the same /48: %q, want limited", got)
		}
		if got := try("else", "2001:db8:9::1"); got != WrongSecret {
			t.Errorf("another /48: %q", got)
		}
	})
}

// A name that is guessed from everywhere is judged slowly, and never locked:
// who knows the password gets in.
func TestGuessingFromEverywhereDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, Options{Settings: Settings{Passwords: true, PasswordCost: cheap}})
		put(t, r, "dev", ClientSpec{Password: ptr("secret")})
		for i := range 2 * nameBurst {
			r.passwords.failed(attempt{name: filter.Fold("dev"), net: fmt.Sprintf("192.0.2.%d", i)})
		}
		began := time.Now()
		if _, err := authenticate(r, secret("dev", "secret", "198.51.100.1")); err != nil {
			t.Errorf("who knows the password is refused: %v", err)
		}
		if d := time.Since(began); d <= 0 || d > nameDelay {
			t.Errorf("it took %v, want up to %v", d, nameDelay)
		}
		began = time.Now()
		if _, err := authenticate(r, secret("dev", "secret", "198.51.100.1")); err != nil || time.Since(began) != 0 {
			t.Errorf("once known: %v after %v", err, time.Since(began))
		}
	})
}

// Who guesses the password of one client from everywhere does not keep out
// another client that is guessed at too, and has turns with it.
func TestDelayedPasswordsAreSharedByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, Options{Settings: Settings{Passwords: true, PasswordCost: cheap}})
		p := r.passwords
		due, refused := map[string]int{}, map[string]int{}
		var mu sync.Mutex
		delay := func(name, net string) bool {
			count := func(m map[string]int) func() {
				return func() {
					mu.Lock()
					defer mu.Unlock()
					m[name]++
				}
			}
			return p.delay(attempt{name: name, net: net}, time.Second, count(due), count(refused))
		}
		for i := range maxDelayed {
			if !delay("loud", fmt.Sprint("net-", i/2)) {
				t.Fatalf("attempt %d does not wait", i)
			}
		}
		if delay("loud", "one more") {
			t.Error("more wait than may")
		}
		for i := range mayDelay {
			if !delay("quiet", "home") {
				t.Errorf("attempt %d of another name does not wait", i)
			}
		}
		if delay("quiet", "home") {
			t.Error("more of one client and network wait than may")
		}
		waiting := func() (attempts, names int) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.total, len(p.delayed)
		}
		if n, _ := waiting(); refused["loud"] != mayDelay || n != maxDelayed {
			t.Errorf("%v were refused, %d wait", refused, n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		n, names := waiting()
		mu.Lock()
		defer mu.Unlock()
		if due["loud"] != maxDelayed-mayDelay || due["quiet"] != mayDelay || len(refused) != 1 || n != 0 || names != 0 {
			t.Errorf("%v had their turn, %v were refused, %d and %d are left", due, refused, n, names)
		}
	})
}
