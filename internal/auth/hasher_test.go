package auth

import (
	"context"
	"errors"
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
		if got, err := h.Verify(ctx, c.hash, []byte(c.password), nil); got != c.want || err != nil {
			t.Errorf("Verify(%q, %q) = %v, %v, want %v", c.hash, c.password, got, err, c.want)
		}
	}
	if n := h.Hashes(); n != 7 {
		t.Errorf("%d hashes were computed, want 7: a missing hash must cost one too", n)
	}
	if _, err := h.Verify(ctx, "nonsense", []byte("x"), nil); err == nil {
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

// One turn at once; the others wait, within bounds of number and time.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHasher(t, HasherOptions{Parallel: 1, MaxWaiting: 2, Wait: 3 * time.Second})
		if err := h.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		results := make(chan error, 2)
		for range 2 {
			wg.Go(func() { results <- h.enter(t.Context()) })
		}
		synctest.Wait()
		if err := h.enter(t.Context()); !errors.Is(err, ErrBusy) {
			t.Fatalf("the third to wait got %v, want ErrBusy", err)
		}
		began := time.Now()
		h.leave()
		if err := <-results; err != nil {
			t.Fatalf("the first turn gave %v", err)
		}
		if err := <-results; !errors.Is(err, ErrBusy) {
			t.Fatalf("who waited too long got %v, want ErrBusy", err)
		}
		if d := time.Since(began); d != 3*time.Second {
			t.Fatalf("it waited %v, want 3s", d)
		}
		wg.Wait()
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		wg.Go(func() { results <- h.enter(ctx) })
		synctest.Wait()
		cancel(gone)
		if err := <-results; !errors.Is(err, gone) {
			t.Fatalf("a cancelled wait gave %v, want the cause", err)
		}
		if n := h.waiting.Load(); n != 0 {
			t.Fatalf("%d are still counted as waiting", n)
		}
	})
}

// The caller may change its mind while it waits.
func TestVerifyAsksAgain(t *testing.T) {
	h := newHasher(t, HasherOptions{})
	no := errors.New("no")
	if _, err := h.Verify(t.Context(), "", []byte("x"), func() error { return no }); !errors.Is(err, no) {
		t.Fatalf("got %v, want the caller's error", err)
	}
	if len(h.turns) != 0 {
		t.Fatal("the turn was not given back")
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
