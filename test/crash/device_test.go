package crash

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/audit"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// device is an MQTT client with the session state that the standard asks of
// clients (4.1): messages that it has published and that are not acknowledged,
// and identifiers of QoS 2 messages that it has received and that are not
// released. The state outlives connections, and servers. A device is for one
// goroutine; each of its connections has another, which reads.
type device struct {
	id        string
	version   packet.Version
	transport string
	clean     bool   // its session ends with its connection
	expiry    uint32 // of MQTT 5, unless clean; 0: never
	window    uint16 // Receive Maximum of MQTT 5; 0: 65,535
	will      *packet.Will
	books     *books
	log       *log

	number  uint64 // of its connections
	bound   uint64 // the one that is open
	fate    string // how it ends
	known   bool   // the server has said that it is connected: it has a session there
	next    uint16
	flows   []*flow // oldest first
	taken   map[uint16]bool
	conn    *peer.Conn
	pid     int                // of the server that it is connected to
	in      chan packet.Packet // closed when the connection can be read no more
	seen    *audit.Sighting    // of the connection
	testate bool               // the connection's Will is to be published when it ends, unless it says good-bye
	reading *sync.WaitGroup
	parted  parting
}

// parting is a good-bye that the server is known to have heard if it has
// accepted the next connection without dying between.
type parting struct {
	pid    int
	number uint64
}

// flow is a message that a device has published with QoS 1 or 2, and that is
// not acknowledged to the end.
type flow struct {
	packet   packet.Publish
	entry    *sent
	released bool // QoS 2: PUBREC has come
}

var errOver = errors.New("the connection is over")

func (d *device) connect(ctx context.Context, i app.ReadyInfo, tc *tls.Config) error {
	p := packet.Connect{ClientID: d.id, CleanStart: d.clean, Will: d.will, ReceiveMaximum: 65535}
	if d.window != 0 {
		p.ReceiveMaximum = d.window
	}
	if !d.clean && d.version == packet.V5 {
		if p.SessionExpiryInterval = d.expiry; d.expiry == 0 {
			p.SessionExpiryInterval = 0xFFFFFFFF
		}
	}
	d.number++
	if p.Will != nil {
		p.Will.Payload = fmt.Appendf(nil, "%s %d", d.id, d.number)
	}
	s := d.log.begin(d.id)
	c, ack, err := peer.Dial(ctx, servertest.Target(i, d.transport), d.version, tc, p)
	if err != nil {
		return err
	}
	s.Acked = time.Now()
	d.over() // a connection that was left open has been taken over
	if ack.SessionPresent != (d.known && !d.clean) && (ack.SessionPresent || d.known) {
		d.books.fault("%s, connection %d: session present is %v", d.id, d.number, ack.SessionPresent)
	}
	d.known = true
	if d.parted.number != 0 && d.parted.pid == i.PID {
		d.books.forbid(d.id, d.parted.number)
	}
	d.parted, d.pid, d.bound, d.fate = parting{}, i.PID, d.number, "lost"
	if !ack.SessionPresent {
		d.flows, d.taken = nil, nil
	}
	if d.taken == nil {
		d.taken = map[uint16]bool{}
	}
	d.conn, d.seen, d.testate = c, s, p.Will != nil
	d.in = make(chan packet.Packet, 64)
	d.reading = new(sync.WaitGroup)
	in := d.in
	d.reading.Go(func() {
		defer close(in)
		for {
			p, err := c.Receive(time.Time{})
			if err != nil {
				return
			}
			in <- p
		}
	})
	return d.resend()
}

