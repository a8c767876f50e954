package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"rollcall/internal/servertest"
)

// transitionsPerSecond is the load under which latency is measured.
const transitionsPerSecond = 500

// latency lets devices connect and disconnect at a steady rate, and measures
// how long their events take to a webhook. The moment of the commit is not
// seen from outside, so it is framed: an event's time is taken before its
// commit, and CONNACK is received after it.
func latency(ctx context.Context, b *bench) error {
	r, err := b.receive()
	if err != nil {
		return err
	}
	defer r.close()
	for range b.reps {
		if err := b.latencyOnce(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) latencyOnce(ctx context.Context, r *remote) error {
	s, err := b.serve(ctx, b.data())
	if err != nil {
		return err
	}
	defer s.kill()
	if err := s.subscribe(ctx, r, 1, 1); err != nil {
		return err
	}
	warm, n := transitionsPerSecond/2, b.scaled(6*transitionsPerSecond/2)
	f := fleet{target: servertest.Target(s.info, "tcp"), prefix: "pace"}
	if err := errors.Join(r.ask(ctx, "reset", nil), r.ask(ctx, "record", nil)); err != nil {
		return err
	}
	seen, err := f.pace(ctx, warm+n)
	if err != nil {
		return err
	}
	if _, err := r.wait(ctx, 2*(warm+n)); err != nil {
		return err
	}
	var arrivals []arrival
	if err := errors.Join(r.ask(ctx, "arrivals", &arrivals), r.ask(ctx, "forget", nil)); err != nil {
		return err
	}
	b.addLatency(arrivals, seen, f.name(warm))
	return s.stop()
}

// sighting is when a device sent CONNECT and had CONNACK.
type sighting struct{ sent, acked time.Time }

// pace lets n devices connect, one every so often, and each disconnect about a
// second later, between two connects, whatever the answers take. It returns
// what each saw.
func (f *fleet) pace(ctx context.Context, n int) (map[string]sighting, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const (
		step = 2 * time.Second / transitionsPerSecond
		stay = 250*step + step/2
	)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		seen  = map[string]sighting{}
		errs  []error
		start = time.Now()
	)
	for i := range n {
		at := start.Add(time.Duration(i) * step)
		if err := rest(ctx, time.Until(at)); err != nil {
			errs = append(errs, err)
			break
		}
		wg.Go(func() {
			var s sighting
			s.sent = time.Now()
			d, err := f.connect(ctx, i)
			s.acked = time.Now()
			if err == nil {
				_ = rest(ctx, time.Until(at.Add(stay))) // leave in any case
				d.leave()
			}
			mu.Lock()
			defer mu.Unlock()
			seen[f.name(i)] = s
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return seen, errors.Join(errs[:min(3, len(errs))]...)
}

// addLatency adds the quantiles of all devices from the one named first on;
// those before warmed up.
func (b *bench) addLatency(arrivals []arrival, seen map[string]sighting, first string) {
	var fromTime, fromConnack, connect []time.Duration
	for _, a := range arrivals {
		s, ok := seen[a.Session]
		if !ok || a.Session < first {
			continue
		}
		at := time.Unix(0, a.At)
		fromTime = append(fromTime, at.Sub(time.Unix(0, a.Time)))
		if !a.Ended {
			fromConnack = append(fromConnack, at.Sub(s.acked.Round(0)))
			connect = append(connect, s.acked.Sub(s.sent))
		}
	}
	for _, l := range []struct {
		name   string
		values []time.Duration
		aim    float64
	}{
		{"event's time → POST (holds the commit with its fsync)", fromTime, 10},
		{"CONNACK received → POST (begins after the commit)", fromConnack, 0},
		{"TCP and CONNECT → CONNACK (holds the commit)", connect, 0},
	} {
		slices.Sort(l.values)
		for _, q := range []float64{0.5, 0.99, 0.999} {
			fig := b.report.add(fmt.Sprintf("%s: p%g", l.name, 100*q), "ms", milliseconds(quantile(l.values, q)))
			if q == 0.99 && l.aim > 0 {
				fig.atMost(l.aim)
			}
		}
	}
}
