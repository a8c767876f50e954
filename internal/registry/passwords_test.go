package registry

import (
	"errors"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/fault"
)

func secret(user, password, source string) Proof {
	return Proof{UserName: user, HasUser: true, Password: []byte(password), Confidential: true, Source: source}
}

// A password that was right is not hashed again, until the client's changes;
// one that was wrong always is.
func TestVerifiedPasswordsAreCheap(t *testing.T) {
	r := open(t, Options{Settings: Settings{Passwords: true}})
	put(t, r, "dev", ClientSpec{Password: ptr("secret")})
	hashes := r.passkeys.hasher.Hashes
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
		_, err := r.Authenticate(t.Context(), secret("dev", c.password, ""))
		if reason(err) != c.want || hashes()-before != c.cost {
			t.Errorf("%s: %v at %d hashes, want %q at %d", c.name, err, hashes()-before, c.want, c.cost)
		}
	}
	before := hashes()
	r.Authenticate(t.Context(), secret("nobody", "secret", ""))
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
			_, err := r.Authenticate(t.Context(), secret(user, password, source))
			return reason(err)
		}
		for i := range clientBurst {
			if got := try("dev", "x", "evil"); got != WrongSecret {
				t.Fatalf("attempt %d: %q", i+1, got)
			}
		}
		before := r.passkeys.hasher.Hashes()
		for _, user := range []string{"dev", "DEV"} {
			if got := try(user, "secret", "evil"); got != Limited {
				t.Errorf("%s after the burst: %q, want limited", user, got)
			}
		}
		if n := r.passkeys.hasher.Hashes() - before; n != 0 {
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
	before := r.passkeys.hasher.Hashes()
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[Reason]int{}
	for range 100 {
		wg.Go(func() {
			_, err := r.Authenticate(t.Context(), secret("dev", "x", "evil"))
			mu.Lock()
			got[reason(err)]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if n := got[WrongSecret]; n < clientBurst || n > clientBurst+2 || got[Limited] != 100-n {
		t.Errorf("%v, want about %d hashed", got, clientBurst)
	}
	if n := r.passkeys.hasher.Hashes() - before; n > 100 {
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
		r.passkeys.hasher.Verify(t.Context(), "", []byte("x"), func() error {
			close(holding)
			<-release
			return errors.New("enough")
		})
	})
	<-holding
	_, err = r.Authenticate(t.Context(), secret("dev", "x", ""))
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
	r.Authenticate(t.Context(), secret("dev", "secret", ""))
	r.Authenticate(t.Context(), secret("dev", "x", ""))
	r.Authenticate(t.Context(), Proof{ClientID: "x"})
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