// resend is what a client does when it finds its session again [MQTT-4.4.0-1].
func (d *device) resend() error {
	for _, f := range d.flows {
		var err error
		if f.released {
			err = d.conn.Send(&packet.Pubrel{PacketID: f.packet.PacketID})
		} else {
			f.packet.Dup = true
			err = d.conn.Send(&f.packet)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// publish sends a message and notes it before.
func (d *device) publish(topic string, qos packet.QoS, retain bool) error {
	e := d.books.sending(stream{d.id, topic, qos})
	p := packet.Publish{Topic: []byte(topic), QoS: qos, Retain: retain, Payload: e.payload()}
	if qos > packet.QoS0 {
		p.PacketID = d.free()
		d.flows = append(d.flows, &flow{packet: p, entry: e})
	}
	return d.conn.Send(&p)
}

// free returns a packet identifier that is not in use.
func (d *device) free() uint16 {
	for {
		d.next = max(d.next+1, 1)
		if d.flow(d.next) == nil {
			return d.next
		}
	}
}

func (d *device) flow(id uint16) *flow {
	for _, f := range d.flows {
		if f.packet.PacketID == id {
			return f
		}
	}
	return nil
}

func (d *device) done(f *flow) {
	d.flows = slices.DeleteFunc(d.flows, func(o *flow) bool { return o == f })
}

// take handles a packet of the server's. The error says that the connection is
// over.
func (d *device) take(p packet.Packet) error {
	switch p := p.(type) {
	case *packet.Publish:
		return d.receive(p)
	case *packet.Pubrel:
		delete(d.taken, p.PacketID)
		return d.conn.Send(&packet.Pubcomp{PacketID: p.PacketID})
	case *packet.Puback:
		d.acknowledged(p.PacketID, packet.QoS1, p.ReasonCode)
	case *packet.Pubrec:
		f := d.acknowledged(p.PacketID, packet.QoS2, p.ReasonCode)
		if f == nil {
			return nil
		}
		f.released = true
		return d.conn.Send(&packet.Pubrel{PacketID: p.PacketID})
	case *packet.Pubcomp:
		f := d.flow(p.PacketID)
		if f == nil || !f.released {
			d.books.fault("%s: a PUBCOMP for %d, which was not released", d.id, p.PacketID)
			return nil
		}
		d.done(f) // whatever the code: the server may have completed it before a crash
	case *packet.Disconnect:
		if p.ReasonCode != packet.SessionTakenOver {
			d.books.fault("%s was disconnected: %s", d.id, p.ReasonCode)
		}
		return errOver
	}
	return nil
}

// acknowledged is told of a PUBACK or PUBREC. It returns what goes on.
func (d *device) acknowledged(id uint16, qos packet.QoS, code packet.ReasonCode) *flow {
	f := d.flow(id)
	switch {
	case f == nil || f.packet.QoS != qos:
		d.books.fault("%s: %d was acknowledged as QoS %d and is not", d.id, id, qos)
		return nil
	case code.Failed():
		d.books.fault("%s: %v was refused: %s", d.id, f.entry, code)
		d.done(f)
		return nil
	}
	f.entry.accepted.Store(true)
	if qos == packet.QoS1 {
		d.done(f)
		return nil
	}
	return f
}

// receive handles a message: one of QoS 2 is passed on once, however often it
// comes until it is released [MQTT-4.3.3-10].
func (d *device) receive(p *packet.Publish) error {
	if p.QoS != packet.QoS2 || !d.taken[p.PacketID] {
		d.books.received(d.id, p)
	}
	switch p.QoS {
	case packet.QoS1:
		return d.conn.Send(&packet.Puback{PacketID: p.PacketID})
	case packet.QoS2:
		d.taken[p.PacketID] = true
		return d.conn.Send(&packet.Pubrec{PacketID: p.PacketID})
	}
	return nil
}

// attend takes packets until enough says so, the connection is over, or stop
// is closed.
func (d *device) attend(stop <-chan struct{}, enough func() bool) error {
	for !enough() {
		select {
		case p, ok := <-d.in:
			if !ok {
				return errOver
			}
			if err := d.take(p); err != nil {
				return err
			}
		case <-stop:
			return nil
		}
	}
	return nil
}

// ask sends a request and takes packets until its answer has come.
func (d *device) ask(stop <-chan struct{}, request packet.Packet, answer packet.Type) (packet.Packet, error) {
	if err := d.conn.Send(request); err != nil {
		return nil, err
	}
	for {
		select {
		case p, ok := <-d.in:
			if !ok {
				return nil, errOver
			}
			if p.Type() == answer {
				return p, nil
			}
			if err := d.take(p); err != nil {
				return nil, err
			}
		case <-stop:
			return nil, errOver
		}
	}
}

// subscribe asks for filters until the server has granted them.
func (d *device) subscribe(stop <-chan struct{}, subs ...packet.Subscription) error {
	p, err := d.ask(stop, &packet.Subscribe{PacketID: d.free(), Subscriptions: subs}, packet.SUBACK)
	if err != nil {
		return err
	}
	for i, code := range p.(*packet.Suback).ReasonCodes {
		if code != packet.ReasonCode(subs[i].QoS) {
			d.books.fault("%s: the subscription to %s was answered with %s", d.id, subs[i].Filter, code)
		}
	}
	return nil
}

// part is how a connection ends that the device ends.
type part int

const (
	politely part = iota
	closing
	resetting
	staying // the next CONNECT takes it over
	parts
)

// leave ends the connection in one of the ways.
func (d *device) leave(how part) {
	if d.fate = [...]string{"good-bye", "closed", "reset", "taken over"}[how]; d.conn == nil || how == staying {
		return // until the next connect
	}
	switch how {
	case politely:
		d.seen.Goodbye, d.testate = true, false
		if d.conn.Send(&packet.Disconnect{}) == nil { // else it is dead already
			for range d.in { // until the server closes
			}
			d.parted = parting{d.pid, d.bound}
		}
	case resetting:
		_ = d.conn.Abort()
	}
	d.over()
}

// over forgets the connection, if there is one, and notes what follows from its
// end.
func (d *device) over() {
	if d.conn == nil {
		return
	}
	d.conn.Close()
	d.seen.Closed = time.Now()
	for range d.in { // what comes after the end is nobody's
	}
	d.reading.Wait()
	if d.testate {
		d.books.died(d.id, d.bound, d.fate)
	}
	d.conn, d.in = nil, nil
}

// random returns one of the ways to part.
func random(r *rand.Rand) part { return part(r.IntN(int(parts))) }
