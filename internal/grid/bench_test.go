package grid_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/event"
	"rollcall/internal/grid"
	"rollcall/internal/store"
)

// sink is a receiver that consents and counts notifications.
type sink struct {
	*httptest.Server
	count   atomic.Int64
	arrived func(id string) // nil: nobody asks
}

func newSink(b *testing.B) *sink {
	b.Helper()
	s := new(sink)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodOptions {
			w.Header().Set("WebHook-Allowed-Origin", "*")
			return
		}
		_, _ = io.Copy(io.Discard, q.Body)
		if s.arrived != nil {
			s.arrived(q.Header.Get("aeg-output-event-id"))
		}
		s.count.Add(1)
	}))
	b.Cleanup(s.Close)
	return s
}

// BenchmarkBareClient is the yardstick of BenchmarkDeliver: a Go client with
// as many posters as a subscription may have.
func BenchmarkBareClient(b *testing.B) {
	s := newSink(b)
	n := delivery.DefaultSettings().MaxInFlight
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n}}
	defer c.CloseIdleConnections()
	body := event.CloudEvents.AppendBody(nil, []*event.Event{newEvent("id", "Microsoft.EventGrid.MQTTClientSessionConnected", "clients/a")}, false)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				resp, err := c.Post(s.URL, "application/cloudevents+json", bytes.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "posts/s")
}

// BenchmarkDeliver publishes through the store in memory and waits for the
// POSTs: deliveries per second, unbatched and batched.
func BenchmarkDeliver(b *testing.B) {
	for _, batch := range []int{1, 100} {
		b.Run(fmt.Sprint("batch-", batch), func(b *testing.B) {
			f := newFixture(b)
			f.start()
			s := newSink(b)
			p := properties(s.URL)
			p.Schema = event.CloudEvents
			p.Destination.MaxEventsPerBatch = batch
			f.put("one", p)
			f.awaitState("one", grid.Succeeded)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				e := newEvent("id", "Microsoft.EventGrid.MQTTClientSessionConnected", fmt.Sprint("clients/", i%1000))
				batch := store.NewBatch(store.Normal)
				staged := f.grid.Stage(batch, uint8(i%16), source, e)
				f.engine.Submit(batch, staged.Done)
			}
			for {
				t, err := f.grid.Tally(source, "one")
				if err != nil {
					b.Fatal(err)
				}
				if t.Delivered == uint64(b.N) {
					break
				}
				wait := make(chan struct{})
				time.AfterFunc(time.Millisecond, func() { close(wait) })
				<-wait
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkLatency measures from the call of Publish to the receipt of the
// POST at 500 events per second.
func BenchmarkLatency(b *testing.B) {
	f := newFixture(b)
	f.start()
	s := newSink(b)
	var mu sync.Mutex
	began := map[string]time.Time{}
	var took []time.Duration
	s.arrived = func(id string) {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		took = append(took, now.Sub(began[id]))
	}
	f.put("one", properties(s.URL))
	f.put("two", grid.Properties{Destination: grid.WebHook{EndpointURL: grid.Secret(s.URL)}, Schema: event.CloudEvents})
	f.awaitState("two", grid.Succeeded)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	b.ResetTimer()
	for i := range b.N {
		<-tick.C
		e := newEvent(fmt.Sprint(i), "T", "s")
		e.OutputID = e.ID
		mu.Lock()
		began[e.ID] = time.Now()
		mu.Unlock()
		if err := f.grid.Publish(context.Background(), 0, source, e); err != nil {
			b.Fatal(err)
		}
	}
	for s.count.Load() < int64(b.N) {
		<-tick.C
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

func BenchmarkStage(b *testing.B) {
	for _, n := range []int{0, 1, 10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := newFixture(b)
			f.set.MaxSubscriptions = 0
			r := newSink(b)
			f.start()
			for i := range n {
				p := properties(r.URL)
				p.Schema = event.CloudEvents
				p.Filter.SubjectBeginsWith = "clients/"
				f.put(fmt.Sprintf("sub-%d", i), p)
			}
			for i := range n {
				f.awaitState(fmt.Sprintf("sub-%d", i), grid.Succeeded)
			}
			e := newEvent("id", "Microsoft.EventGrid.MQTTClientSessionConnected", "clients/a/sessions/b")
			e.Accepted, e.OutputID = time.Now(), "x"
			b.ReportAllocs()
			for b.Loop() {
				batch := store.NewBatch(store.Normal)
				f.grid.Stage(batch, 0, source, e)
			}
		})
	}
}
