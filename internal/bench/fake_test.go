package bench_test

import (
	"bufio"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"rollcall/internal/mqtt/packet"
)

// fake is a broker that does everything that scenarios need, and what is asked
// of it wrong.
type fake struct {
	addr string

	lose    int // every n-th message, counted over all; 0: none
	repeat  int // every n-th message comes twice
	swap    int // every n-th message comes behind the next one
	maxQoS  packet.QoS
	code    packet.ReasonCode // of CONNACK
	forget  bool              // sessions end with the connection
	refuse  bool              // publishes of QoS 1 and 2
	noShare bool
	at50    func() // is called when the fiftieth message comes, with mu held

	mu       sync.Mutex // guards what follows, and the order of what is sent
	sessions map[string]*fakeSession
	conns    map[net.Conn]bool
	count    int
	turn     int
	held     []func()
}

type fakeSession struct {
	c       *fakeConn // nil: asleep
	keep    bool
	filters map[string]packet.QoS
	waiting []*packet.Publish
	sent    []*packet.Publish // and not acknowledged, if keep
	id      uint16
}

// fakeConn writes without blocking its callers.
type fakeConn struct {
	v     packet.Version
	queue chan []byte
}

// startFake starts the broker; edit sets its faults.
func startFake(t *testing.T, edit func(*fake)) *fake {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &fake{addr: ln.Addr().String(), maxQoS: packet.QoS2, sessions: map[string]*fakeSession{}, conns: map[net.Conn]bool{}}
	if edit != nil {
		edit(b)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns[nc] = true
			b.mu.Unlock()
			wg.Go(func() { b.serve(nc) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		b.mu.Lock()
		for nc := range b.conns {
			nc.Close()
		}
		b.mu.Unlock()
		wg.Wait()
	})
	return b
}

func (b *fake) serve(nc net.Conn) {
	c := &fakeConn{queue: make(chan []byte, 1<<14)}
	var writer sync.WaitGroup
	writer.Go(func() {
		for out := range c.queue {
			_, _ = nc.Write(out) // the reader learns of it
		}
	})
	var s *fakeSession
	in := bufio.NewReader(nc)
	for {
		frame, err := readFrame(in)
		if err != nil {
			break
		}
		b.mu.Lock()
		more := b.handle(c, &s, frame)
		b.mu.Unlock()
		if !more {
			break
		}
	}
	b.mu.Lock()
	if s != nil && s.c == c {
		s.c = nil
		s.waiting, s.sent = append(s.sent, s.waiting...), nil
	}
	delete(b.conns, nc)
	b.mu.Unlock()
	close(c.queue)
	writer.Wait()
	nc.Close()
}

// handle reports whether the connection goes on.
func (b *fake) handle(c *fakeConn, s **fakeSession, frame []byte) bool {
	v := c.v
	if packet.TypeOf(frame[0]) == packet.CONNECT {
		v = packet.Version(frame[8])
		if v != packet.V5 {
			v = packet.V311
		}
		c.v = v
	}
	p, err := packet.Decode(v, frame)
	if err != nil {
		return false
	}
	switch p := p.(type) {
	case *packet.Connect:
		return b.connect(c, s, p)
	case *packet.Subscribe:
		ack := &packet.Suback{PacketID: p.PacketID}
		for _, f := range p.Subscriptions {
			code := packet.ReasonCode(min(f.QoS, b.maxQoS))
			if b.noShare && strings.HasPrefix(f.Filter, "$share/") {
				code = packet.SharedSubscriptionsNotSupported
			} else {
				(*s).filters[f.Filter] = packet.QoS(code)
			}
			ack.ReasonCodes = append(ack.ReasonCodes, code)
		}
		c.send(ack)
	case *packet.Publish:
		return b.publish(c, p)
	case *packet.Pubrel:
		c.send(&packet.Pubcomp{PacketID: p.PacketID})
	case *packet.Puback:
		(*s).acked(p.PacketID)
	case *packet.Pubrec:
		(*s).acked(p.PacketID)
		c.send(&packet.Pubrel{PacketID: p.PacketID})
	case *packet.Pingreq:
		c.send(&packet.Pingresp{})
	case *packet.Disconnect:
		return false
	}
	return true
}

func (b *fake) connect(c *fakeConn, s **fakeSession, p *packet.Connect) bool {
	old := b.sessions[p.ClientID]
	kept := old != nil && !p.CleanStart && old.keep && !b.forget
	if !kept {
		old = &fakeSession{filters: map[string]packet.QoS{}}
		b.sessions[p.ClientID] = old
	}
	old.c, old.keep = c, !p.CleanStart
	*s = old
	ack := &packet.Connack{SessionPresent: kept, ReasonCode: b.code, ReceiveMaximum: 65535}
	if b.code.Failed() {
		ack.SessionPresent = false
	}
	if b.maxQoS < packet.QoS2 {
		ack.MaximumQoS = packet.Some(b.maxQoS)
	}
	c.send(ack)
	for _, m := range old.waiting {
		c.send(m)
	}
	old.sent, old.waiting = append(old.sent, old.waiting...), nil
	return !b.code.Failed()
}

// publish acknowledges, and forwards with the faults that were asked for.
func (b *fake) publish(c *fakeConn, p *packet.Publish) bool {
	if p.QoS > b.maxQoS {
		return false
	}
	code := packet.Success
	if b.refuse {
		code = packet.QuotaExceeded
	}
	switch p.QoS {
	case packet.QoS1:
		c.send(&packet.Puback{PacketID: p.PacketID, ReasonCode: code})
	case packet.QoS2:
		c.send(&packet.Pubrec{PacketID: p.PacketID, ReasonCode: code})
	}
	if b.refuse && p.QoS > packet.QoS0 {
		return true
	}
	b.count++
	if b.count == 50 && b.at50 != nil {
		b.at50()
	}
	every := func(n int) bool { return n > 0 && b.count%n == 0 }
	m := p.Clone()
	held := b.held
	b.held = nil
	switch {
	case every(b.lose):
	case every(b.swap):
		b.held = append(b.held, func() { b.forward(m) })
	default:
		b.forward(m)
	}
	if every(b.repeat) {
		b.forward(m)
	}
	for _, f := range held {
		f()
	}
	return true
}

func (b *fake) forward(p *packet.Publish) {
	var members []*fakeSession
	for _, s := range b.sessions {
		for filter, qos := range s.filters {
			rest, shared := strings.CutPrefix(filter, "$share/")
			if shared {
				_, filter, _ = strings.Cut(rest, "/")
			}
			base, wild := strings.CutSuffix(filter, "/+")
			topic := string(p.Topic)
			if wild {
				topic = topic[:max(0, strings.LastIndexByte(topic, '/'))]
				filter = base
			}
			if topic != filter {
				continue
			}
			if shared {
				members = append(members, s)
				continue
			}
			s.deliver(p, qos)
		}
	}
	if len(members) > 0 {
		b.turn++
		members[b.turn%len(members)].deliver(p, p.QoS)
	}
}

func (s *fakeSession) deliver(p *packet.Publish, qos packet.QoS) {
	m := *p
	m.QoS, m.PacketID = min(p.QoS, qos), 0
	if m.QoS > packet.QoS0 {
		if s.id++; s.id == 0 {
			s.id = 1
		}
		m.PacketID = s.id
	}
	if s.c != nil {
		s.c.send(&m)
		if m.QoS > packet.QoS0 && s.keep {
			s.sent = append(s.sent, &m)
		}
	} else if m.QoS > packet.QoS0 && s.keep {
		s.waiting = append(s.waiting, &m)
	}
}

// acked forgets a message that the client has.
func (s *fakeSession) acked(id uint16) {
	s.sent = slices.DeleteFunc(s.sent, func(m *packet.Publish) bool { return m.PacketID == id })
}

func (c *fakeConn) send(p packet.Packet) {
	out, err := p.AppendTo(nil, c.v)
	if err != nil {
		panic(err)
	}
	c.queue <- out
}

func readFrame(in *bufio.Reader) ([]byte, error) {
	first, err := in.ReadByte()
	if err != nil {
		return nil, err
	}
	frame, n := []byte{first}, 0
	for shift := 0; ; shift += 7 {
		x, err := in.ReadByte()
		if err != nil {
			return nil, err
		}
		frame = append(frame, x)
		if n |= int(x&0x7F) << shift; x < 0x80 {
			break
		}
	}
	at := len(frame)
	frame = append(frame, make([]byte, n)...)
	_, err = io.ReadFull(in, frame[at:])
	return frame, err
}
