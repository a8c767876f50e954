package registry

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/fault"
	"rollcall/internal/filter"
	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

// A client is found, changed and deleted by its name in any case; the name
// stays as it was created, also over a restart.
func TestClientInAnyCase(t *testing.T) {
	dir := t.TempDir() + "/store"
	e := openPebble(t, dir)
	r := open(t, Options{Engine: e})
	put(t, r, "Pump-7", ClientSpec{})
	_, created, err := r.PutClient(t.Context(), "pUMP-7", ClientSpec{Description: "changed"}, Condition{})
	if err != nil || created {
		t.Fatalf("write in another case: created %v, %v", created, err)
	}
	if _, _, err := r.PutClient(t.Context(), "PUMP-7", ClientSpec{}, Condition{Absent: true}); code(err) != fault.PreconditionFailed {
		t.Errorf("create in another case: %v", err)
	}
	check := func(r *Registry) {
		t.Helper()
		c, err := r.Client("PUMP-7")
		if err != nil || c.Name != "Pump-7" || c.AuthenticationName != "Pump-7" || c.Description != "changed" {
			t.Errorf("found %+v, %v", c, err)
		}
		if n, _ := r.Count(); n != 1 {
			t.Errorf("there are %d clients", n)
		}
	}
	check(r)
	r.Close()
	e.Close()
	e = openPebble(t, dir)
	r = open(t, Options{Engine: e})
	check(r)
	if existed, err := r.DeleteClient(t.Context(), "pump-7", Condition{}); !existed || err != nil {
		t.Fatalf("delete in another case: %v, %v", existed, err)
	}
	if c := put(t, r, "PUMP-7", ClientSpec{}); c.Name != "PUMP-7" {
		t.Errorf("created again as %s", c.Name)
	}
}

// Creations that race make one client, through whichever registry they come.
func TestRacingCases(t *testing.T) {
	e := openPebble(t, t.TempDir()+"/store")
	one, two := open(t, Options{Engine: e}), open(t, Options{Engine: e})
	for i := range 50 {
		var wg sync.WaitGroup
		for j, name := range []string{"dev%d", "Dev%d", "dEV%d", "DEV%d"} {
			r := []*Registry{one, two}[j%2]
			wg.Go(func() {
				// The authentication names differ: they are not what decides.
				_, _, err := r.PutClient(t.Context(), fmt.Sprintf(name, i), ClientSpec{AuthenticationName: fmt.Sprint(j, "-", i)}, Condition{})
				if c := code(err); err != nil && c != fault.Conflict && c != fault.InvalidRequest {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	one.Close()
	two.Close()
	r := open(t, Options{Engine: e})
	all, _ := r.Clients("", 0, nil)
	if len(all) != 50 {
		t.Errorf("%d clients, want 50", len(all))
	}
	for _, c := range all {
		if _, err := r.DeleteClient(t.Context(), strings.ToLower(c.Name), Condition{}); err != nil {
			t.Error(err)
		}
	}
	s := e.Snapshot()
	defer s.Close()
	it := s.Iter(store.AppendKey(nil, partition, store.TableClientName, "default"), store.PrefixEnd(store.AppendKey(nil, partition, store.TableClientName, "default")))
	defer it.Close()
	if it.Next() {
		t.Errorf("%q is left", it.Key())
	}
}

// Clients of versions that told names apart by case: each is found as it is
// spelled, a name that could be either is refused, no third is created, and the
// last one left is found in any case.
func TestClientsThatDifferInCase(t *testing.T) {
	e := openPebble(t, t.TempDir()+"/store")
	b := store.NewBatch(store.Normal)
	for i, name := range []string{"dev", "DEV", "alone"} {
		c := &clientRecord{mark: fmt.Sprint(i), Client: Client{
			Name: name, AuthenticationName: fmt.Sprint("auth", i), State: Enabled, ValidationScheme: SubjectMatches, CreatedOn: time.Unix(1, 0), UpdatedOn: time.Unix(1, 0),
		}}
		b.Put(clientKey("default", name), c.encode())
		b.Put(nameKey("default", filter.Fold(c.AuthenticationName)), []byte(name))
	}
	// What an older version leaves when it deletes a client of this one.
	b.Put(foldedKey("default", "gone"), []byte("Gone"))
	written := make(chan store.Result, 1)
	e.Submit(b, func(res store.Result) { written <- res })
	if res := <-written; res.Err != nil {
		t.Fatal(res.Err)
	}
	r := open(t, Options{Engine: e})
	for _, name := range []string{"dev", "DEV"} {
		if c, err := r.Client(name); err != nil || c.Name != name {
			t.Errorf("%s finds %s, %v", name, c.Name, err)
		}
	}
	_, err := r.Client("Dev")
	_, _, putErr := r.PutClient(t.Context(), "Dev", ClientSpec{}, Condition{})
	_, deleteErr := r.DeleteClient(t.Context(), "Dev", Condition{})
	for _, err := range []error{err, putErr, deleteErr} {
		if code(err) != fault.Conflict || !strings.Contains(err.Error(), "'DEV' and 'dev'") {
			t.Errorf("a name that could be either: %v", err)
		}
	}
	if c := put(t, r, "dev", ClientSpec{Description: "mine"}); c.AuthenticationName != "auth0" {
		t.Errorf("wrote %+v", c)
	}
	if c := put(t, r, "ALONE", ClientSpec{}); c.Name != "alone" {
		t.Errorf("wrote %+v", c)
	}
	if c := put(t, r, "gone", ClientSpec{}); c.Name != "gone" {
		t.Errorf("wrote %+v", c)
	}
	if _, err := r.DeleteClient(t.Context(), "DEV", Condition{}); err != nil {
		t.Fatal(err)
	}
	if c, err := r.Client("Dev"); err != nil || c.Name != "dev" || c.Description != "mine" {
		t.Errorf("the one that is left: %+v, %v", c, err)
	}
}

func openPebble(t *testing.T, dir string) *pebble.Engine {
	t.Helper()
	e, err := pebble.Open(pebble.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}
