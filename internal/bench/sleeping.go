package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"rollcall/internal/mqtt/packet"
)

// keepFor is how long the broker is asked to keep a session that sleeps,
// seconds. The run deletes them itself.
const keepFor = 3600

// sleep measures messages that are stored for sessions that are offline.
func (r *run) sleep(ctx context.Context) (err error) {
	if err := r.openShards(); err != nil {
		return err
	}
	r.say("%s: %d sessions on %s", r.o.Scenario, r.o.Sessions, r.target.address)
	defer func() {
		if e := r.forget(context.WithoutCancel(ctx)); e != nil && err == nil {
			r.report.Warnings = append(r.report.Warnings, "not all sessions could be deleted: "+e.Error())
		}
	}()
	if err := r.each(ctx, r.fallAsleep); err != nil {
		r.closeEngines()
		return err
	}
	if err := r.probe(ctx); err != nil {
		r.closeEngines()
		return err
	}
	if err := r.buildSenders(ctx); err != nil {
		r.closeEngines()
		return err
	}
	a, b, err := r.driveSenders(ctx)
	if err != nil {
		return err
	}
	r.report.Connections = len(r.shards[0].conns)
	r.report.Sessions = r.o.Sessions
	r.report.span(a, b, b.delivered-a.delivered, r.threads, r.broker != nil)
	r.report.bottleneck()
	if err := r.memory(); err != nil {
		return err
	}
	var refused int64
	var code packet.ReasonCode
	for _, p := range r.shards[0].groups[0].pubs {
		if refused += p.refused; p.refused > 0 {
			code = p.code
		}
	}
	r.report.fail(refused > 0, "%d messages were refused (%s)", refused, code)
	if r.o.Wake && refused == 0 {
		return r.wake(ctx)
	}
	return nil
}

func (r *run) sleeper(i int) (id, topic string) {
	return fmt.Sprintf("%s-z%d", r.o.Prefix, i), fmt.Sprintf("%s/sleep/%d", r.o.Prefix, i)
}

// each calls f for all sessions, several at a time.
func (r *run) each(ctx context.Context, f func(ctx context.Context, i int) error) error {
	all := make([]func(context.Context) error, r.o.Sessions)
	for i := range all {
		all[i] = func(ctx context.Context) error { return f(ctx, i) }
	}
	return atOnce(ctx, setUpAtOnce, all)
}

// fallAsleep makes the session i with its subscription and leaves.
func (r *run) fallAsleep(ctx context.Context, i int) error {
	id, topic := r.sleeper(i)
	c, ack, err := r.connect(ctx, packet.Connect{ClientID: id, SessionExpiryInterval: keepFor})
	if err != nil {
		return err
	}
	if r.o.Version == packet.V5 && ack.SessionExpiryInterval.Set && ack.SessionExpiryInterval.Value == 0 {
		err = errNotKept
	}
	if err == nil {
		err = c.subscribe(r.o.QoS, topic)
	}
	return errors.Join(err, c.disconnect())
}

var errNotKept = &RefusedError{What: "a session that outlives its connection", Code: packet.ImplementationSpecificError}

// probe sees that the first session was kept.
func (r *run) probe(ctx context.Context) error {
	c, ack, err := r.comeBack(ctx, 0)
	if err != nil {
		return err
	}
	if !ack.SessionPresent {
		err = errNotKept
	}
	return errors.Join(err, c.disconnect())
}

func (r *run) comeBack(ctx context.Context, i int) (*client, *packet.Connack, error) {
	id, _ := r.sleeper(i)
	return r.connect(ctx, packet.Connect{ClientID: id, SessionExpiryInterval: keepFor})
}

// forget deletes the sessions.
func (r *run) forget(ctx context.Context) error {
	return r.each(ctx, func(ctx context.Context, i int) error {
		id, _ := r.sleeper(i)
		c, _, err := r.connect(ctx, packet.Connect{ClientID: id, CleanStart: true})
		if err != nil {
			return err
		}
		return c.disconnect()
	})
}

// buildSenders connects the publishers; each has its part of the sessions.
func (r *run) buildSenders(ctx context.Context) error {
	n := min(r.o.Publishers, r.o.Sessions)
	s := r.shards[0]
	g := &group{shard: s, qos: r.o.QoS, patient: r.o.Patience, pubs: make([]*publisher, n)}
	s.groups = append(s.groups, g)
	var mu sync.Mutex // guards the shard and its engine while they are filled
	all := make([]func(context.Context) error, n)
	for k := range all {
		all[k] = func(ctx context.Context) error {
			var topics []string
			for i := k; i < r.o.Sessions; i += n {
				_, topic := r.sleeper(i)
				topics = append(topics, topic)
			}
			u, err := r.newPublisher(g, uint32(k), topics)
			if err != nil {
				return err
			}
			u.bound = r.perSession() * int64(len(topics))
			c, ack, err := r.open(ctx, fmt.Sprintf("%s-p%d", r.o.Prefix, k), "")
			if err != nil {
				return err
			}
			u.limit(ack)
			mu.Lock()
			defer mu.Unlock()
			g.pubs[k] = u
			u.c, err = r.adopt(s, c, u)
			return err
		}
	}
	return atOnce(ctx, setUpAtOnce, all)
}

