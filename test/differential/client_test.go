package differential

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
)

const patience = 20 * time.Second

// heard is a message as a client received it.
type heard struct {
	topic, payload string
	qos            packet.QoS
	retain         bool
	ids            []uint32
	dup            bool
	rest           string // properties
	client         int
}

func (h heard) String() string {
	s := fmt.Sprintf("%s=%q q%d", h.topic, h.payload, h.qos)
	if h.retain {
		s += " retain"
	}
	if len(h.ids) > 0 {
		s += fmt.Sprint(" ids ", h.ids)
	}
	return s + h.rest
}

// link is a client's connection to one of the brokers. One goroutine reads
// and acknowledges; the conversation's sends.
type link struct {
	c       *peer.Conn
	v       packet.Version
	no      int
	prefix  string
	aliases map[uint16]string
	done    chan struct{} // the reader has ended

	out sync.Mutex // sending

	mu      sync.Mutex
	came    chan struct{} // closed when something comes
	muted   bool
	half    bool
	news    int // packets that are no PINGRESP
	pongs   int
	connack *packet.Connack
	subacks map[uint16][]packet.ReasonCode
	acked   map[uint16]packet.ReasonCode // our messages
	heard   []heard
	ending  string // DISCONNECT, or "closed"
	fault   string // of the broker's
}

// dial connects.
func dial(target, id, prefix string, s *step) (*link, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p := packet.Connect{ClientID: id, CleanStart: s.clean, SessionExpiryInterval: s.expiry, ReceiveMaximum: s.window,
		TopicAliasMaximum: s.aliases}
	if w := s.will; w != nil {
		p.Will = &packet.Will{Topic: []byte(prefix + w.topic), Payload: []byte(w.payload), QoS: w.qos, Retain: w.retain, DelayInterval: w.delay}
	}
	c, err := peer.Open(ctx, target, s.version, nil)
	if err != nil {
		return nil, err
	}
	l := &link{c: c, v: s.version, no: s.client, prefix: prefix, done: make(chan struct{}), came: make(chan struct{}),
		aliases: make(map[uint16]string), subacks: make(map[uint16][]packet.ReasonCode), acked: make(map[uint16]packet.ReasonCode)}
	go l.read()
	return l, l.send(&p)
}

func (l *link) send(p packet.Packet) error {
	l.out.Lock()
	defer l.out.Unlock()
	return l.c.Send(p)
}

func (l *link) read() {
	defer close(l.done)
	for {
		p, err := l.c.Receive(time.Time{})
		if err != nil {
			l.note(func() {
				if l.ending == "" {
					l.ending = "closed"
				}
			})
			return
		}
		l.take(p)
	}
}

// note changes something and wakes whoever waits for a change.
func (l *link) note(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.came)
	l.came = make(chan struct{})
}

func (l *link) take(p packet.Packet) {
	var answer packet.Packet
	l.note(func() {
		l.news++
		switch p := p.(type) {
		case *packet.Pingresp:
			l.news--
			l.pongs++
		case *packet.Connack:
			l.connack = p
		case *packet.Suback:
			l.subacks[p.PacketID] = p.ReasonCodes
		case *packet.Unsuback:
			l.subacks[p.PacketID] = p.ReasonCodes
			if l.v != packet.V5 { // it has none
				l.subacks[p.PacketID] = []packet.ReasonCode{}
			}
		case *packet.Puback:
			l.acked[p.PacketID] = p.ReasonCode
		case *packet.Pubrec:
			if p.ReasonCode.Failed() {
				l.acked[p.PacketID] = p.ReasonCode
				return
			}
			answer = &packet.Pubrel{PacketID: p.PacketID}
		case *packet.Pubcomp:
			l.acked[p.PacketID] = packet.Success
		case *packet.Pubrel:
			if !l.muted {
				answer = &packet.Pubcomp{PacketID: p.PacketID}
			}
		case *packet.Publish:
			answer = l.hear(p)
		case *packet.Disconnect:
			l.ending = fmt.Sprintf("DISCONNECT 0x%02x", uint8(p.ReasonCode))
		default:
			l.fault = fmt.Sprintf("unexpected %s", p.Type())
		}
	})
	if answer != nil {
		_ = l.send(answer) // a dead connection shows in read
	}
}

func (l *link) hear(p *packet.Publish) (answer packet.Packet) {
	topic := string(p.Topic)
	if a := p.TopicAlias; a != 0 {
		if topic == "" {
			topic = l.aliases[a]
		}
		l.aliases[a] = topic
	}
	if p.Dup && p.QoS == packet.QoS0 {
		l.fault = "DUP with QoS 0"
	}
	h := heard{topic: strings.TrimPrefix(topic, l.prefix), payload: string(p.Payload), qos: p.QoS, retain: p.Retain, dup: p.Dup, client: l.no}
	h.ids = slices.Clone(p.SubscriptionIdentifiers)
	slices.Sort(h.ids)
	if e := p.MessageExpiryInterval; e.Set {
		h.rest += " expires"
		if e.Value > 3600 || e.Value > 1 && e.Value < 3500 {
			h.rest += fmt.Sprint(" in ", e.Value)
		}
	}
	if p.ContentType != nil || p.ResponseTopic != nil || p.CorrelationData != nil || p.PayloadFormatIndicator.Set || len(p.UserProperties) > 0 {
		h.rest += fmt.Sprintf(" %s %s %x %v %s", p.ContentType, p.ResponseTopic, p.CorrelationData, p.PayloadFormatIndicator, p.UserProperties)
	}
	l.heard = append(l.heard, h)
	switch {
	case p.QoS == packet.QoS1 && !l.muted:
		return &packet.Puback{PacketID: p.PacketID}
	case p.QoS == packet.QoS2 && (!l.muted || l.half):
		return &packet.Pubrec{PacketID: p.PacketID}
	}
	return nil
}

// await waits until ok, which is called with the lock; or reports false after
// d, or when the connection has ended without it.
func (l *link) await(d time.Duration, ok func() bool) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		l.mu.Lock()
		if ok() {
			l.mu.Unlock()
			return true
		}
		came := l.came
		l.mu.Unlock()
		select {
		case <-came:
		case <-t.C:
			return false
		case <-l.done:
			l.mu.Lock()
			defer l.mu.Unlock()
			return ok()
		}
	}
}

// ping begins a round trip, whose end wait awaits.
func (l *link) ping() (wait func() bool, before int) {
	l.mu.Lock()
	want := l.pongs + 1
	before = l.news
	l.mu.Unlock()
	if l.send(&packet.Pingreq{}) != nil {
		return func() bool { return false }, before
	}
	return func() bool { return l.await(patience, func() bool { return l.pongs >= want }) }, before
}

// close ends the connection without a word.
func (l *link) close() {
	l.c.Close()
	<-l.done
}
