package registry

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

// Timelines of one client under a debounce of 3 s, capped at 5 s.
func TestCoalescing(t *testing.T) {
	type step struct {
		at time.Duration
		do string // "put <description>" or "delete"
	}
	for _, c := range []struct {
		name  string
		steps []step
		want  []string // "<second>: kind description"
	}{
		{"create", []step{{0, "put a"}}, []string{"3.0: upserted a"}},
		{"create and two updates in 3 s", []step{{0, "put a"}, {time.Second, "put b"}, {2 * time.Second, "put c"}}, []string{"5.0: upserted c"}},
		{"create and delete in 5 s", []step{{0, "put a"}, {2 * time.Second, "delete"}}, []string{"5.0: deleted a"}},
		{"delete and create again", []step{{0, "put a"}, {10 * time.Second, "delete"}, {11 * time.Second, "put b"}}, []string{"3.0: upserted a", "14.0: upserted b"}},
		{"far apart", []step{{0, "put a"}, {4 * time.Second, "put b"}}, []string{"3.0: upserted a", "7.0: upserted b"}},
		{"never left alone", []step{{0, "put a"}, {2 * time.Second, "put b"}, {4 * time.Second, "put c"}, {6 * time.Second, "put d"}}, []string{"5.0: upserted c", "9.0: upserted d"}},
		{"no change", []step{{0, "put a"}, {4 * time.Second, "put a"}}, []string{"3.0: upserted a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rec, began := newRecorder(), time.Now()
				r := open(t, Options{Stager: rec, Coalesce: 3 * time.Second})
				run(t, r)
				for _, s := range c.steps {
					time.Sleep(time.Until(began.Add(s.at)))
					if d, ok := strings.CutPrefix(s.do, "put "); ok {
						put(t, r, "dev", ClientSpec{Description: d})
					} else if _, err := r.DeleteClient(t.Context(), "dev", Condition{}); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(20 * time.Second)
				synctest.Wait()
				var got []string
				for _, e := range rec.all() {
					kind := map[ChangeKind]string{Upserted: "upserted", Deleted: "deleted"}[e.Kind]
					got = append(got, fmt.Sprintf("%.1f: %s %s", e.Time.Sub(began).Seconds(), kind, e.Client.Description))
				}
				if strings.Join(got, "; ") != strings.Join(c.want, "; ") {
					t.Errorf("got  %q\nwant %q", got, c.want)
				}
				if n := r.Owed(); n != 0 {
					t.Errorf("%d events are still owed", n)
				}
				if e := stored(t, r.engine); len(e) != len(c.want) {
					t.Errorf("stored events: %q", e)
				}
			})
		})
	}
}

// What is owed survives a restart, and is emitted once.
func TestOwedEventsSurviveRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := mem.New()
		defer engine.Close()
		first := open(t, Options{Engine: engine, Stager: newRecorder(), Coalesce: 3 * time.Second})
		stop := run(t, first)
		put(t, first, "a", ClientSpec{Attributes: map[string]any{"n": 1}})
		put(t, first, "b", ClientSpec{})
		first.DeleteClient(t.Context(), "b", Condition{})
		stop()
		first.Close()
		if e := stored(t, engine); len(e) != 0 {
			t.Fatalf("events before their time: %q", e)
		}
		rec := newRecorder()
		second := open(t, Options{Engine: engine, Stager: rec, Coalesce: 3 * time.Second})
		run(t, second)
		time.Sleep(time.Second)
		synctest.Wait()
		got := map[string]ChangeKind{}
		for _, e := range rec.all() {
			got[e.Client.Name] = e.Kind
			if e.Client.Name == "a" && e.Client.Attributes["n"] != int64(1) {
				t.Errorf("the event tells of %+v", e.Client)
			}
		}
		if len(rec.all()) != 2 || got["a"] != Upserted || got["b"] != Deleted || second.Owed() != 0 {
			t.Errorf("after the restart: %v, %d owed", got, second.Owed())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(rec.all()); n != 2 {
			t.Errorf("%d events, want 2", n)
		}
	})
}

