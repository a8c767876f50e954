package stored_test

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

type loaded struct {
	session stored.Session
	subs    []stored.Subscription
}

func load(t *testing.T, st *stored.Store) map[string]loaded {
	t.Helper()
	all := make(map[string]loaded)
	err := st.Load(func(s *stored.Session, subs []stored.Subscription) error {
		name := s.Realm + "/" + s.Name
		if _, twice := all[name]; twice {
			t.Errorf("session %s is loaded twice", name)
		}
		all[name] = loaded{*s, slices.Clone(subs)}
		return nil
	})
	must(t, "load", err)
	return all
}

func sub(filter string, o packet.Subscription, id uint32) stored.Subscription {
	o.Filter = filter
	return stored.Subscription{Subscription: o, Identifier: id}
}

// Sessions and subscriptions come back as they were, whatever their names.
func TestLoad(t *testing.T) {
	onEngines(t, func(t *testing.T, e store.Engine) {
		st := open(t, e)
		want := make(map[string]loaded)
		for i, realm := range []string{"a", "a\x00", "a\x00\x01", "b"} {
			for j, name := range []string{"", "s", "s\x00", "s\x00\x01x", "s\x01", "t", "é"} {
				s := stored.Session{Realm: realm, Name: name, Owner: []string{name, "owner"}[j%2], Epoch: uint64(i + 1), Expiry: uint32(j)}
				if j%3 == 0 {
					s.Offline = epoch0.Add(time.Duration(j))
				}
				commit(t, e, func(b *store.Batch) { st.StageSession(b, nil, &s) })
				l := loaded{session: s}
				for f := range j {
					l.subs = append(l.subs, sub(fmt.Sprint("f/", f, "/#"), packet.Subscription{
						QoS: packet.QoS(f % 3), NoLocal: f%2 == 0, RetainAsPublished: f%3 == 0, RetainHandling: uint8(f % 3)}, uint32(f*1000)))
				}
				must(t, "subscribe", wait(func(done func(error)) { st.Subscribe(s.Key(), l.subs, done) }))
				stale := s.Key()
				stale.Epoch += 7
				must(t, "subscribe", wait(func(done func(error)) {
					st.Subscribe(stale, []stored.Subscription{sub("stale", packet.Subscription{}, 0)}, done)
				}))
				must(t, "subscribe", wait(func(done func(error)) {
					st.Subscribe(stored.SessionKey{Realm: realm, Name: name + "-", Epoch: 1}, []stored.Subscription{sub("orphan", packet.Subscription{}, 0)}, done)
				}))
				want[realm+"/"+name] = l
			}
		}
		check := func() {
			t.Helper()
			got := load(t, st)
			if len(got) != len(want) {
				t.Fatalf("%d sessions were loaded, want %d", len(got), len(want))
			}
			for name, w := range want {
				if g := got[name]; !reflect.DeepEqual(g.session, w.session) || !slices.Equal(g.subs, w.subs) {
					t.Fatalf("session %q: got %+v, want %+v", name, g, w)
				}
				if g, ok, err := st.Session(w.session.Realm, w.session.Name); err != nil || !ok || g != w.session {
					t.Fatalf("session %q: got %+v, %v, %v, want %+v", name, g, ok, err, w.session)
				}
			}
		}
		check()
		for name, w := range want {
			if len(w.subs) < 3 {
				continue
			}
			must(t, "unsubscribe", wait(func(done func(error)) { st.Unsubscribe(w.session.Key(), []string{w.subs[0].Filter, "none"}, done) }))
			w.subs[1].QoS, w.subs[1].Identifier = 1, 99
			must(t, "subscribe", wait(func(done func(error)) { st.Subscribe(w.session.Key(), w.subs[1:2], done) }))
			w.subs = w.subs[1:]
			want[name] = w
		}
		check()
		for name := range maps.Clone(want) {
			if w := want[name]; w.session.Realm == "b" {
				end(t, e, st, &w.session)
				delete(want, name)
			}
		}
		check()
		stop := errors.New("enough")
		if err := st.Load(func(*stored.Session, []stored.Subscription) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("a Load that was stopped returned %v", err)
		}
	})
}

