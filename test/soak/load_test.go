package soak

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// kinds are what the load consists of.
var kinds = []string{"connects", "QoS 0", "QoS 1", "QoS 2", "stored", "shared", "retained", "expiring"}

var transports = []string{"tcp", "tls", "ws"}

// load is a fleet. Whoever finds that something is wrong reports it and stops.
type load struct {
	info app.ReadyInfo
	tls  *tls.Config

	mu   sync.Mutex
	done map[string]int // by kind
}

func (l *load) add(kind string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[kind] += n
}

func (l *load) count(kind string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done[kind]
}

// String tells what was done.
func (l *load) String() string {
	var parts []string
	for _, k := range kinds {
		parts = append(parts, fmt.Sprintf("%s: %d", k, l.count(k)))
	}
	return strings.Join(parts, ", ")
}

// start starts everything, to run until ctx ends.
func (l *load) start(ctx context.Context, t *testing.T, wg *sync.WaitGroup) {
	run := func(what string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	for k, transport := range transports {
		run("connects", func() error { return l.comeAndGo(ctx, transport, k) })
		for qos := packet.QoS0; qos <= packet.QoS2; qos++ {
			s := stream{l: l, kind: fmt.Sprintf("QoS %d", qos), name: fmt.Sprintf("%s-%d", transport, qos), transport: transport, qos: qos}
			s.run(ctx, run)
		}
	}
	s := stream{l: l, kind: "stored", name: "stored", transport: "tcp", qos: packet.QoS1, stored: true}
	s.run(ctx, run)
	s = stream{l: l, kind: "shared", name: "shared", transport: "tcp", qos: packet.QoS1, members: 3}
	s.run(ctx, run)
	run("retained", func() error { return l.retain(ctx) })
	run("expiring", func() error { return l.expire(ctx) })
}

func (l *load) dial(transport string, p packet.Connect) (*peer.Conn, *packet.Connack, error) {
	p.ReceiveMaximum = 1000
	ctx, cancel := context.WithTimeout(context.Background(), servertest.Patience)
	defer cancel()
	c, ack, err := peer.Dial(ctx, servertest.Target(l.info, transport), packet.V5, l.tls, p)
	if err != nil {
		return nil, nil, fmt.Errorf("%s connects over %s: %w", p.ClientID, transport, err)
	}
	return c, ack, nil
}

func answer[P packet.Packet](c *peer.Conn, request packet.Packet) (P, error) {
	var none P
	if request != nil {
		if err := c.Send(request); err != nil {
			return none, err
		}
	}
	for {
		got, err := c.Receive(time.Now().Add(servertest.Patience))
		if err != nil {
			return none, err
		}
		switch p := got.(type) {
		case P:
			return p, nil
		case *packet.Publish: // messages may come before the SUBACK (3.8.4)
			if p.QoS == packet.QoS1 {
				err = c.Send(&packet.Puback{PacketID: p.PacketID})
			}
			if err != nil {
				return none, err
			}
		default:
			return none, fmt.Errorf("%+v instead of %s", got, none.Type())
		}
	}
}

func subscribe(c *peer.Conn, filter string, qos packet.QoS) error {
	_, err := answer[*packet.Suback](c, &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: filter, QoS: qos}}})
	return err
}

// comeAndGo connects, with a Will, and leaves in one way or another.
func (l *load) comeAndGo(ctx context.Context, transport string, k int) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		c, _, err := l.dial(transport, packet.Connect{ClientID: fmt.Sprintf("comes-%d-%d", k, n%50), CleanStart: true,
			Will: &packet.Will{Topic: []byte("will"), Payload: []byte("x"), QoS: packet.QoS1}})
		if err != nil {
			return err
		}
		if err := subscribe(c, "will", packet.QoS0); err != nil {
			return err
		}
		switch n % 3 {
		case 0:
			err = c.Disconnect()
		case 1:
			err = c.Abort()
		default:
			err = c.Close()
		}
		if err != nil {
			return err
		}
		l.add("connects", 1)
	}
}

// stream is a publisher and its subscribers.
type stream struct {
	l         *load
	kind      string
	name      string
	transport string
	qos       packet.QoS
	stored    bool // the subscriber has a session that outlives its connections, which it often changes
	members   int  // of a shared subscription; 0: an ordinary one
}

func (s stream) run(ctx context.Context, run func(string, func() error)) {
	ready := make(chan struct{}, max(1, s.members))
	for k := range max(1, s.members) {
		run(s.name+" subscriber", func() error { return s.subscriber(ctx, k, ready) })
	}
	run(s.name+" publisher", func() error {
		for range max(1, s.members) {
			select {
			case <-ready:
			case <-ctx.Done():
				return nil
			}
		}
		return s.publisher(ctx)
	})
}

const burst = 4 // messages at a tick

