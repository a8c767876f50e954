package auth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var cheap = Params{Memory: 8192, Time: 1, Threads: 1}

func newHasher(t testing.TB, o HasherOptions) *Hasher {
	t.Helper()
	if o.Params == (Params{}) {
		o.Params = cheap
	}
	h, err := NewHasher(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHashAndVerify(t *testing.T) {
	h, ctx := newHasher(t, HasherOptions{}), t.Context()
	hash, err := h.Hash(ctx, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	other, _ := h.Hash(ctx, []byte("secret"))
	if hash == other {
		t.Error("two hashes of one password are equal: the salt is not random")
	}
	for _, c := range []struct {
		hash, password string
		want           bool
	}{{hash, "secret", true}, {hash, "Secret", false}, {hash, "", false}, {"", "secret", false}, {"", "", false}} {
		if got, err := h.Verify(ctx, Check{Hash: c.hash, Password: []byte(c.password)}); got != c.want || err != nil {
			t.Errorf("Verify(%q, %q) = %v, %v, want %v", c.hash, c.password, got, err, c.want)
		}
	}
	if n := h.Hashes(); n != 7 {
		t.Errorf("%d hashes were computed, want 7: a missing hash must cost one too", n)
	}
	if _, err := h.Verify(ctx, Check{Hash: "nonsense", Password: []byte("x")}); err == nil {
		t.Error("a malformed hash is accepted")
	}
}

func TestHasherRefusesCosts(t *testing.T) {
	for _, p := range []Params{{Memory: 1, Time: 1, Threads: 1}, {Memory: 8192, Threads: 1}, {Memory: 8192, Time: 1}, {Memory: 2 << 20, Time: 1, Threads: 1}} {
		if _, err := NewHasher(HasherOptions{Params: p}); err == nil {
			t.Errorf("%+v is accepted", p)
		}
	}
}

// One turn at once; the others wait, within bounds of number and time, and the
// sources they come from have turns in turn.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHasher(t, HasherOptions{Parallel: 1, MaxWaiting: 6, Wait: 3 * time.Second})
		var mu sync.Mutex
		var order []string
		step := make(chan struct{})
		ask := func(source, name string) {
			h.submit(source, func() {
				<-step
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
			}, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				if !errors.Is(err, ErrBusy) {
					t.Errorf("%s got %v, want ErrBusy", name, err)
				}
				order = append(order, "no "+name)
			})
		}
		ask("a", "a1")
		for _, name := range []string{"a2", "a3", "a4", "a5", "a6", "a7", "a8"} {
			ask("a", name) // the last is refused: nobody has more than a
		}
		ask("b", "b1") // a gives one up
		ask("b", "b2")
		ask("c", "c1")
		for range 7 {
			step <- struct{}{}
		}
		synctest.Wait()
		want := "[no a8 no a7 no a6 no a5 a1 b1 c1 a2 b2 a3 a4]"
		if got := fmt.Sprint(order); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if n := h.Waiting(); n != 0 {
			t.Errorf("%d wait yet", n)
		}

		order = nil
		ask("a", "a1")
		ask("a", "a2")
		time.Sleep(3*time.Second + 1) // virtual
		synctest.Wait()
		step <- struct{}{}
		synctest.Wait()
		if got := fmt.Sprint(order); got != "[no a2 a1]" {
			t.Errorf("got %s, want a2 to be refused after its time", got)
		}
	})
}

// The caller may change its mind while it waits, or give up.
func TestVerifyAsksAgain(t *testing.T) {
	h := newHasher(t, HasherOptions{})
	no := errors.New("no")
	if _, err := h.Verify(t.Context(), Check{Password: []byte("x"), Still: func() error { return no }}); !errors.Is(err, no) {
		t.Fatalf("got %v, want the caller's error", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	before := h.Hashes()
	if _, err := h.Verify(ctx, Check{Password: []byte("x")}); !errors.Is(err, gone) || h.Hashes() != before {
		t.Fatalf("got %v after %d hashes, want the cause and none", err, h.Hashes()-before)
	}
}

func TestThrottle(t *testing.T) {
	now := time.Hour
	th := NewThrottle(1024, 3, time.Second, now)
	for i := range 3 {
		if !th.Allowed("a", now) {
			t.Fatalf("failure %d is not allowed", i+1)
		}
		th.Failed("a", now)
	}
	if th.Allowed("a", now) {
		t.Fatal("a fourth failure is allowed at once")
	}
	if !th.Allowed("b", now) {
		t.Fatal("another key pays for it")
	}
	if th.Allowed("a", now+999*time.Millisecond) || !th.Allowed("a", now+time.Second) {
		t.Fatal("a failure does not recover in one second")
	}
	for range 1000 {
		th.Failed("a", now)
	}
	if th.Allowed("a", now+3*time.Second) || !th.Allowed("a", now+4*time.Second) {
		t.Fatal("the debt is not bounded by twice the burst")
	}
}

func BenchmarkHash(b *testing.B) {
	h := newHasher(b, HasherOptions{Params: DefaultParams()})
	for b.Loop() {
		if _, err := h.Hash(b.Context(), []byte("secret")); err != nil {
			b.Fatal(err)
		}
	}
}