// What is due is found in order, once it is due, and follows every change.
func TestDue(t *testing.T) {
	onEngines(t, func(t *testing.T, e store.Engine) {
		st := open(t, e)
		now := time.Now().UTC()
		at := func(n int) time.Time { return now.Add(time.Duration(n) * time.Second) }
		want := func(now time.Time, limit int, names ...string) {
			t.Helper()
			items, err := st.Due(now, limit)
			must(t, "due", err)
			var got []string
			for _, i := range items {
				got = append(got, fmt.Sprintf("%s%d%d", i.Session, i.Kind, i.Epoch))
			}
			if !slices.Equal(got, names) {
				t.Fatalf("due at %v: got %q, want %q", now, got, names)
			}
		}
		wantNext := func(n int) {
			t.Helper()
			next, err := st.NextDue()
			must(t, "next", err)
			if n == 0 && !next.IsZero() || n != 0 && !next.Equal(at(n)) {
				t.Fatalf("next: got %v, want %v", next, at(n))
			}
		}
		wantNext(0)
		sessions := make(map[string]*stored.Session)
		for i, name := range []string{"c", "b", "a"} {
			s := begin(t, e, st, name)
			old := *s
			s.Offline, s.Expiry = at(i), uint32(100-10*i)
			commit(t, e, func(b *store.Batch) { st.StageSession(b, &old, s) })
			sessions[name] = s
		}
		never := begin(t, e, st, "never")
		never.Offline, never.Expiry = at(0), stored.NeverExpires
		commit(t, e, func(b *store.Batch) { st.StageSession(b, nil, never) })
		w := &stored.Will{Message: message("c", "will", "gone", 1), Delay: 5, DueAt: at(50)}
		commit(t, e, func(b *store.Batch) { must(t, "will", st.StageWill(b, realm, "c", nil, w)) })

		wantNext(50)
		want(at(49), 10)
		want(at(50), 10, "c20")
		want(at(1000), 10, "c20", "a11", "b11", "c11")
		want(at(1000), 2, "c20", "a11")
		got, err := st.Will(realm, "c")
		must(t, "will", err)
		if got.Delay != 5 || !got.DueAt.Equal(w.DueAt) || string(got.Message.Payload) != "gone" || string(got.Message.Topic) != "will" || got.Message.From != "c" {
			t.Fatalf("the Will came back as %+v", got)
		}
		commit(t, e, func(b *store.Batch) { must(t, "will", st.StageWill(b, realm, "c", w, nil)) })
		if got, err := st.Will(realm, "c"); got != nil || err != nil {
			t.Fatalf("a Will that was taken: got %+v, %v", got, err)
		}
		wantNext(82)
		back := *sessions["a"]
		back.Offline = time.Time{}
		commit(t, e, func(b *store.Batch) { st.StageSession(b, sessions["a"], &back) })
		wantNext(91)
		end(t, e, st, sessions["b"])
		wantNext(100)
		// Due earlier than what was the first, and in the past.
		again := back
		again.Offline = at(-5000)
		commit(t, e, func(b *store.Batch) { st.StageSession(b, &back, &again) })
		want(at(0), 10, "a11")
		end(t, e, st, &again)
		end(t, e, st, sessions["c"])
		wantNext(0)
		if n := keys(t, e, store.TableDue); n != 0 {
			t.Errorf("%d due entries are left", n)
		}
	})
}

// A Will that cannot be encoded stages nothing.
func TestBadWill(t *testing.T) {
	e := mem.New()
	defer e.Close()
	st := open(t, e)
	b := store.NewBatch(store.Normal)
	if err := st.StageWill(b, realm, "x", nil, &stored.Will{Message: message("x", "a/+", "", 0)}); err == nil || b.Len() != 0 {
		t.Errorf("got %v, and %d operations", err, b.Len())
	}
}
