package bench

import (
	"context"
	"errors"
	"sync"
	"time"

	"rollcall/internal/mqtt/packet"
)

// idle measures the memory of connections that rest: what each takes beyond the
// first few, which have the broker load what it needs once.
func (r *run) idle(ctx context.Context) error {
	a, err := r.mark()
	if err != nil {
		return err
	}
	r.say("%s: opening %d connections to %s", r.o.Scenario, r.o.Connections, r.target.address)
	var before *Memory
	first := min(200, r.o.Connections/10)
	all, alive, err := r.openIdle(ctx, first, func() (err error) {
		if r.broker != nil {
			before, err = r.broker.memory()
		}
		return err
	})
	defer func() {
		for _, c := range all {
			if c != nil {
				_ = c.nc.Close() // after DISCONNECT, or after a failure that says more
			}
		}
	}()
	if err != nil {
		return err
	}
	b, err := r.mark()
	if err != nil {
		return err
	}
	r.report.Connections = len(all)
	r.report.Subscriptions = r.o.Subscriptions
	r.report.span(a, b, int64(len(all)), 1, r.broker != nil)
	r.report.GeneratorBusy = 0 // its goroutines run on any number of cores
	r.say("%s: %d connections rest for %v", r.o.Scenario, len(all), max(r.o.Settle, 0))
	if err := r.settle(ctx, all, alive); err != nil {
		return err
	}
	if err := r.memory(); err != nil {
		return err
	}
	if before != nil {
		r.report.Memory.PerConnection = float64(r.report.Memory.Resident-before.Resident) / float64(len(all)-first)
	}
	leave := make([]func(context.Context) error, len(all))
	for i, c := range all {
		leave[i] = func(context.Context) error {
			return errors.Join(c.nc.SetDeadline(time.Now().Add(r.o.Timeout)), c.send(&packet.Disconnect{}))
		}
	}
	return atOnce(ctx, setUpAtOnce, leave)
}

// openIdle opens the connections, and calls between after the first of them;
// alive is the shortest keep alive that the
// broker imposes, 0 if none.
func (r *run) openIdle(ctx context.Context, first int, between func() error) (all []*client, alive time.Duration, err error) {
	all = make([]*client, r.o.Connections)
	var mu sync.Mutex // guards alive
	enter := make([]func(context.Context) error, len(all))
	for i := range all {
		enter[i] = func(ctx context.Context) error {
			c, ack, err := r.enter(ctx, i)
			if err != nil {
				return err
			}
			all[i] = c
			c.in = nil
			if ack.ServerKeepAlive.Value > 0 {
				mu.Lock()
				defer mu.Unlock()
				if d := time.Duration(ack.ServerKeepAlive.Value) * time.Second; alive == 0 || d < alive {
					alive = d
				}
			}
			return c.ready()
		}
	}
	if err := atOnce(ctx, setUpAtOnce, enter[:first]); err != nil {
		return all, alive, err
	}
	if err := between(); err != nil {
		return all, alive, err
	}
	return all, alive, atOnce(ctx, setUpAtOnce, enter[first:])
}

// settle rests, with as much PINGREQ as the broker's keep alive asks for, and
// sees that no connection has ended.
func (r *run) settle(ctx context.Context, all []*client, alive time.Duration) error {
	for left := max(r.o.Settle, 0); left > 0; {
		d := left
		if alive > 0 {
			d = min(d, alive/2)
		}
		if err := rest(ctx, d); err != nil {
			return err
		}
		if left -= d; left == 0 {
			return nil
		}
		for _, c := range all {
			if err := c.send(&packet.Pingreq{}); err != nil {
				return err
			}
		}
	}
	return nil
}
