// Package bench makes load for MQTT brokers and measures what it costs them.
//
// It promises three things. It is not what limits: messages are encoded once
// and patched, plain TCP on Linux is served by event loops that allocate nothing
// for a message, and where the generator was the bottleneck all the same the
// report says so. It counts only what it saw: warm-up and set-up are not
// measured, each message carries its publisher and number, and lost, repeated
// and overtaken ones are counted. And it is bounded: every wait has an end,
// every count a limit, and what it opens it closes.
//
// The figure that travels from one machine to another is the broker's CPU for
// each message; rates stand beside it.
package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"rollcall/internal/mqtt/packet"
)

// run is one measurement.
type run struct {
	o      Options
	target *target
	user   packet.Optional[string]
	broker *process // nil: unknown
	base   time.Time
	report *Report
	dialed atomic.Int64

	threads int // that may make load
	shards  []*shard
	engines []engine
}

// Run measures one scenario. What the broker refuses is a *RefusedError; a
// report whose Failures are not empty says that the broker did not keep what
// MQTT promises. Run may be called concurrently.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	t, err := parseTarget(o.Target)
	if err != nil {
		return nil, err
	}
	r := &run{o: o, target: t, base: time.Now()}
	if o.User != "" {
		r.user = packet.Some(o.User)
	}
	r.report = newReport(&r.o, t)
	if err := r.findBroker(); err != nil {
		return nil, err
	}
	if err := raiseLimit(r.descriptors()); err != nil {
		return nil, err
	}
	switch o.Scenario {
	case Connect:
		err = r.storm(ctx)
	case Idle:
		err = r.idle(ctx)
	case Sleeping:
		err = r.sleep(ctx)
	default:
		err = r.traffic(ctx)
	}
	if err != nil {
		return nil, err
	}
	return r.report, nil
}

// descriptors is how many the run needs.
func (r *run) descriptors() int {
	n := 0
	switch r.o.Scenario {
	case Pairs, Latency:
		n = 2 * r.o.Publishers
	case FanIn:
		n = r.o.Publishers + 1
	case FanOut:
		n = r.o.Subscribers + 1
	case Shared:
		n = r.o.Publishers + r.o.Members
	case Connect:
		n = min(r.o.Concurrent, r.o.Connections)
	case Idle:
		n = r.o.Connections
	case Sleeping:
		n = setUpAtOnce + min(r.o.Publishers, r.o.Sessions)
	}
	return n + setUpAtOnce + 32
}

func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.o.Progress, format+"\n", args...)
}

// findBroker finds the broker's process. A process that is not found by its
// port is a warning, because the broker may be on another machine.
func (r *run) findBroker() error {
	pid := r.o.PID
	if pid == 0 && r.o.FindPID {
		var err error
		if pid, err = listenerOf(r.target.address); err != nil {
			r.report.Warnings = append(r.report.Warnings, fmt.Sprintf("the broker's CPU and memory were not measured: %v", err))
			return nil
		}
	}
	if pid == 0 {
		return nil
	}
	p, err := openProcess(pid)
	if err != nil {
		return fmt.Errorf("the broker's process: %w", err)
	}
	r.broker = p
	return nil
}

// mark is a moment of a measurement.
type mark struct {
	at        time.Time
	broker    time.Duration // CPU; 0 if it is unknown
	own       time.Duration // CPU
	delivered int64
}

func (r *run) mark() (mark, error) {
	m := mark{at: time.Now()}
	for _, s := range r.shards {
		m.delivered += s.delivered.Load()
	}
	var err error
	if m.own, err = ownCPU(); err != nil {
		return m, fmt.Errorf("read the generator's CPU: %w", err)
	}
	if r.broker != nil {
		if m.broker, err = r.broker.cpu(); err != nil {
			return m, fmt.Errorf("read the broker's CPU: %w", err)
		}
	}
	return m, nil
}
