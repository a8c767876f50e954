package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"rollcall/internal/mqtt/packet"
)

// setUpAtOnce is how many connections are set up at a time.
const setUpAtOnce = 32

// traffic measures pairs, fan-in, fan-out, shared subscriptions and latency.
func (r *run) traffic(ctx context.Context) (err error) {
	if err := r.openShards(); err != nil {
		return err
	}
	plans := r.plan()
	r.say("%s: %d connections to %s", r.o.Scenario, count(plans), r.target.address)
	if err := r.build(ctx, plans); err != nil {
		r.closeEngines()
		return err
	}
	for _, s := range r.shards {
		if r.o.Scenario == Latency {
			s.latency, s.late = new(histogram), new(histogram)
			s.open = r.schedule(s)
		}
	}
	a, b, err := r.drive(ctx)
	if err != nil {
		return err
	}
	r.report.Connections = count(plans)
	r.report.span(a, b, b.delivered-a.delivered, r.threads, r.broker != nil)
	if r.o.Scenario != Latency {
		r.report.bottleneck()
	}
	if err := r.memory(); err != nil {
		return err
	}
	r.judge()
	return nil
}

// plan is a group before its connections are made.
type plan struct {
	shard       *shard
	pubs, subs  int
	base        uint32
	each        int
	filter      string   // of the subscribers
	topics      []string // of the publishers, one for each
	remembering int      // words of a tracker
	spread      bool
}

func count(plans []plan) int {
	n := 0
	for _, p := range plans {
		n += p.pubs + p.subs
	}
	return n
}

// plan says who talks to whom.
func (r *run) plan() []plan {
	topic := func(name string, i int) string { return fmt.Sprintf("%s/%s/%d", r.o.Prefix, name, i) }
	first := r.shards[0]
	switch r.o.Scenario {
	case FanIn, Shared:
		p := plan{shard: first, pubs: r.o.Publishers, subs: 1, each: 1, filter: r.o.Prefix + "/in/+", remembering: 1}
		if r.o.Scenario == Shared {
			p.subs, p.spread = r.o.Members, true
			p.filter = "$share/" + r.o.Prefix + "/" + p.filter
		}
		for i := range r.o.Publishers {
			p.topics = append(p.topics, topic("in", i))
		}
		return []plan{p}
	case FanOut:
		t := topic("out", 0)
		return []plan{{shard: first, pubs: 1, subs: r.o.Subscribers, each: r.o.Subscribers, filter: t, topics: []string{t}, remembering: 1}}
	}
	var all []plan
	for i := range r.o.Publishers {
		t := topic("pair", i)
		all = append(all, plan{shard: r.shards[i%len(r.shards)], pubs: 1, subs: 1, base: uint32(i), each: 1, filter: t, topics: []string{t}, remembering: 1})
	}
	return all
}

// openShards makes the shards with their engines. What does not spread over
// threads gets one.
func (r *run) openShards() error {
	n := r.o.Loops
	if r.o.Scenario != Pairs && r.o.Scenario != Latency {
		n = 1
	}
	n = min(n, r.o.Publishers)
	loops := r.target.transport() == "tcp" && hasLoop && !r.o.Portable
	if r.threads = n; !loops {
		r.threads = runtime.GOMAXPROCS(0) // as many as goroutines may use
	}
	for range n {
		s := newShard(r.base)
		var e engine = newPortable(s)
		if loops {
			var err error
			if e, err = newLoop(s); err != nil {
				r.closeEngines()
				return err
			}
		}
		r.shards, r.engines = append(r.shards, s), append(r.engines, e)
	}
	return nil
}

// closeEngines ends engines that did not run.
func (r *run) closeEngines() {
	for _, e := range r.engines {
		e.close()
	}
}

