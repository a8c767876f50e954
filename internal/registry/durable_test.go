package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"rollcall/internal/fault"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/pebble"
)

func TestReopen(t *testing.T) {
	dir := t.TempDir() + "/store"
	openStore := func() *pebble.Engine {
		e, err := pebble.Open(pebble.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	root := newIssuer(t, nil, "root")
	settings := Settings{Passwords: true}
	engine := openStore()
	r := open(t, Options{Engine: engine, Settings: settings})
	other := open(t, Options{Engine: engine, Realm: "other"})
	put(t, other, "dev", ClientSpec{Description: "of another namespace"})
	put(t, r, "dev", ClientSpec{
		AuthenticationName: "Dev", Password: ptr("secret"), Description: "d", ValidationScheme: "ThumbprintMatch",
		AllowedThumbprints: []string{thumb1(root.cert)}, Attributes: map[string]any{"a": "b", "n": 7, "l": []string{"x", ""}, "t": true},
	})
	put(t, r, "ip", ClientSpec{AuthenticationName: "2001:DB8::0:1"})
	put(t, r, "gone", ClientSpec{})
	r.DeleteClient(t.Context(), "gone", Condition{})
	putCA(t, r, "root", root)
	want, _ := r.Clients("", 0, nil)
	wantCA, _ := r.CA("root")
	r.Close()
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}

	engine = openStore()
	defer engine.Close()
	r = open(t, Options{Engine: engine, Settings: settings})
	if got, _ := r.Clients("", 0, nil); !reflect.DeepEqual(got, want) {
		t.Errorf("clients after reopening\ngot  %+v\nwant %+v", got, want)
	}
	if got, err := r.CA("ROOT"); err != nil || got.EncodedCertificate != wantCA.EncodedCertificate || got.Revision != wantCA.Revision || !got.UpdatedOn.Equal(wantCA.UpdatedOn) {
		t.Errorf("CA after reopening: %v\ngot  %+v\nwant %+v", err, got, wantCA)
	}
	if _, err := authenticate(r, Proof{UserName: "DEV", HasUser: true, Password: []byte("secret"), Loopback: true}); err != nil {
		t.Errorf("password after reopening: %v", err)
	}
	if _, _, err := r.PutClient(t.Context(), "x", ClientSpec{AuthenticationName: "dev"}, Condition{}); code(err) != fault.Conflict {
		t.Errorf("a taken name after reopening: %v", err)
	}
	if e := r.view.Load().byAddress("2001:db8::1"); e == nil || e.Name != "ip" {
		t.Errorf("found %v by address", e)
	}
}

func TestFullStore(t *testing.T) {
	engine := mem.New()
	defer engine.Close()
	r := open(t, Options{Engine: engine, Stager: newRecorder(), Settings: Settings{MaxClients: 3}})
	root := newIssuer(t, nil, "root")
	put(t, r, "a", ClientSpec{})
	put(t, r, "b", ClientSpec{})
	putCA(t, r, "root", root)
	engine.SetFull(true)
	for range 3 { // a refused creation takes no place
		if _, _, err := r.PutClient(t.Context(), "c", ClientSpec{}, Condition{}); code(err) != fault.InsufficientSpace {
			t.Errorf("create: %v", err)
		}
	}
	if _, _, err := r.PutClient(t.Context(), "a", ClientSpec{Description: "x"}, Condition{}); code(err) != fault.InsufficientSpace {
		t.Errorf("update: %v", err)
	}
	if _, _, err := r.PutCA(t.Context(), "ca2", CASpec{EncodedCertificate: root.pem()}, Condition{}); code(err) != fault.InsufficientSpace {
		t.Errorf("create a CA: %v", err)
	}
	// What shuts somebody out or makes room goes on.
	put(t, r, "a", ClientSpec{State: "Disabled"})
	if existed, err := r.DeleteClient(t.Context(), "b", Condition{}); !existed || err != nil {
		t.Errorf("delete: %v, %v", existed, err)
	}
	if existed, err := r.DeleteCA(t.Context(), "root", Condition{}); !existed || err != nil {
		t.Errorf("delete a CA: %v, %v", existed, err)
	}
	engine.SetFull(false)
	put(t, r, "c", ClientSpec{})
	put(t, r, "d", ClientSpec{})
}

// Outcomes that the engine cannot tell are found out, and the view is right.
func TestUnknownOutcomes(t *testing.T) {
	for _, f := range []struct {
		fault   delay.Fault
		applied bool
	}{{delay.UnknownApplied, true}, {delay.UnknownLost, false}} {
		var next delay.Fault
		engine := delay.New(mem.New(), delay.Options{Max: -1, Fault: func(*store.Batch) delay.Fault { return next }})
		r := open(t, Options{Engine: engine, Settings: Settings{MaxClients: 4}})
		put(t, r, "old", ClientSpec{})
		put(t, r, "doomed", ClientSpec{})
		next = f.fault
		_, created, err := r.PutClient(t.Context(), "new", ClientSpec{}, Condition{})
		if created != f.applied || (err == nil) != f.applied {
			t.Errorf("%v: create: %v, %v", f.fault, created, err)
		}
		if !f.applied && !errors.Is(err, store.ErrUnknown) {
			t.Errorf("%v: create: %v, want ErrUnknown", f.fault, err)
		}
		_, _, err = r.PutClient(t.Context(), "old", ClientSpec{State: "Disabled"}, Condition{})
		if (err == nil) != f.applied {
			t.Errorf("%v: update: %v", f.fault, err)
		}
		existed, err := r.DeleteClient(t.Context(), "doomed", Condition{})
		if existed != f.applied || (err == nil) != f.applied {
			t.Errorf("%v: delete: %v, %v", f.fault, existed, err)
		}
		root := newIssuer(t, nil, "root")
		_, created, err = r.PutCA(t.Context(), "root", CASpec{EncodedCertificate: root.pem()}, Condition{})
		if created != f.applied || (err == nil) != f.applied {
			t.Errorf("%v: create a CA: %v, %v", f.fault, created, err)
		}
		next = delay.None
		_, err = r.Client("new")
		if (err == nil) != f.applied {
			t.Errorf("%v: the new client: %v", f.fault, err)
		}
		if old, _ := r.Client("old"); (old.State == Disabled) != f.applied {
			t.Errorf("%v: the old client is %s", f.fault, old.State)
		}
		if _, err := r.Client("doomed"); (err != nil) != f.applied {
			t.Errorf("%v: the doomed client: %v", f.fault, err)
		}
		if n := len(r.view.Load().trust.cas); (n == 1) != f.applied {
			t.Errorf("%v: %d CAs", f.fault, n)
		}
		if r.creating != [2]int{} {
			t.Errorf("%v: places are held for %v creations", f.fault, r.creating)
		}
		put(t, r, "another", ClientSpec{})
		engine.Close()
	}
}

// Somebody else writes to the store too: conflicts bring the view up to date.
func TestAnotherWriter(t *testing.T) {
	engine := mem.New()
	defer engine.Close()
	one := open(t, Options{Engine: engine})
	two := open(t, Options{Engine: engine})
	put(t, one, "dev", ClientSpec{AuthenticationName: "Dev"})
	put(t, two, "dev", ClientSpec{Description: "two"}) // has read the store
	c, _, err := one.PutClient(t.Context(), "dev", ClientSpec{Description: "one"}, Condition{})
	if err != nil || c.AuthenticationName != "Dev" {
		t.Fatalf("%v: %+v", err, c)
	}
	if _, _, err := two.PutClient(t.Context(), "x", ClientSpec{AuthenticationName: "DEV"}, Condition{}); code(err) != fault.Conflict {
		t.Errorf("a name that another writer took: %v", err)
	}
	var wg sync.WaitGroup
	for i, r := range []*Registry{one, two} {
		wg.Go(func() {
			for n := range 50 {
				_, _, err := r.PutClient(t.Context(), "dev", ClientSpec{Description: fmt.Sprint(i, n)}, Condition{})
				if err != nil && code(err) != fault.Conflict {
					t.Errorf("writer %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	rec, rev, err := one.readClient("dev")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := one.Client("dev")
	b, _ := two.Client("dev")
	if newest := max(a.Revision, b.Revision); newest != rev || rec.Description == "" {
		t.Errorf("revisions %d and %d in view, %d in the store", a.Revision, b.Revision, rev)
	}
}

func TestImpatientCaller(t *testing.T) {
	engine := mem.New()
	defer engine.Close()
	r := open(t, Options{Engine: engine})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := r.PutClient(ctx, "a", ClientSpec{}, Condition{})
	if err != nil && (!errors.Is(err, store.ErrUnknown) || code(err) != fault.Unavailable) {
		t.Errorf("got %v", err)
	}
	r.Close()
	if _, err := r.Client("a"); err != nil {
		t.Errorf("the change was not made visible: %v", err)
	}
	if _, _, err := r.PutClient(t.Context(), "b", ClientSpec{}, Condition{}); code(err) != fault.Unavailable {
		t.Errorf("a write after Close: %v", err)
	}
}

// Random writes on an engine that is slow and fails: the view ends as the
// store does, and as a fresh registry reads it.
func TestViewFollowsTheStore(t *testing.T) {
	var mu sync.Mutex
	chance := rand.New(rand.NewPCG(1, 2))
	engine := delay.New(mem.New(), delay.Options{Max: 500 * time.Microsecond, Seed: 7, Fault: func(*store.Batch) delay.Fault {
		mu.Lock()
		defer mu.Unlock()
		if chance.IntN(5) > 0 {
			return delay.None
		}
		return []delay.Fault{delay.Conflict, delay.Full, delay.UnknownApplied, delay.UnknownLost}[chance.IntN(4)]
	}})
	defer engine.Close()
	r := open(t, Options{Engine: engine})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			dice := rand.New(rand.NewPCG(uint64(w), 3))
			for range 100 {
				name := fmt.Sprint("c", dice.IntN(6))
				if dice.IntN(3) == 0 {
					r.DeleteClient(t.Context(), name, Condition{})
					continue
				}
				r.PutClient(t.Context(), name, ClientSpec{
					AuthenticationName: fmt.Sprint("n", dice.IntN(8)), Description: fmt.Sprint(dice.IntN(1000)),
				}, Condition{})
			}
		})
	}
	wg.Wait()
	fresh := open(t, Options{Engine: engine})
	got, _ := r.Clients("", 0, nil)
	want, _ := fresh.Clients("", 0, nil)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the view and the store differ\nview  %+v\nstore %+v", got, want)
	}
	for _, c := range want {
		if e := r.view.Load().byName(c.AuthenticationName); e == nil || e.Name != c.Name {
			t.Errorf("authentication name %s leads to %v", c.AuthenticationName, e)
		}
	}
	if a, b := r.view.Load().names.Len(), len(want); a != b {
		t.Errorf("%d names for %d clients", a, b)
	}
	if r.creating != [2]int{} {
		t.Errorf("places are held for %v creations", r.creating)
	}
}

// meddled is an engine that lets something happen between the taking of a
// snapshot and its reading.
type meddled struct {
	store.Engine
	mu   sync.Mutex
	next func()
}

func (m *meddled) arm(f func()) {
	m.mu.Lock()
	m.next = f
	m.mu.Unlock()
}

func (m *meddled) Snapshot() store.Snapshot {
	s := m.Engine.Snapshot()
	m.mu.Lock()
	f := m.next
	m.next = nil
	m.mu.Unlock()
	if f != nil {
		f()
	}
	return s
}

// What is read again after a conflict does not undo what became visible
// meanwhile.
func TestRereadingIsNotOutdated(t *testing.T) {
	var r *Registry
	engine := &meddled{}
	conflict := false
	engine.Engine = delay.New(mem.New(), delay.Options{Max: -1, Fault: func(*store.Batch) delay.Fault {
		if !conflict {
			return delay.None
		}
		conflict = false
		engine.arm(func() {
			if existed, err := r.DeleteClient(t.Context(), "a", Condition{}); !existed || err != nil {
				t.Errorf("delete: %v, %v", existed, err)
			}
		})
		return delay.Conflict
	}})
	defer engine.Close()
	r = open(t, Options{Engine: engine})
	c := put(t, r, "a", ClientSpec{})
	conflict = true
	if _, _, err := r.PutClient(t.Context(), "a", ClientSpec{Description: "x"}, Condition{Revision: c.Revision}); code(err) != fault.PreconditionFailed {
		t.Errorf("put: %v, want PreconditionFailed", err)
	}
	if c, err := r.Client("a"); err == nil {
		t.Errorf("the deleted client is back: %+v", c)
	}
}

func TestRacingCAs(t *testing.T) {
	engine := mem.New()
	defer engine.Close()
	one, two := open(t, Options{Engine: engine}), open(t, Options{Engine: engine})
	root := newIssuer(t, nil, "root")
	for n := range 20 {
		var created [2]bool
		var errs [2]error
		var wg sync.WaitGroup
		for i, r := range []*Registry{one, two} {
			wg.Go(func() {
				_, created[i], errs[i] = r.PutCA(t.Context(), "root", CASpec{Description: fmt.Sprint(i), EncodedCertificate: root.pem()}, Condition{Absent: true})
			})
		}
		wg.Wait()
		if created[0] == created[1] || (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("round %d: created %v, %v, want exactly one", n, created, errs)
		}
		if existed, err := one.DeleteCA(t.Context(), "root", Condition{}); !existed || err != nil {
			t.Fatal(existed, err)
		}
	}
}
