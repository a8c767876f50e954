package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rollcall/internal/servertest"
)

// idler is a broker whose memory is looked at.
type idler struct {
	name    string
	process *process
	server  *server // nil: a peer
	fleet   fleet
	aim     float64 // KiB for each connection; 0: none

	before, after usage
	devices       []device
}

// usage is a process's memory in bytes. Spans and stacks are what Go's runtime
// says that it holds for live objects and goroutines.
type usage struct{ resident, spans, stacks float64 }

// memory measures brokers side by side, since they only rest: when nobody is
// connected, and with idle connections.
func memory(ctx context.Context, b *bench) error {
	for range b.reps {
		if err := b.memoryOnce(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) memoryOnce(ctx context.Context) error {
	n := b.scaled(3000)
	var all []*idler
	defer func() {
		for _, i := range all {
			i.process.kill()
			shut(i.devices)
		}
	}()
	for _, transport := range []string{"tcp", "tls", "ws", "wss"} {
		s, err := b.serve(ctx, b.data())
		if err != nil {
			return err
		}
		i := &idler{name: transport, process: s.process, server: s,
			fleet: fleet{target: servertest.Target(s.info, transport), prefix: "idle"}}
		all = append(all, i)
		if transport == "tcp" {
			i.aim = 6
		}
		if transport == "tls" || transport == "wss" {
			if i.fleet.config, err = s.tls(); err != nil {
				return err
			}
		}
	}
	p, target, err := b.mosquitto(ctx)
	if err != nil {
		return err
	}
	if p != nil {
		all = append(all, &idler{name: "mosquitto, tcp", process: p, fleet: fleet{target: target, prefix: "idle"}})
	}

	if err := b.settled(ctx, all, func(i *idler) *usage { return &i.before }, n); err != nil {
		return err
	}
	cpu, err := all[0].process.cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := rest(ctx, b.settle/2); err != nil {
		return err
	}
	idle, err := all[0].process.cpu()
	if err != nil {
		return err
	}
	if b.settle > 0 {
		b.report.add("idle server: CPU", "ms per second", milliseconds(idle-cpu)/time.Since(began).Seconds())
	}
	for _, i := range all {
		if i.devices, err = i.fleet.open(ctx, 1000, n); err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
	}
	if err := b.settled(ctx, all, func(i *idler) *usage { return &i.after }, 0); err != nil {
		return err
	}
	b.addMemory(all, n)
	return nil
}

// settled reads the memory of all after a rest. Before that, a few devices
// come and go where warm is not 0, so that what is needed once is there.
func (b *bench) settled(ctx context.Context, all []*idler, into func(*idler) *usage, warm int) error {
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for k, i := range all {
		wg.Go(func() {
			if warm > 0 {
				devices, err := i.fleet.open(ctx, 0, min(warm, 100))
				if err != nil {
					errs[k] = err
					return
				}
				shut(devices)
			}
			if errs[k] = rest(ctx, b.settle); errs[k] != nil {
				return
			}
			u := into(i)
			if u.resident, errs[k] = i.process.resident(); errs[k] != nil || i.server == nil {
				return
			}
			for _, g := range []struct {
				name string
				into *float64
			}{{"go_memstats_heap_inuse_bytes", &u.spans}, {"go_memstats_stack_inuse_bytes", &u.stacks}} {
				if *g.into, errs[k] = i.server.gauge(ctx, g.name); errs[k] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for k, err := range errs {
		if err != nil {
			return fmt.Errorf("%s: %w", all[k].name, err)
		}
	}
	return nil
}

func (b *bench) addMemory(all []*idler, n int) {
	for _, i := range all {
		if i.server == nil {
			b.report.add(i.name+": resident, idle", "MiB", i.before.resident/mebi)
		} else if i.name == "tcp" {
			b.report.add("idle server: resident", "MiB", i.before.resident/mebi).atMost(60)
		}
	}
	each := func(after, before float64) float64 { return (after - before) / float64(n) / 1024 }
	for _, i := range all {
		fig := b.report.add(fmt.Sprintf("%s: resident per idle connection of %d", i.name, n), "KiB", each(i.after.resident, i.before.resident))
		if i.aim > 0 {
			fig.atMost(i.aim)
		}
		if i.server != nil {
			b.report.add(i.name+": heap in use per connection", "KiB", each(i.after.spans, i.before.spans))
			b.report.add(i.name+": stacks per connection", "KiB", each(i.after.stacks, i.before.stacks))
		}
	}
}