func (s stream) publisher(ctx context.Context) error {
	c, _, err := s.l.dial(s.transport, packet.Connect{ClientID: s.name + "-pub", CleanStart: true})
	if err != nil {
		return err
	}
	defer c.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n += burst {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		for k := range burst {
			p := packet.Publish{Topic: []byte("s/" + s.name), QoS: s.qos, Payload: fmt.Appendf(nil, "%d %0100d", n+k, 0)}
			if s.qos > packet.QoS0 {
				p.PacketID = uint16(k + 1)
			}
			if err := c.Send(&p); err != nil {
				return err
			}
		}
		for range burst {
			switch s.qos {
			case packet.QoS1:
				_, err = answer[*packet.Puback](c, nil)
			case packet.QoS2:
				_, err = answer[*packet.Pubrec](c, nil)
			}
			if err != nil {
				return err
			}
		}
		for k := uint16(1); k <= burst && s.qos == packet.QoS2; k++ {
			if _, err := answer[*packet.Pubcomp](c, &packet.Pubrel{PacketID: k}); err != nil {
				return err
			}
		}
	}
}

// subscriber sees that what is promised comes in order and without a gap. A
// stored session may get again what it has just acknowledged.
func (s stream) subscriber(ctx context.Context, member int, ready chan<- struct{}) error {
	last := 0
	for first := true; ; first = false {
		p := packet.Connect{ClientID: fmt.Sprintf("%s-sub-%d", s.name, member), CleanStart: !s.stored}
		if s.stored {
			p.SessionExpiryInterval = 3600
		}
		c, ack, err := s.l.dial(s.transport, p)
		if err != nil {
			return err
		}
		if !first && !ack.SessionPresent {
			return fmt.Errorf("%s has lost its session", p.ClientID)
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		if first {
			filter := "s/" + s.name
			if s.members > 0 {
				filter = "$share/g/" + filter
			}
			if err := subscribe(c, filter, s.qos); err != nil {
				return err
			}
			ready <- struct{}{}
		}
		for k := 0; !s.stored || k < 100; k++ {
			n, err := receive(c)
			switch {
			case err != nil:
				return err
			case n <= last && !s.stored, n > last+1 && s.qos > packet.QoS0 && s.members == 0:
				return fmt.Errorf("message %d after %d", n, last)
			}
			last = max(last, n)
			s.l.add(s.kind, 1)
		}
		stop()
		if err := c.Close(); err != nil {
			return err
		}
	}
}

// receive takes a message with all its steps and returns its number.
func receive(c *peer.Conn) (n int, err error) {
	for {
		got, err := c.Receive(time.Now().Add(servertest.Patience))
		if err != nil {
			return 0, err
		}
		switch p := got.(type) {
		case *packet.Pubrel:
			if err := c.Send(&packet.Pubcomp{PacketID: p.PacketID}); err != nil {
				return 0, err
			}
		case *packet.Publish:
			switch p.QoS {
			case packet.QoS1:
				err = c.Send(&packet.Puback{PacketID: p.PacketID})
			case packet.QoS2:
				err = c.Send(&packet.Pubrec{PacketID: p.PacketID})
			}
			if err != nil {
				return 0, err
			}
			_, err = fmt.Sscan(string(p.Payload), &n)
			return n, err
		default:
			return 0, fmt.Errorf("%+v instead of a message", got)
		}
	}
}

// retain sets retained messages, removes some, and has a subscriber see them.
func (l *load) retain(ctx context.Context) error {
	pub, _, err := l.dial("tcp", packet.Connect{ClientID: "retains", CleanStart: true})
	if err != nil {
		return err
	}
	defer pub.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	const topics = 200
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		topic := fmt.Sprintf("r/%d", n%topics)
		text := fmt.Sprintf("%d %0200d", n, 0)
		if _, err := answer[*packet.Puback](pub, &packet.Publish{Topic: []byte(topic), Retain: true, QoS: packet.QoS1, PacketID: 1, Payload: []byte(text)}); err != nil {
			return err
		}
		sub, _, err := l.dial("tcp", packet.Connect{ClientID: "asks", CleanStart: true})
		if err != nil {
			return err
		}
		if err := subscribe(sub, topic, packet.QoS0); err != nil {
			return err
		}
		got, err := answer[*packet.Publish](sub, nil)
		if err != nil || string(got.Payload) != text || !got.Retain {
			return fmt.Errorf("%s is %.20q, want %.20q: %v", topic, got.Payload, text, err)
		}
		if err := sub.Disconnect(); err != nil {
			return err
		}
		if n%3 == 0 {
			if _, err := answer[*packet.Puback](pub, &packet.Publish{Topic: []byte(topic), Retain: true, QoS: packet.QoS1, PacketID: 1}); err != nil {
				return err
			}
		}
		l.add("retained", 1)
	}
}

// expire leaves sessions behind that get messages and expire.
func (l *load) expire(ctx context.Context) error {
	pub, _, err := l.dial("tcp", packet.Connect{ClientID: "tells", CleanStart: true})
	if err != nil {
		return err
	}
	defer pub.Close()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		c, _, err := l.dial(transports[n%3], packet.Connect{ClientID: fmt.Sprintf("expires-%d", n), CleanStart: true, SessionExpiryInterval: 1})
		if err != nil {
			return err
		}
		if err := subscribe(c, "expires/#", packet.QoS1); err != nil {
			return err
		}
		if err := c.Disconnect(); err != nil {
			return err
		}
		for k := uint16(1); k <= 3; k++ {
			if _, err := answer[*packet.Puback](pub, &packet.Publish{Topic: []byte("expires/x"), QoS: packet.QoS1, PacketID: k, Payload: make([]byte, 500)}); err != nil {
				return err
			}
		}
		l.add("expiring", 1)
	}
}
