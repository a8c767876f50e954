package main

import (
	"context"
	"fmt"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/servertest"
)

// deliveries measures how fast a backlog of one subscription is delivered. The
// receiver holds its answers until the backlog is there, so that nothing else
// runs while it is measured. In between, other programs post to the same
// receiver on as many connections.
func deliveries(ctx context.Context, b *bench) error {
	r, err := b.receive()
	if err != nil {
		return err
	}
	defer r.close()
	connections := delivery.DefaultSettings().MaxInFlight
	for range b.reps {
		bare, err := b.bare(r.events(), connections, b.seconds(2))
		if err != nil {
			return err
		}
		bareRate := float64(bare.Requests) / bare.Seconds
		b.report.add("bare Go client", "requests/s", bareRate)
		b.report.add("bare Go client: CPU per request", "µs", microseconds(bare.CPU)/float64(bare.Requests))
		wrk, err := b.wrk(ctx, r.events(), []byte(sample), connections, b.seconds(2))
		if err != nil {
			return err
		}
		if wrk > 0 {
			b.report.add("wrk", "requests/s", wrk)
		}
		rate, err := b.drain(ctx, r, 1, b.scaled(20_000))
		if err != nil {
			return fmt.Errorf("unbatched: %w", err)
		}
		b.report.add("unbatched, share of the bare client's rate", "", rate/bareRate).atLeast(0.5)
		for _, batch := range []int{10, 100} {
			if _, err := b.drain(ctx, r, batch, b.scaled(40_000)); err != nil {
				return fmt.Errorf("batches of %d: %w", batch, err)
			}
		}
	}
	return nil
}

func (b *bench) seconds(n int) time.Duration {
	return max(time.Second, time.Duration(float64(n)*b.scale*float64(time.Second)))
}

// drain delivers a backlog of so many events and returns the rate.
func (b *bench) drain(ctx context.Context, r *remote, batch, events int) (float64, error) {
	s, err := b.serve(ctx, b.data())
	if err != nil {
		return 0, err
	}
	defer s.kill()
	if err := s.subscribe(ctx, r, 1, batch); err != nil {
		return 0, err
	}
	for _, what := range []string{"reset", "hold"} {
		if err := r.ask(ctx, what, nil); err != nil {
			return 0, err
		}
	}
	defer r.ask(context.WithoutCancel(ctx), "release", nil)
	f := fleet{target: servertest.Target(s.info, "tcp"), prefix: "drain"}
	const atOnce = 2000 // devices, and thus descriptors
	for first := 0; first < events/2; first += atOnce {
		devices, err := f.open(ctx, first, min(atOnce, events/2-first))
		if err != nil {
			return 0, err
		}
		shut(devices)
	}
	if err := s.empty(ctx); err != nil {
		return 0, err
	}
	events = events / 2 * 2
	before, err := s.cpu()
	if err != nil {
		return 0, err
	}
	own, err := r.cpu()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := r.ask(ctx, "release", nil); err != nil {
		return 0, err
	}
	t, err := r.wait(ctx, events)
	if err != nil {
		return 0, err
	}
	rate := float64(t.Events) / time.Unix(0, t.Last).Sub(began).Seconds()
	after, err := s.cpu()
	if err != nil {
		return 0, err
	}
	ownAfter, err := r.cpu()
	if err != nil {
		return 0, err
	}
	name := "unbatched"
	if batch > 1 {
		name = fmt.Sprintf("batches of %d", batch)
	}
	b.report.add(name, "events/s", rate)
	b.report.add(name+": CPU per event", "µs", microseconds(after-before)/float64(t.Events))
	b.report.add(name+": the receiver's CPU per event", "µs", microseconds(ownAfter-own)/float64(t.Events))
	if batch > 1 {
		b.report.add(name+": events per request", "", float64(t.Events)/float64(t.Requests))
	}
	return rate, s.stop()
}