// A change under a profile that does not coalesce supersedes what is owed from
// one that did.
func TestOwedEventIsSuperseded(t *testing.T) {
	engine := mem.New()
	defer engine.Close()
	first := open(t, Options{Engine: engine, Stager: newRecorder(), Coalesce: time.Hour})
	put(t, first, "a", ClientSpec{Description: "old"})
	put(t, first, "b", ClientSpec{Description: "old"})
	first.Close()
	rec := newRecorder()
	second := open(t, Options{Engine: engine, Stager: rec})
	put(t, second, "a", ClientSpec{Description: "new"})
	run(t, second)
	for len(rec.all()) < 2 {
		<-rec.wake
	}
	got := map[string]string{}
	for _, e := range rec.all() {
		got[e.Client.Name] = e.Client.Description
	}
	if got["a"] != "new" || got["b"] != "old" || len(rec.all()) != 2 {
		t.Errorf("events tell of %v", got)
	}
}

// Many changes from many goroutines: the last event of every client tells of
// its final state.
func TestCoalescingUnderLoad(t *testing.T) {
	engine, rec := mem.New(), newRecorder()
	defer engine.Close()
	r := open(t, Options{Engine: engine, Stager: rec, Coalesce: 2 * time.Millisecond})
	run(t, r)
	const clients, rounds = 16, 30
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			name := fmt.Sprint("c", i)
			for n := range rounds {
				put(t, r, name, ClientSpec{Description: fmt.Sprint(n)})
				if n%7 == 6 {
					r.DeleteClient(t.Context(), name, Condition{})
				}
			}
		})
	}
	wg.Wait()
	// Wait for the final state of every client, by their last events.
	final := func() (n int, ok bool) {
		last := map[string]Change{}
		for _, e := range rec.all() {
			last[e.Client.Name] = e
			n++
		}
		for i := range clients {
			if e := last[fmt.Sprint("c", i)]; e.Kind != Upserted || e.Client.Description != fmt.Sprint(rounds-1) {
				return n, false
			}
		}
		return n, true
	}
	n, ok := final()
	for ; !ok; n, ok = final() {
		<-rec.wake
	}
	if rec.disord {
		t.Error("the stager was not told in commit order")
	}
	if got := len(stored(t, engine)); got != n {
		t.Errorf("%d events are stored, %d were told of", got, n)
	}
}

// An event that the store has no room for is tried again.
func TestOwedEventWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, rec := mem.New(), newRecorder()
		defer engine.Close()
		r := open(t, Options{Engine: engine, Stager: rec, Coalesce: time.Second})
		stop := run(t, r)
		put(t, r, "a", ClientSpec{})
		engine.SetFull(true)
		engine.SetExhausted(true)
		time.Sleep(10 * time.Second)
		if n := len(rec.all()); n != 0 || r.Owed() != 1 {
			t.Fatalf("%d events on a full store, %d owed", n, r.Owed())
		}
		engine.SetFull(false)
		engine.SetExhausted(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := len(rec.all()); n != 1 || r.Owed() != 0 {
			t.Errorf("%d events, %d owed", n, r.Owed())
		}
		stop()
		if err := r.Run(func() context.Context { c, f := context.WithCancel(t.Context()); f(); return c }()); err != nil {
			t.Error(err)
		}
	})
}

// meddler is a recorder that changes the client just before the first event of
// it is committed.
type meddler struct {
	*recorder
	once   sync.Once
	change func()
}

func (m *meddler) Stage(b *store.Batch, p uint8, c *Change) func(store.Result) {
	m.once.Do(m.change)
	return m.recorder.Stage(b, p, c)
}

// A change that comes between the reading of what is owed and the event's
// commit is not forgotten, and the outdated event is not emitted.
func TestChangeOvertakesEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, m := mem.New(), &meddler{recorder: newRecorder()}
		defer engine.Close()
		r := open(t, Options{Engine: engine, Stager: m, Coalesce: 3 * time.Second})
		m.change = func() { put(t, r, "dev", ClientSpec{Description: "b"}) }
		stop := run(t, r)
		put(t, r, "dev", ClientSpec{Description: "a"})
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if all := m.all(); len(all) != 1 || all[0].Client.Description != "b" || r.Owed() != 0 {
			t.Errorf("events %+v, %d owed, want one that tells of b", all, r.Owed())
		}
		stop()
	})
}