// build connects everybody, subscribers first.
func (r *run) build(ctx context.Context, plans []plan) error {
	var all []func(context.Context) error
	var pubs []func(context.Context) error
	var mu sync.Mutex // guards the shards and engines while they are filled
	for i := range plans {
		p := &plans[i]
		g := &group{shard: p.shard, base: p.base, qos: r.o.QoS, each: p.each, patient: r.o.Patience,
			pubs: make([]*publisher, p.pubs), subs: make([]*subscriber, p.subs)}
		if p.spread {
			g.spread = newTrackers(p.pubs, 1024)
			p.remembering = 1024
		}
		p.shard.groups = append(p.shard.groups, g)
		for k := range p.subs {
			all = append(all, func(ctx context.Context) error {
				c, _, err := r.open(ctx, fmt.Sprintf("%s-s%d-%d", r.o.Prefix, p.base, k), p.filter)
				if err != nil {
					return err
				}
				u := &subscriber{g: g, trackers: newTrackers(p.pubs, p.remembering)}
				mu.Lock()
				defer mu.Unlock()
				g.subs[k] = u
				u.c, err = r.adopt(p.shard, c, u)
				return err
			})
		}
		for k := range p.pubs {
			pubs = append(pubs, func(ctx context.Context) error {
				u, err := r.newPublisher(g, p.base+uint32(k), p.topics[k:k+1])
				if err != nil {
					return err
				}
				c, ack, err := r.open(ctx, fmt.Sprintf("%s-p%d", r.o.Prefix, p.base+uint32(k)), "")
				if err != nil {
					return err
				}
				u.limit(ack)
				mu.Lock()
				defer mu.Unlock()
				g.pubs[k] = u
				u.c, err = r.adopt(p.shard, c, u)
				return err
			})
		}
	}
	if err := atOnce(ctx, setUpAtOnce, all); err != nil {
		return err
	}
	return atOnce(ctx, setUpAtOnce, pubs)
}

func (r *run) newPublisher(g *group, number uint32, topics []string) (*publisher, error) {
	u := &publisher{g: g, window: r.o.InFlight, burst: r.o.Burst}
	if r.o.Scenario == Latency {
		u.window = 10_000
	}
	for _, t := range topics {
		m, err := newTemplate(r.o.Version, t, r.o.QoS, number, r.o.Size)
		if err != nil {
			return nil, err
		}
		u.templates = append(u.templates, m)
	}
	return u, nil
}

// limit keeps the broker's Receive Maximum.
func (p *publisher) limit(ack *packet.Connack) {
	if p.g.qos > packet.QoS0 && ack.ReceiveMaximum > 0 {
		p.window = min(p.window, int(ack.ReceiveMaximum))
	}
}

// open connects a client that takes part, with a subscription unless filter is
// empty.
func (r *run) open(ctx context.Context, id, filter string) (*client, *packet.Connack, error) {
	c, ack, err := r.connect(ctx, packet.Connect{ClientID: id, CleanStart: true})
	if err != nil {
		return nil, nil, err
	}
	switch {
	case filter != "":
		err = c.subscribe(r.o.QoS, filter)
	case ack.MaximumQoS.Set && ack.MaximumQoS.Value < r.o.QoS:
		err = &RefusedError{What: fmt.Sprintf("QoS %d", r.o.QoS), Code: packet.QoSNotSupported}
	}
	if err == nil {
		err = c.ready()
	}
	if err != nil {
		return nil, nil, errors.Join(err, c.nc.Close())
	}
	return c, ack, nil
}

// adopt hands a client over to its shard's engine.
func (r *run) adopt(s *shard, c *client, is role) (*conn, error) {
	n := &conn{name: c.name, shard: s, version: c.v, role: is, rest: c.in, limit: r.o.Size + 64<<10, sentAt: s.now()}
	for i := range r.shards {
		if r.shards[i] == s {
			s.conns = append(s.conns, n)
			if err := r.engines[i].add(n, c.nc); err != nil {
				_ = c.nc.Close() // it may be closed
				return nil, err
			}
			return n, nil
		}
	}
	return nil, errors.New("the shard is not the run's")
}

// schedule is the open loop of a shard's publishers: its part of the rate.
func (r *run) schedule(s *shard) *schedule {
	o := &schedule{first: s.now() + int64(10*time.Millisecond)}
	for _, g := range s.groups {
		o.pubs = append(o.pubs, g.pubs...)
	}
	o.period = max(1, int64(time.Second)*int64(r.o.Publishers)/(int64(r.o.Rate)*int64(len(o.pubs))))
	return o
}

// atOnce runs all functions, n at a time, and returns the first error; the
// others are then called off.
func atOnce(ctx context.Context, n int, all []func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	next := make(chan func(context.Context) error)
	for range min(n, len(all)) {
		wg.Go(func() {
			for f := range next {
				if ctx.Err() != nil {
					continue
				}
				if err := f(ctx); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, f := range all {
		next <- f
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}
