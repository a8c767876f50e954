package bench

import (
	"fmt"
	"time"

	"rollcall/internal/mqtt/packet"
)

// group is publishers and the subscribers that get what they publish.
type group struct {
	shard   *shard
	base    uint32 // number of the first publisher
	pubs    []*publisher
	subs    []*subscriber
	qos     packet.QoS
	each    int // arrivals that a message is due: 1, or as many as there are subscribers; 0: it is stored only
	patient time.Duration
	// spread are trackers for each publisher over all subscribers, where a
	// message goes to any one of them.
	spread []tracker
}

// publisher publishes in a closed loop (window or bursts), or when the
// schedule of its shard says so.
type publisher struct {
	c         *conn
	g         *group
	templates []template // used in turns
	window    int        // messages in flight at most
	burst     bool       // the next ones only when none is in flight
	bound     int64      // messages in all; 0: no bound

	sent    int64
	acked   int64 // PUBACK or PUBCOMP
	done    int64 // arrived everywhere
	part    int   // arrivals of the next one to be done
	missed  int64 // QoS 0, given up
	refused int64 // by a reason code
	code    packet.ReasonCode
	id      uint16
	moved   int64 // how far it was when it was last looked at
	movedAt int64
	gaveUp  int64 // how often
}

// inFlight is how many messages are published and not settled.
func (p *publisher) inFlight() int64 {
	n := int64(0)
	if p.g.each > 0 {
		n = p.sent - p.done - p.missed - p.refused
	}
	if p.g.qos > packet.QoS0 {
		n = max(n, p.sent-p.acked)
	}
	return max(n, 0)
}

// pump publishes what the closed loop allows.
func (p *publisher) pump() {
	s := p.g.shard
	if s.open != nil || s.stopping.Load() {
		return
	}
	n := int64(p.window)
	if flying := p.inFlight(); p.burst && flying > 0 {
		return
	} else if n -= flying; n <= 0 {
		return
	}
	if p.bound > 0 {
		n = min(n, p.bound-p.sent)
	}
	for range n {
		p.publish(0)
	}
}

// publish queues the next message.
func (p *publisher) publish(at int64) {
	if p.id++; p.id == 0 {
		p.id = 1
	}
	n := int64(len(p.templates))
	t := &p.templates[p.sent%n]
	p.c.out = t.append(p.c.out, p.id, uint32(p.sent/n), at)
	p.sent++
	p.c.queue()
}

// take implements role: acknowledgements.
func (p *publisher) take(first byte, body []byte) error {
	kind := packet.Type(first >> 4)
	if kind != packet.PUBACK && kind != packet.PUBREC && kind != packet.PUBCOMP {
		return fmt.Errorf("%s: the broker sent %s to a publisher", p.c.name, kind)
	}
	id, code, err := readAck(body)
	if err != nil {
		return err
	}
	switch {
	case code.Failed():
		p.refused++
		p.code = code
		p.acked++
	case kind == packet.PUBREC:
		p.c.out = appendAck(p.c.out, firstPubrel, id)
		p.c.queue()
		return nil
	default:
		p.acked++
	}
	if p.g.each == 0 {
		p.g.shard.arrived++
	}
	p.pump()
	return nil
}

// subscriber receives and acknowledges.
type subscriber struct {
	c        *conn
	g        *group
	trackers []tracker // of each publisher of the group
}

// take implements role: messages.
func (u *subscriber) take(first byte, body []byte) error {
	switch packet.Type(first >> 4) {
	case packet.PUBLISH:
	case packet.PUBREL:
		id, _, err := readAck(body)
		if err != nil {
			return err
		}
		u.c.out = appendAck(u.c.out, firstPubcomp, id)
		u.c.queue()
		return nil
	default:
		return fmt.Errorf("%s: the broker sent %s to a subscriber", u.c.name, packet.Type(first>>4))
	}
	id, st, err := readPublish(u.c.version, first, body)
	if err != nil {
		return err
	}
	switch first >> 1 & 3 {
	case 1:
		u.c.out = appendAck(u.c.out, firstPuback, id)
		u.c.queue()
	case 2:
		u.c.out = appendAck(u.c.out, firstPubrec, id)
		u.c.queue()
	}
	i := st.publisher - u.g.base
	if int(i) >= len(u.trackers) {
		return errForeign
	}
	fresh := u.trackers[i].take(st.seq)
	if u.g.spread != nil {
		fresh = u.g.spread[i].take(st.seq)
	}
	if !fresh {
		return nil
	}
	s := u.g.shard
	s.arrived++
	if s.latency != nil && s.recording.Load() {
		s.latency.add(time.Duration(s.now() - st.at))
	}
	if int(i) >= len(u.g.pubs) {
		return nil // it published before, and was another connection
	}
	p := u.g.pubs[i]
	if p.part++; p.part >= u.g.each {
		p.part = 0
		p.done++
	}
	p.pump()
	return nil
}

// tick begins the loop, gives up what does not come, and reports whether
// nothing is awaited any more.
func (g *group) tick(now int64) bool {
	idle := true
	for _, p := range g.pubs {
		if at := p.done + p.acked; at != p.moved {
			p.moved, p.movedAt = at, now
		}
		flying := p.inFlight()
		if flying > 0 && g.qos == packet.QoS0 && now-p.movedAt > int64(g.patient) {
			p.missed += flying
			p.part = 0
			p.gaveUp++
			p.movedAt = now
			flying = 0
		}
		if flying == 0 {
			p.movedAt = now
			p.pump()
		}
		if flying > 0 || p.inFlight() > 0 {
			idle = false
		}
	}
	return idle
}

// schedule says when messages are due in an open loop: at fixed times, whoever
// is late.
type schedule struct {
	first  int64 // when the first one is due
	period int64 // nanoseconds
	next   int64 // number of the next one
	pubs   []*publisher
}

// send publishes what is due and returns when the next message is. A publisher
// whose window is full holds the schedule up; what waits keeps its time.
func (o *schedule) send(s *shard, now int64) int64 {
	if s.stopping.Load() {
		return now + int64(tickEvery)
	}
	for {
		due := o.first + o.next*o.period
		if due > now {
			return due
		}
		p := o.pubs[o.next%int64(len(o.pubs))]
		if p.inFlight() >= int64(p.window) {
			return now + int64(time.Millisecond)
		}
		if s.recording.Load() {
			s.late.add(time.Duration(now - due))
		}
		p.publish(due)
		o.next++
	}
}
