package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rollcall/internal/servertest"
)

// connects measures how fast devices connect, each with its Connected on disk
// before its CONNACK, and what that costs the broker.
func connects(ctx context.Context, b *bench) error {
	r, err := b.receive()
	if err != nil {
		return err
	}
	defer r.close()
	if err := b.connectsPeer(ctx); err != nil {
		return err
	}
	for _, c := range []struct {
		transport          string
		subs, batch, count int
	}{
		{"tcp", 0, 1, 6000}, {"tcp", 1, 1, 3000}, {"tcp", 10, 1, 1000}, {"tcp", 10, 100, 2000},
		{"tls", 0, 1, 3000}, {"tls", 1, 1, 2000}, {"tls", 10, 1, 1000},
	} {
		name := fmt.Sprintf("%s, %d subscriptions", c.transport, c.subs)
		if c.batch > 1 {
			name += fmt.Sprintf(" in batches of %d", c.batch)
		}
		if err := b.connectsOf(ctx, r, name, c.transport, c.subs, c.batch, b.scaled(c.count)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (b *bench) connectsOf(ctx context.Context, r *remote, name, transport string, subs, batch, count int) error {
	s, err := b.serve(ctx, b.data())
	if err != nil {
		return err
	}
	defer s.kill()
	if err := s.subscribe(ctx, r, subs, batch); err != nil {
		return err
	}
	f := fleet{target: servertest.Target(s.info, transport), prefix: "connect"}
	if transport == "tls" {
		if f.config, err = s.tls(); err != nil {
			return err
		}
	}
	settled := func(events int) error {
		if subs == 0 {
			return nil
		}
		_, err := r.wait(ctx, events*subs)
		return err
	}
	for rep := range b.reps + 1 { // the first one warms up and does not count
		n := count
		if rep == 0 {
			n = min(n, 300)
		}
		if err := r.ask(ctx, "reset", nil); err != nil {
			return err
		}
		m, err := s.process.measureConnects(ctx, &f, rep*count, n,
			func() error { return settled(n) },
			func() error { return errors.Join(s.empty(ctx), settled(2*n)) })
		if err != nil {
			return err
		}
		if rep > 0 {
			b.addConnects(name, m, subs > 0)
		}
	}
	return s.stop()
}

// connectCost is what connecting a number of devices took.
type connectCost struct {
	rate           float64       // per second, until the last CONNACK
	toConnack      time.Duration // of the broker's CPU for each, until the last CONNACK
	untilDelivered time.Duration // the same, until every event was delivered
	disconnect     time.Duration // for each disconnect and its deliveries
}

// measureConnects connects n devices and disconnects them again. delivered
// waits for what follows the connects, over for what follows the disconnects.
func (p *process) measureConnects(ctx context.Context, f *fleet, first, n int, delivered, over func() error) (connectCost, error) {
	var (
		m   connectCost
		cpu [4]time.Duration
		err error
	)
	if cpu[0], err = p.cpu(); err != nil {
		return m, err
	}
	began := time.Now()
	devices, err := f.open(ctx, first, n)
	if err != nil {
		return m, err
	}
	m.rate = float64(n) / time.Since(began).Seconds()
	for i, wait := range []func() error{nil, delivered, func() error { shut(devices); return over() }} {
		if wait != nil {
			if err := wait(); err != nil {
				return m, err
			}
		}
		if cpu[i+1], err = p.cpu(); err != nil {
			return m, err
		}
	}
	each := func(d time.Duration) time.Duration { return d / time.Duration(n) }
	m.toConnack, m.untilDelivered, m.disconnect = each(cpu[1]-cpu[0]), each(cpu[2]-cpu[0]), each(cpu[3]-cpu[2])
	return m, nil
}

func (b *bench) addConnects(name string, m connectCost, delivers bool) {
	b.report.add(name+": connects", "1/s", m.rate)
	if delivers { // until CONNACK an unknown share of the deliveries is done
		b.report.add(name+": CPU per connect, delivered", "µs", microseconds(m.untilDelivered))
		return
	}
	b.report.add(name+": CPU per connect", "µs", microseconds(m.toConnack))
	b.report.add(name+": CPU per disconnect", "µs", microseconds(m.disconnect))
}
