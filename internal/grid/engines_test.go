package grid_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/event"
	"rollcall/internal/grid"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/pebble"
)

// P4 on the engine in use: events that wait for another attempt are delivered
// after the store was closed and opened again.
func TestReopenedStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	open := func() store.Engine {
		e, err := pebble.Open(pebble.Options{Dir: dir, LowWater: 1 << 20, Reserve: 1 << 19})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	f := newFixture(t)
	f.dset.Schedule = []time.Duration{200 * time.Millisecond}
	f.dset.RetryFloor = 0
	f.dset.WindowEvents = 16
	f.engine = open()
	f.start()
	r := newReceiver(t)
	f.put("one", properties(r.URL))
	f.awaitState("one", grid.Succeeded)
	r.set(true, 500)
	var ids []string
	for i := range 100 {
		ids = append(ids, fmt.Sprint("event-", i))
		f.publish(newEvent(ids[i], "T", ids[i]))
	}
	f.stop()
	if err := f.engine.Close(); err != nil {
		t.Fatal(err)
	}
	r.set(true, 0)
	f.engine = open()
	t.Cleanup(func() {
		f.stop()
		if err := f.engine.Close(); err != nil {
			t.Error(err)
		}
	})
	f.start()
	r.expect(t, ids...)
}

// A commit that takes long, fails or stays unknown costs no event that was
// accepted.
func TestSlowAndUnsureStore(t *testing.T) {
	m := mem.New()
	n := 0
	e := delay.New(m, delay.Options{Seed: 7, Fault: func(b *store.Batch) delay.Fault {
		if b.Class() != store.Normal { // subscriptions and progress take their course
			return delay.None
		}
		if part, ok := b.Partition(); !ok || part == store.Config {
			return delay.None
		}
		n++
		switch {
		case n%7 == 0:
			return delay.UnknownApplied
		case n%11 == 0:
			return delay.UnknownLost
		case n%13 == 0:
			return delay.Full
		}
		return delay.None
	}})
	f := newFixture(t)
	f.engine = e
	f.start()
	r := newReceiver(t)
	f.put("one", properties(r.URL))
	f.awaitState("one", grid.Succeeded)
	want := map[string]bool{}
	outcomes := make(chan store.Result, 200)
	for i := range 200 {
		id := fmt.Sprint("event-", i)
		b := store.NewBatch(store.Normal)
		s := f.grid.Stage(b, uint8(1+i%3), source, newEvent(id, "T", "s"))
		k := i + 1
		if k%7 == 0 || k%11 != 0 && k%13 != 0 {
			want[id] = true
		}
		e.Submit(b, func(r store.Result) {
			s.Done(r)
			outcomes <- r
		})
	}
	for range 200 {
		<-outcomes
	}
	late := time.After(20 * time.Second)
	for left := len(want); left > 0; {
		select {
		case id := <-r.ids: // a doubtful event may come twice
			if _, ok := want[id]; !ok {
				t.Errorf("event %s was delivered, which was not stored", id)
			} else if want[id] {
				want[id] = false
				left--
			}
		case <-late:
			t.Fatalf("%d events did not come", left)
		}
	}
	f.stop()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

func TestMetricsAreWellFormed(t *testing.T) {
	f := newFixture(t)
	f.start()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(f.grid, f.d)
	r := newReceiver(t)
	f.put("one", grid.Properties{Destination: grid.WebHook{EndpointURL: grid.Secret(r.URL)}, Schema: event.EventGrid})
	f.awaitState("one", grid.Succeeded)
	f.publish(newEvent("1", "T", "s"))
	r.expect(t, "1")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) < 10 {
		t.Errorf("%d families", len(families))
	}
}
