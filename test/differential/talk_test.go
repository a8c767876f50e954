package differential

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"rollcall/internal/mqtt/packet"
)

// outcome is what a step led to at one broker.
type outcome struct {
	answers []string // to whoever took the step, and what ended connections
	heard   [clients][]heard
}

func (o *outcome) count() (n int) {
	for i := range o.heard {
		n += len(o.heard[i])
	}
	return n
}

// talk holds a conversation with one broker.
type talk struct {
	target string
	prefix string // of topics and client ids: nobody else uses it
	m      model
	links  [clients]*link
	ids    uint16
}

// short is how long a message of short life is waited for.
const short = 2200 * time.Millisecond

// do takes a step, waits until nothing more comes of it, and until satisfied,
// if that does not take too long.
func (t *talk) do(s *step, satisfied func(*outcome) bool) (*outcome, error) {
	var o outcome
	if err := t.act(s, &o); err != nil {
		return nil, err
	}
	t.m.take(s)
	deadline := time.Now().Add(settleTime)
	for range dropRounds {
		if s.do != drop { // nobody says when the broker has noticed
			break
		}
		if err := t.settle(); err != nil {
			return nil, err
		}
	}
	if err := t.more(&o, satisfied, deadline); err != nil {
		return nil, err
	}
	slices.Sort(o.answers)
	return &o, t.faults()
}

// more adds what comes until nothing more does, and until satisfied or the
// deadline: a broker may send a message that had to wait for an acknowledgement
// after PINGRESP.
func (t *talk) more(o *outcome, satisfied func(*outcome) bool, deadline time.Time) error {
	for {
		if err := t.settle(); err != nil {
			return err
		}
		t.collect(o)
		if satisfied == nil || satisfied(o) || time.Now().After(deadline) {
			return nil
		}
		t.awaitNews(deadline)
	}
}

// faults returns what was illegal whatever the other broker does.
func (t *talk) faults() error {
	for i, l := range t.links {
		if l == nil {
			continue
		}
		l.mu.Lock()
		fault := l.fault
		l.mu.Unlock()
		if fault != "" {
			return fmt.Errorf("c%d: %s", i, fault)
		}
	}
	return nil
}

// dropRounds are how often all clients are asked after a connection was dropped:
// the kernel may be slow to tell the broker.
const dropRounds = 5

// settleTime is how long a broker may take to do what the other one has done.
const settleTime = 3 * time.Second

// settle goes round all clients until nothing has come in a round.
func (t *talk) settle() error {
	for quiet := false; !quiet; {
		quiet = true
		var waits [clients]func() bool
		var before [clients]int
		for i, l := range t.links {
			if l != nil {
				waits[i], before[i] = l.ping()
			}
		}
		for i, l := range t.links {
			if l == nil {
				continue
			}
			answered := waits[i]()
			l.mu.Lock()
			quiet = quiet && l.news == before[i]
			ended := l.ending != ""
			l.mu.Unlock()
			if !answered && !ended {
				return fmt.Errorf("c%d: no PINGRESP", i)
			}
			if ended {
				t.links[i] = nil
				l.close()
				return fmt.Errorf("c%d: the broker ended the connection: %s", i, l.ending)
			}
		}
	}
	return nil
}

// awaitNews waits for a packet to any client.
func (t *talk) awaitNews(deadline time.Time) {
	tick := time.NewTimer(min(5*time.Millisecond, max(0, time.Until(deadline))))
	defer tick.Stop()
	<-tick.C
}

// collect takes what has been heard.
func (t *talk) collect(o *outcome) {
	for i, l := range t.links {
		if l == nil {
			continue
		}
		l.mu.Lock()
		o.heard[i] = append(o.heard[i], l.heard...)
		l.heard = nil
		l.mu.Unlock()
	}
}

// act sends what the step is and waits for the answer to it.
func (t *talk) act(s *step, o *outcome) error {
	l := t.links[s.client]
	switch s.do {
	case connect:
		return t.connect(s, o)
	case disconnect:
		p := &packet.Disconnect{}
		if s.withWill {
			p.ReasonCode = packet.DisconnectWithWillMessage
		}
		if s.reset {
			p.SessionExpiryInterval = packet.Some[uint32](0)
		}
		if err := l.send(p); err != nil {
			return err
		}
		return t.gone(s.client, true)
	case drop:
		return t.drop(s.client)
	case subscribe, unsubscribe:
		return t.subscribe(l, s, o)
	case publish:
		return t.publish(l, s)
	case mute:
		l.mu.Lock()
		l.muted, l.half = true, s.half
		l.mu.Unlock()
	case expire:
		timer := time.NewTimer(short)
		defer timer.Stop()
		<-timer.C
	}
	return nil
}

// drop closes a client's connection. If that publishes its Will, somebody waits
// for it: a broker need not notice before it does what comes next.
func (t *talk) drop(i int) error {
	w := t.m.clients[i].will
	if w == nil || w.delay > 0 {
		return t.gone(i, false)
	}
	witness, err := dial(t.target, t.prefix+"witness", t.prefix, &step{client: i, do: connect, version: packet.V311, clean: true, window: 65535})
	if err != nil {
		return err
	}
	defer witness.close()
	if !witness.await(patience, func() bool { return witness.connack != nil }) {
		return errors.New("the witness is not let in")
	}
	if err := witness.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: t.prefix + w.topic}}}); err != nil {
		return err
	}
	if !witness.await(patience, func() bool { return witness.subacks[1] != nil }) {
		return errors.New("the witness is not subscribed")
	}
	if err := t.gone(i, false); err != nil {
		return err
	}
	if !witness.await(patience, func() bool {
		return slices.ContainsFunc(witness.heard, func(h heard) bool { return h.payload == w.payload && !h.retain })
	}) {
		return fmt.Errorf("c%d: its Will is not published", i)
	}
	return nil
}

