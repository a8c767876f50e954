package registry

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/fault"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/setaside"
)

func overwrite(t *testing.T, e store.Engine, key, value []byte) {
	t.Helper()
	b := store.NewBatch(store.Normal)
	b.Put(key, value)
	if _, err := store.Commit(t.Context(), e, b); err != nil {
		t.Fatal(err)
	}
}

// What cannot be read any more when a change meets it keeps its name from being
// used, is set aside, and is replaced by who writes it anew.
func TestUnreadableWhenReadAgain(t *testing.T) {
	e := mem.New()
	defer e.Close()
	aside := setaside.New(nil)
	r := open(t, Options{Engine: e, SetAside: aside})
	put(t, r, "dev", ClientSpec{AuthenticationName: "Name"})
	ca := newIssuer(t, nil, "one")
	putCA(t, r, "one", ca)
	overwrite(t, e, clientKey(r.realm, "dev"), []byte{99})
	overwrite(t, e, caKey(r.realm, "one"), []byte{99})
	if c, _, err := r.PutClient(t.Context(), "dev", ClientSpec{Description: "new"}, Condition{}); err != nil || c.State == Disabled || c.Description != "new" {
		t.Errorf("written anew: %+v, %v", c, err)
	}
	if _, _, err := r.PutClient(t.Context(), "other", ClientSpec{AuthenticationName: "NAME"}, Condition{}); code(err) != fault.Conflict {
		t.Errorf("the name of what cannot be read is taken: %v", err)
	}
	if _, _, err := r.PutCA(t.Context(), "one", CASpec{EncodedCertificate: ca.pem()}, Condition{}); err != nil {
		t.Errorf("a CA written anew: %v", err)
	}
	total := uint64(0)
	for _, n := range aside.Counts() {
		total += n
	}
	if total < 2 {
		t.Errorf("set aside: %v", aside.Counts())
	}
	if again := open(t, Options{Engine: e}); again != nil {
		if c, err := again.Client("dev"); err != nil || c.Description != "new" {
			t.Errorf("reopened: %+v, %v", c, err)
		}
	}
}

// The debounce time and its cap are checked.
func TestCoalesceIsChecked(t *testing.T) {
	e := mem.New()
	defer e.Close()
	for _, c := range []struct {
		debounce, ceiling time.Duration
		ok                bool
	}{
		{0, 0, true}, {time.Second, 0, true}, {time.Second, time.Second, true}, {time.Second, 2 * time.Second, true},
		{time.Second, time.Second - 1, false}, {-1, 0, false}, {0, -1, false}, {0, time.Second, true},
	} {
		r, err := Open(t.Context(), Options{Engine: e, Realm: "default", Coalesce: c.debounce, CoalesceCap: c.ceiling, Settings: Settings{PasswordCost: cheap}})
		if (err == nil) != c.ok {
			t.Errorf("%v, %v: %v", c.debounce, c.ceiling, err)
		}
		if err == nil {
			r.Close()
		}
	}
	for _, o := range []Options{{Realm: "default"}, {Engine: e}} {
		if _, err := Open(t.Context(), o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// Digests of passwords that were verified have a key that no other process has.
func TestDigestsAreKeyed(t *testing.T) {
	c := clock.SteadyOf(clock.System{})
	one, err := newPasswordVerifier(Settings{PasswordCost: cheap}, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	two, err := newPasswordVerifier(Settings{PasswordCost: cheap}, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, b := one.digest([]byte("secret")), two.digest([]byte("secret"))
	if *a == *b || one.key == [len(one.key)]byte{} {
		t.Error("two verifiers have one key")
	}
	if *a != *one.digest([]byte("secret")) || *a == *one.digest([]byte("Secret")) {
		t.Error("a digest does not tell its password")
	}
}

// A store that ends while a change of unknown outcome is looked up is told to the
// caller, who does not wait for ever.
func TestUnknownOutcomeAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ending{Engine: mem.New()}
		r := open(t, Options{Engine: e})
		put(t, r, "dev", ClientSpec{})
		e.ends = true
		_, _, err := r.PutClient(t.Context(), "dev", ClientSpec{Description: "x"}, Condition{})
		if code(err) != fault.Unavailable {
			t.Errorf("%v", err)
		}
		r.Close()
		e.Engine.Close()
	})
}

// ending is an engine that is closed by the next batch: that has an unknown
// outcome, and nothing can be read any more.
type ending struct {
	store.Engine
	ends, over bool
}

func (e *ending) Submit(b *store.Batch, done func(store.Result)) {
	if e.ends {
		e.over = true
		go done(store.Result{Err: store.ErrUnknown})
		return
	}
	e.Engine.Submit(b, done)
}

func (e *ending) Snapshot() store.Snapshot {
	if e.over {
		return closedView{e.Engine.Snapshot()}
	}
	return e.Engine.Snapshot()
}

type closedView struct{ store.Snapshot }

func (closedView) Get([]byte) ([]byte, store.Revision, error) { return nil, 0, store.ErrClosed }

// The longest description is taken, one byte more is not.
func TestDescriptionBound(t *testing.T) {
	r := open(t, Options{})
	for n, good := range map[int]bool{maxDescription: true, maxDescription + 1: false} {
		_, _, err := r.PutClient(t.Context(), "dev", ClientSpec{Description: strings.Repeat("d", n)}, Condition{})
		if (err == nil) != good {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
