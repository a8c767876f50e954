package stored_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

func benchStore(b *testing.B) (*pebble.Engine, *stored.Store) {
	b.Helper()
	e, err := pebble.Open(pebble.Options{Dir: b.TempDir() + "/s"})
	if err != nil {
		b.Fatal(err)
	}
	st, err := stored.Open(stored.Options{Engine: e})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := e.Close(); err != nil {
			b.Error(err)
		}
	})
	return e, st
}

// benchPublish commits groups of publications with their targets, up to depth
// at a time.
func benchPublish(b *testing.B, publications, targets, depth int, settle bool) {
	_, st := benchStore(b)
	names := make([]string, targets*publications)
	for i := range names {
		names[i] = fmt.Sprint("session-", i)
	}
	m := message("publisher", "fleet/device/telemetry", string(make([]byte, 200)), 1)
	ps := make([]stored.Publication, publications)
	for i := range ps {
		ps[i] = stored.Publication{Realm: realm, Message: m}
		for j := range targets {
			ps[i].Targets = append(ps[i].Targets, to(names[i*targets+j], 1))
		}
	}
	slots := make(chan struct{}, depth)
	batches := make([]*stored.Batch, 16)
	for i := range batches {
		batches[i] = st.Begin(uint8(i))
	}
	left := make([]int, b.N) // publications of each commit that are not done
	keys := make([]stored.SessionKey, len(names))
	for i, n := range names {
		keys[i] = key(n)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		slots <- struct{}{}
		left[n] = publications
		batch := batches[n%16]
		for i := range ps {
			batch.Add(&ps[i], func(r stored.Receipt, err error) {
				if err != nil {
					b.Error(err)
				}
				if settle {
					for j := range targets {
						st.Settle(keys[i*targets+j], r.Target(j))
					}
				}
				if left[n]--; left[n] == 0 {
					<-slots
				}
			})
		}
		batch.Submit()
	}
	for range depth {
		slots <- struct{}{}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N*publications)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(b.N*publications*targets)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkBatch32(b *testing.B)          { benchPublish(b, 32, 1, 64, false) }
func BenchmarkBatch32Settled(b *testing.B)   { benchPublish(b, 32, 1, 64, true) }
func BenchmarkBatch1(b *testing.B)           { benchPublish(b, 1, 1, 64, false) }
func BenchmarkFanOut1000(b *testing.B)       { benchPublish(b, 1, 1000, 8, false) }
func BenchmarkFanOut1000Settle(b *testing.B) { benchPublish(b, 1, 1000, 8, true) }

// BenchmarkPending reads a page of 100 messages of 200 bytes.
func BenchmarkPending(b *testing.B) {
	for _, publishers := range []int{1, 100} {
		for _, shared := range []bool{false, true} {
			b.Run(fmt.Sprintf("publishers=%d/shared=%v", publishers, shared), func(b *testing.B) {
				_, st := benchStore(b)
				for i := range 1000 {
					from := fmt.Sprint("p", i%publishers)
					ts := []stored.Target{to("x", uint16(i+1))}
					if shared {
						ts = append(ts, to("y", uint16(i+1)))
					}
					publish(st, from, &stored.Publication{Message: message(from, "t", string(make([]byte, 200)), 1), Targets: ts})
				}
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					page, err := st.Pending(key("x"), nil, 100, 1<<20)
					if err != nil || len(page.Entries) != 100 {
						b.Fatal(err, len(page.Entries))
					}
				}
			})
		}
	}
}

// BenchmarkPendingEmpty is what a session costs that nothing waits for.
func BenchmarkPendingEmpty(b *testing.B) {
	_, st := benchStore(b)
	for i := range 20_000 {
		from := fmt.Sprint("p", i%100)
		batch := st.Begin(st.Partition(realm, from))
		batch.Add(&stored.Publication{Realm: realm, Message: message(from, "t", "m", 1), Targets: []stored.Target{to(fmt.Sprint("s", i), 1)}}, nil)
		batch.Submit()
	}
	must2(b, wait(func(done func(error)) { st.Complete(key("x"), 1, done) }))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if page, err := st.Pending(key("none"), nil, 100, 1<<20); err != nil || len(page.Entries) != 0 {
			b.Fatal(err, len(page.Entries))
		}
	}
}

func must2(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRetained replaces the retained messages of 1,000 topics in turn.
func BenchmarkRetained(b *testing.B) {
	_, st := benchStore(b)
	ms := make([]*session.Message, 1000)
	for i := range ms {
		ms[i] = message("p", fmt.Sprint("fleet/", i, "/state"), string(make([]byte, 100)), 1)
	}
	slots := make(chan struct{}, 256)
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		slots <- struct{}{}
		must2(b, st.Retain(realm, ms[n%len(ms)], func(err error) {
			if err != nil {
				b.Error(err)
			}
			<-slots
		}))
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
}

// BenchmarkLoad loads ROLLCALL_STORED_SESSIONS sessions (20,000 if it is not set)
// of one subscription each, after a restart.
func BenchmarkLoad(b *testing.B) {
	n := 20_000
	if text := os.Getenv("ROLLCALL_STORED_SESSIONS"); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		must2(b, err)
	}
	dir := b.TempDir() + "/s"
	e, err := pebble.Open(pebble.Options{Dir: dir})
	must2(b, err)
	st, err := stored.Open(stored.Options{Engine: e})
	must2(b, err)
	slots := make(chan struct{}, 1024)
	for i := range n {
		s := &stored.Session{Realm: realm, Name: fmt.Sprintf("device-%07d", i), Owner: fmt.Sprintf("device-%07d", i), Epoch: 1, Expiry: 3600, Offline: time.Now()}
		batch := store.NewBatch(store.Normal)
		st.StageSession(batch, nil, s)
		slots <- struct{}{}
		e.Submit(batch, func(store.Result) {})
		st.Subscribe(s.Key(), []stored.Subscription{sub("fleet/"+s.Name+"/commands/#", packet.Subscription{QoS: 1}, 0)}, func(err error) {
			if err != nil {
				b.Error(err)
			}
			<-slots
		})
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
	must2(b, e.Close())
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		e, err := pebble.Open(pebble.Options{Dir: dir})
		must2(b, err)
		st, err := stored.Open(stored.Options{Engine: e})
		must2(b, err)
		runtime.GC()
		b.StartTimer()
		sessions, subs := 0, 0
		must2(b, st.Load(func(_ *stored.Session, s []stored.Subscription) error {
			sessions++
			subs += len(s)
			return nil
		}))
		b.StopTimer()
		if sessions != n || subs != n {
			b.Fatalf("%d sessions and %d subscriptions were loaded, want %d", sessions, subs, n)
		}
		must2(b, e.Close())
		b.StartTimer()
	}
}
