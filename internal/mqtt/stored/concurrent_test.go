package stored_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

// Many publish, move, read and settle at once: every session gets every
// message once, in each publisher's order, a cursor skips nothing, and nothing
// is left.
func TestConcurrent(t *testing.T) {
	onEngines(t, func(t *testing.T, e store.Engine) {
		const publishers, each, sessions = 6, 120, 5
		st := open(t, e)
		run(t, st)
		var ids atomic.Uint32
		var wg sync.WaitGroup
		for p := range publishers {
			wg.Go(func() {
				from := fmt.Sprint("p", p)
				b := st.Begin(st.Partition(realm, from))
				acked := make(chan error, each)
				for n := range each {
					ts := []stored.Target{to("all", uint16(ids.Add(1)))}
					if n%2 == 0 {
						for s := range sessions {
							ts = append(ts, to(fmt.Sprint("s", s), uint16(ids.Add(1))))
						}
					}
					b.Add(&stored.Publication{Realm: realm, Message: message(from, "t", fmt.Sprintf("%d/%03d", p, n), 1), Targets: ts},
						func(_ stored.Receipt, err error) { acked <- err })
					if n%7 == 0 {
						b.Submit()
					}
				}
				b.Submit()
				for range each {
					if err := <-acked; err != nil {
						t.Errorf("publish: %v", err)
					}
				}
			})
		}
		// read follows a queue until it has seen want messages.
		read := func(name string, want int, each func(stored.Entry)) {
			var after *stored.Cursor
			got := make(map[string][]string) // by publisher
			for n := 0; n < want; {
				page, err := st.Pending(key(name), after, 9, 1<<20)
				if err != nil {
					t.Errorf("pending: %v", err)
					return
				}
				for _, en := range page.Entries {
					from, _, _ := strings.Cut(string(en.Message.Payload), "/")
					got[from] = append(got[from], string(en.Message.Payload))
					each(en)
					n++
				}
				if len(page.Entries) > 0 {
					after = &page.Cursor
				}
			}
			for from, texts := range got {
				if !slices.IsSorted(texts) || len(slices.Compact(texts)) != len(texts) {
					t.Errorf("%s got of %s: %q", name, from, texts)
				}
			}
		}
		for s := range sessions {
			name := fmt.Sprint("s", s)
			wg.Go(func() {
				read(name, publishers*each/2, func(en stored.Entry) { st.Settle(key(name), en.Ref) })
			})
		}
		// One session's messages all move on to another one.
		var moved sync.WaitGroup
		wg.Go(func() {
			read("all", publishers*each, func(en stored.Entry) {
				target := to("heir", en.PacketID)
				moved.Add(1)
				st.Move(key("all"), &en, &target, func(_ stored.Receipt, err error) {
					if err != nil {
						t.Errorf("move: %v", err)
					}
					moved.Done()
				})
			})
		})
		wg.Wait()
		moved.Wait()
		read("heir", publishers*each, func(en stored.Entry) { st.Settle(key("heir"), en.Ref) })
		eventually(t, "nothing is stored", func() bool { return keys(t, e) == 0 })
		eventually(t, "nothing is remembered", func() bool { return st.Dying() == 0 && st.Backlog() == 0 })
	})
}

// Ending one state of a name and beginning the next is one batch.
func TestEndAndBegin(t *testing.T) {
	onEngines(t, func(t *testing.T, e store.Engine) {
		st := open(t, e)
		run(t, st)
		old := begin(t, e, st, "x")
		must(t, "subscribe", wait(func(done func(error)) { st.Subscribe(old.Key(), []stored.Subscription{{}}, done) }))
		publish(st, "p", &stored.Publication{Message: message("p", "t", "old", 1), Targets: []stored.Target{to("x", 1)}})
		next := *old
		next.Epoch = 2
		commit(t, e, func(b *store.Batch) {
			st.StageEnd(b, old)
			st.StageSession(b, nil, &next)
		})
		target := to("x", 1)
		target.Epoch = 2
		publish(st, "p", &stored.Publication{Message: message("p", "t", "new", 1), Targets: []stored.Target{target}})
		l := load(t, st)[realm+"/x"]
		if l.session != next || len(l.subs) != 0 {
			t.Errorf("got %+v", l)
		}
		wantTexts(t, pending(t, st, next.Key(), 10), "new 1")
		eventually(t, "only the new state is stored", func() bool { return keys(t, e) == 2 })
		wantTexts(t, pending(t, st, next.Key(), 10), "new 1")
	})
}

// The metrics count what happened.
func TestMetrics(t *testing.T) {
	e := mem.New()
	defer e.Close()
	st := open(t, e)
	r := prometheus.NewPedanticRegistry()
	must(t, "register", st.Register(r))
	publish(st, "p", &stored.Publication{Message: message("p", "t", "m", 1), Targets: []stored.Target{to("x", 1), to("y", 1)}})
	must(t, "retain", retain(t, st, "a", "123"))
	e.SetFull(true)
	publish(st, "p", &stored.Publication{Message: message("p", "t", "m", 1), Targets: []stored.Target{to("x", 2)}})
	st.Settle(key("x"), pending(t, st, key("x"), 10)[0].Ref)
	families, err := r.Gather()
	must(t, "gather", err)
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			got[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"rollcall_mqtt_stored_messages_total": 1, "rollcall_mqtt_stored_entries_total": 2, "rollcall_mqtt_stored_failures_total": 1,
		"rollcall_mqtt_stored_shared_messages": 1, "rollcall_mqtt_stored_backlog": 1,
		"rollcall_mqtt_retained_messages": 1, "rollcall_mqtt_retained_bytes": 4,
	} {
		if got[name] != want {
			t.Errorf("%s: got %v, want %v", name, got[name], want)
		}
	}
	if n, err := st.Size(); err != nil || n == 0 {
		t.Errorf("size: got %d, %v", n, err)
	}
}
