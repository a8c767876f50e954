package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rollcall/internal/mqtt/packet"
)

// running are engines that run.
type running struct {
	failed chan error // the first failure of each shard
	stop   func()     // ends them and waits for them
}

// start runs the engines.
func (r *run) start() *running {
	failed := make(chan error, len(r.shards))
	end := make(chan struct{})
	var wg sync.WaitGroup
	for i, s := range r.shards {
		wg.Go(r.engines[i].run)
		wg.Go(func() {
			select {
			case err := <-s.failed:
				failed <- err
			case <-end:
			}
		})
	}
	return &running{failed, func() {
		for _, e := range r.engines {
			e.stop()
		}
		close(end)
		wg.Wait()
	}}
}

// drive runs the engines through warm-up, measurement and the wait for what is
// still on its way, and returns the marks around the measurement.
func (r *run) drive(ctx context.Context) (a, b mark, err error) {
	running := r.start()
	defer running.stop()
	failed := running.failed
	if r.o.Warmup > 0 {
		if err = wait(ctx, failed, r.o.Warmup, nil); err != nil {
			return a, b, err
		}
	}
	for _, s := range r.shards {
		s.recording.Store(true)
	}
	if a, err = r.mark(); err != nil {
		return a, b, err
	}
	var enough func() bool
	if r.o.Messages > 0 {
		enough = func() bool { return r.total()-a.delivered >= r.o.Messages }
	}
	if err = wait(ctx, failed, r.o.Duration, enough); err != nil {
		return a, b, err
	}
	for _, s := range r.shards {
		s.stopping.Store(true)
	}
	if b, err = r.mark(); err != nil {
		return a, b, err
	}
	// What does not come is found when the counts are compared.
	return a, b, wait(ctx, failed, r.o.Timeout, r.quiet)
}

func (r *run) total() (n int64) {
	for _, s := range r.shards {
		n += s.delivered.Load()
	}
	return n
}

func (r *run) quiet() bool {
	for _, s := range r.shards {
		if !s.quiet.Load() {
			return false
		}
	}
	return true
}

// wait waits for d, until done, if there is one, says so, or for a failure.
func wait(ctx context.Context, failed <-chan error, d time.Duration, done func() bool) error {
	end := time.NewTimer(d)
	defer end.Stop()
	var look <-chan time.Time
	if done != nil {
		t := time.NewTicker(2 * time.Millisecond)
		defer t.Stop()
		look = t.C
	}
	for {
		select {
		case <-end.C:
			return nil
		case err := <-failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-look:
			if done() {
				return nil
			}
		}
	}
}

// judge compares what was published with what came.
func (r *run) judge() {
	var sum tally
	var lost, refused, gaveUp int64
	var code packet.ReasonCode
	for _, s := range r.shards {
		for _, g := range s.groups {
			l, t := g.count()
			lost += l
			sum.add(t)
			for _, p := range g.pubs {
				if refused += p.refused; p.refused > 0 {
					code = p.code
				}
				gaveUp += p.gaveUp
			}
		}
		if s.latency != nil {
			if s != r.shards[0] {
				r.shards[0].latency.merge(s.latency)
				r.shards[0].late.merge(s.late)
			}
		}
	}
	if first := r.shards[0]; first.latency != nil {
		r.report.Times, r.report.Lateness = first.latency.distribution(), first.late.distribution()
		if late := r.report.Lateness.P99; late > r.report.Times.P99/2 {
			r.report.Warnings = append(r.report.Warnings, fmt.Sprintf("the generator itself was late (p99 %s µs): the machine is busy, and the latency an upper bound", figure(late)))
		}
	}
	r.report.Lost, r.report.Duplicates, r.report.Reordered = lost, sum.duplicates, sum.reordered
	r.report.fail(refused > 0, "%d messages were refused (%s)", refused, code)
	r.report.fail(lost > 0 && r.o.QoS > packet.QoS0, "%d messages of QoS %d were lost", lost, r.o.QoS)
	r.report.fail(sum.reordered > 0, "%d messages were overtaken by later ones of their publisher", sum.reordered)
	r.report.fail(sum.duplicates > 0 && r.o.QoS != packet.QoS1, "%d messages of QoS %d came more than once", sum.duplicates, r.o.QoS)
	if gaveUp > 0 {
		r.report.Warnings = append(r.report.Warnings, fmt.Sprintf("messages did not come within %v and were given up %d times: the load paused meanwhile", r.o.Patience, gaveUp))
	}
}

func (r *Report) fail(so bool, format string, args ...any) {
	if so {
		r.Failures = append(r.Failures, fmt.Sprintf(format, args...))
	}
}

// count sums up a group: messages (or deliveries) that did not come, and what
// the trackers saw.
func (g *group) count() (lost int64, sum tally) {
	for i, p := range g.pubs {
		if g.spread != nil {
			t := &g.spread[i]
			lost += t.missing + p.sent - p.refused - int64(t.next)
			sum.duplicates += t.duplicates
			for _, u := range g.subs {
				sum.reordered += u.trackers[i].reordered
			}
			continue
		}
		for _, u := range g.subs {
			t := &u.trackers[i]
			lost += t.missing + p.sent - p.refused - int64(t.next)
			sum.add(t.tally)
		}
	}
	return lost, sum
}

// memory reads the broker's memory.
func (r *run) memory() error {
	if r.broker == nil {
		return nil
	}
	m, err := r.broker.memory()
	if err != nil {
		return fmt.Errorf("read the broker's memory: %w", err)
	}
	r.report.Memory = m
	return nil
}
