package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"rollcall/internal/mqtt/packet"
)

// afterglow is how long a broker may finish what it has to do for a
// connection that is gone, before its CPU is read.
const afterglow = 200 * time.Millisecond

// storm measures connections that come and go.
func (r *run) storm(ctx context.Context) error {
	n := r.o.Connections
	warm := n / 10
	r.say("%s: %d connections to %s, %d at a time", r.o.Scenario, n, r.target.address, r.o.Concurrent)
	if err := r.stormOf(ctx, 0, warm); err != nil {
		return err
	}
	if warm > 0 {
		if err := rest(ctx, afterglow); err != nil {
			return err
		}
	}
	a, err := r.mark()
	if err != nil {
		return err
	}
	if err := r.stormOf(ctx, warm, n); err != nil {
		return err
	}
	at := time.Now()
	if err := rest(ctx, afterglow); err != nil {
		return err
	}
	b, err := r.mark()
	if err != nil {
		return err
	}
	b.at = at
	r.report.Connections = n
	r.report.Subscriptions = r.o.Subscriptions
	r.report.span(a, b, int64(n-warm), 1, r.broker != nil)
	r.report.GeneratorBusy = 0 // its goroutines run on any number of cores
	return r.memory()
}

// stormOf makes the connections from first to before last.
func (r *run) stormOf(ctx context.Context, first, last int) error {
	var next atomic.Int64
	next.Store(int64(first))
	workers := make([]func(context.Context) error, min(r.o.Concurrent, max(last-first, 0)))
	for i := range workers {
		workers[i] = func(ctx context.Context) error {
			for {
				n := int(next.Add(1)) - 1
				if n >= last {
					return nil
				}
				if err := r.comeAndGo(ctx, n); err != nil {
					return err
				}
			}
		}
	}
	return atOnce(ctx, r.o.Concurrent, workers)
}

// comeAndGo is one connection's life. It ends when the broker has closed the
// connection behind DISCONNECT.
func (r *run) comeAndGo(ctx context.Context, n int) error {
	c, _, err := r.enter(ctx, n)
	if err != nil {
		return err
	}
	if err := c.send(&packet.Disconnect{}); err != nil {
		return errors.Join(err, c.nc.Close())
	}
	_, _ = io.Copy(io.Discard, c.nc) // how it ends is the broker's choice; the deadline bounds it
	_ = c.nc.Close()                 // it is closed on the other side
	return ctx.Err()
}

// enter connects the client n and makes its subscriptions.
func (r *run) enter(ctx context.Context, n int) (*client, *packet.Connack, error) {
	id := fmt.Sprintf("%s-c%d", r.o.Prefix, n)
	c, ack, err := r.connect(ctx, packet.Connect{ClientID: id, CleanStart: true})
	if err != nil || r.o.Subscriptions == 0 {
		return c, ack, err
	}
	filters := make([]string, r.o.Subscriptions)
	for i := range filters {
		filters[i] = fmt.Sprintf("%s/%d/%d", r.o.Prefix, n, i)
	}
	if err := c.subscribe(packet.QoS0, filters...); err != nil {
		return nil, nil, errors.Join(err, c.nc.Close())
	}
	return c, ack, nil
}

// rest waits for d.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