// gone closes a client's connection, or waits until the broker has.
func (t *talk) gone(i int, polite bool) error {
	l := t.links[i]
	t.links[i] = nil
	if polite && !l.await(patience, func() bool { return l.ending != "" }) {
		return fmt.Errorf("c%d: the broker does not close the connection after DISCONNECT", i)
	}
	l.close()
	return nil
}

func (t *talk) connect(s *step, o *outcome) error {
	old := t.links[s.client]
	l, err := dial(t.target, fmt.Sprintf("%sc%d", t.prefix, s.client), t.prefix, s)
	if err != nil {
		return err
	}
	t.links[s.client] = l
	if !l.await(patience, func() bool { return l.connack != nil }) {
		return fmt.Errorf("c%d: no CONNACK", s.client)
	}
	l.mu.Lock()
	ack := l.connack
	l.mu.Unlock()
	o.answers = append(o.answers, fmt.Sprintf("CONNACK 0x%02x, session present %v", uint8(ack.ReasonCode), ack.SessionPresent))
	if old == nil {
		return nil
	}
	select {
	case <-old.done:
	case <-time.After(patience):
		return fmt.Errorf("c%d: the connection that was taken over is not closed", s.client)
	}
	old.close()
	o.answers = append(o.answers, "taken over: "+old.ending)
	return nil
}

func (t *talk) next() uint16 {
	t.ids++
	return t.ids
}

func (t *talk) subscribe(l *link, s *step, o *outcome) error {
	id := t.next()
	var p packet.Packet
	if s.do == subscribe {
		q := &packet.Subscribe{PacketID: id, SubscriptionIdentifier: s.id}
		for _, sub := range s.subs {
			sub.Filter = t.filter(sub.Filter)
			q.Subscriptions = append(q.Subscriptions, sub)
		}
		p = q
	} else {
		q := &packet.Unsubscribe{PacketID: id}
		for _, sub := range s.subs {
			q.Filters = append(q.Filters, t.filter(sub.Filter))
		}
		p = q
	}
	if err := l.send(p); err != nil {
		return err
	}
	var codes []packet.ReasonCode
	if !l.await(patience, func() (ok bool) { codes, ok = l.subacks[id]; return ok }) {
		return fmt.Errorf("c%d: %s is not acknowledged", s.client, s.do)
	}
	o.answers = append(o.answers, fmt.Sprintf("%s %x", s.do, codes))
	return nil
}

// filter puts the prefix before a filter, behind a share name.
func (t *talk) filter(f string) string {
	if len(f) > 10 && f[:7] == "$share/" { // all share names have two letters
		return f[:10] + t.prefix + f[10:]
	}
	return t.prefix + f
}

func (t *talk) publish(l *link, s *step) error {
	var wait []uint16
	sent := make(map[uint16]string)
	for a, topic := range t.m.clients[s.client].aliases {
		sent[a] = topic
	}
	for i := range s.messages {
		m := &s.messages[i]
		p := &packet.Publish{Topic: []byte(t.prefix + m.topic), Payload: []byte(m.payload), QoS: m.qos, Retain: m.retain, TopicAlias: m.alias}
		if m.alias > 0 && sent[m.alias] == m.topic && m.topic != "" {
			p.Topic = nil
		}
		sent[m.alias] = m.topic
		if m.expiry > 0 {
			p.MessageExpiryInterval = packet.Some(m.expiry)
		}
		if m.props {
			p.ContentType, p.ResponseTopic, p.CorrelationData = []byte("text/plain"), []byte("answers"), []byte{1, 0, 2}
			p.PayloadFormatIndicator = packet.Some[uint8](1)
			p.UserProperties = []packet.UserProperty{{Name: []byte("b"), Value: []byte("1")}, {Name: []byte("a"), Value: []byte("2")}, {Name: []byte("b"), Value: []byte("1")}}
		}
		if m.qos > packet.QoS0 {
			p.PacketID = t.next()
			wait = append(wait, p.PacketID)
		}
		if err := l.send(p); err != nil {
			return err
		}
	}
	// mosquitto takes one packet of a connection at a time: what was sent with
	// QoS 0 must not be overtaken by what others ask.
	if wait, _ := l.ping(); !wait() {
		return fmt.Errorf("c%d: no PINGRESP after publishing", s.client)
	}
	for _, id := range wait {
		if !l.await(patience, func() bool { _, ok := l.acked[id]; return ok }) {
			return fmt.Errorf("c%d: message %d is not acknowledged", s.client, id)
		}
		l.mu.Lock()
		code := l.acked[id]
		l.mu.Unlock()
		if code.Failed() {
			return fmt.Errorf("c%d: message %d is refused: %s", s.client, id, code)
		}
	}
	return nil
}

// end removes what the conversation has left at the broker.
func (t *talk) end() {
	for i, l := range t.links {
		if l != nil {
			l.close()
		}
		l, err := dial(t.target, fmt.Sprintf("%sc%d", t.prefix, i), t.prefix, &step{client: i, do: connect, version: packet.V5, clean: true, window: 65535})
		if err != nil {
			continue
		}
		l.await(patience, func() bool { return l.connack != nil })
		if i == 0 {
			for _, topic := range slices.Concat(topics, pools) {
				_ = l.send(&packet.Publish{Topic: []byte(t.prefix + topic), Retain: true})
			}
			if wait, _ := l.ping(); !wait() {
				continue
			}
		}
		_ = l.send(&packet.Disconnect{})
		l.close()
	}
}