// perSession is how many messages each session gets: those that are measured,
// and before them one to warm up.
func (r *run) perSession() int64 { return r.o.Messages + 1 }

// driveSenders publishes everything.
func (r *run) driveSenders(ctx context.Context) (a, b mark, err error) {
	start, err := r.mark()
	if err != nil {
		return a, b, err
	}
	running := r.start()
	defer running.stop()
	warm, all := int64(r.o.Sessions), r.perSession()*int64(r.o.Sessions)
	if err = r.reach(ctx, running, warm); err != nil {
		return a, b, err
	}
	if a, err = r.mark(); err != nil {
		return a, b, err
	}
	if err = r.reach(ctx, running, all); err != nil {
		return a, b, err
	}
	b, err = r.mark()
	if a.delivered == b.delivered { // so few that all were there before anybody looked
		a = start
		r.report.Warnings = append(r.report.Warnings, "there were so few messages that those to warm up are counted too")
	}
	return a, b, err
}

// reach waits until n messages are acknowledged, as long as some are.
func (r *run) reach(ctx context.Context, running *running, n int64) error {
	for last := int64(-1); ; {
		err := wait(ctx, running.failed, r.o.Timeout, func() bool { return r.total() >= n })
		total := r.total()
		if err != nil || total >= n {
			return err
		}
		if total == last {
			return fmt.Errorf("the broker has acknowledged %d of %d messages and then none for %v", total, n, r.o.Timeout)
		}
		last = total
	}
}

// wake has all sessions come back and counts what arrives.
func (r *run) wake(ctx context.Context) error {
	r.say("%s: the sessions come back", r.o.Scenario)
	var mu sync.Mutex // guards sum and lost
	var sum tally
	var lost, arrived int64
	err := r.each(ctx, func(ctx context.Context, i int) error {
		c, ack, err := r.comeBack(ctx, i)
		if err != nil {
			return err
		}
		t := &newTrackers(1, 1024)[0]
		n := int64(0)
		if ack.SessionPresent {
			n, err = r.collect(c, t)
		}
		mu.Lock()
		defer mu.Unlock()
		sum.add(t.tally)
		arrived += n
		lost += r.perSession() - n
		return errors.Join(err, c.nc.SetDeadline(time.Now().Add(r.o.Timeout)), c.disconnect())
	})
	if err != nil {
		return err
	}
	r.report.Arrived, r.report.Lost, r.report.Duplicates, r.report.Reordered = arrived, lost, sum.duplicates, sum.reordered
	r.report.fail(lost > 0, "%d stored messages were lost", lost)
	r.report.fail(sum.reordered > 0, "%d messages were overtaken by later ones of their publisher", sum.reordered)
	r.report.fail(sum.duplicates > 0 && r.o.QoS == packet.QoS2, "%d messages of QoS 2 came more than once", sum.duplicates)
	return nil
}

// collect receives and acknowledges until all messages have come, or none
// does any more.
func (r *run) collect(c *client, t *tracker) (n int64, err error) {
	var open int // QoS 2 messages that wait for PUBREL
	for n < r.perSession() || open > 0 {
		if err := c.nc.SetDeadline(time.Now().Add(r.o.Timeout)); err != nil {
			return n, err
		}
		body, first, err := c.next()
		var slow interface{ Timeout() bool }
		if errors.As(err, &slow) && slow.Timeout() {
			return n, nil // what is missing is lost
		}
		if err != nil {
			return n, fmt.Errorf("%s: %w", c.name, err)
		}
		var id uint16
		ack := firstPuback
		switch packet.Type(first >> 4) {
		case packet.PUBLISH:
			var s stamp
			if id, s, err = readPublish(c.v, first, body); err != nil {
				return n, err
			}
			if t.take(s.seq) {
				n++
			}
			if first>>1&3 == 2 {
				ack = firstPubrec
				open++
			}
		case packet.PUBREL:
			if id, _, err = readAck(body); err != nil {
				return n, err
			}
			ack = firstPubcomp
			open = max(open-1, 0)
		default:
			return n, fmt.Errorf("%s: the broker sent %s", c.name, packet.Type(first>>4))
		}
		if id == 0 {
			continue // QoS 0
		}
		if _, err := c.nc.Write(appendAck(nil, ack, id)); err != nil {
			return n, err
		}
	}
	return n, nil
}

// next returns the next packet as it came: what follows its length, and its
// first byte. The body is valid until the next call.
func (c *client) next() (body []byte, first byte, err error) {
	for {
		at, n, err := cut(c.in, math.MaxInt32)
		if err != nil {
			return nil, 0, err
		}
		if n > 0 {
			first, body = c.in[0], c.in[at:n]
			c.in = c.in[n:]
			return body, first, nil
		}
		if err := c.fill(); err != nil {
			return nil, 0, err
		}
	}
}
