package session

import (
	"sort"

	"rollcall/internal/clock"
	"rollcall/internal/mqtt/packet"
)

// flight is a QoS 1 or 2 message to the client.
type flight struct {
	id      uint16 // 0 while it waits in a session that is not stored
	qos     packet.QoS
	state   flightState
	retain  bool
	again   bool     // it was sent on an earlier connection
	counted bool     // against the client's Receive Maximum
	message *Message // nil where it is not needed any more
	extra   *extra   // nil: nothing
}

// extra is what few messages have.
type extra struct {
	ids   []uint32 // Subscription Identifiers
	share string
}

type flightState uint8

const (
	waiting       flightState = iota // not sent on this connection
	sent                             // PUBACK or PUBREC is to come
	releasing                        // PUBREC has come, PUBREL has not left yet
	releasedState                    // PUBREL has left, or is to be sent again; PUBCOMP is to come
	landed                           // acknowledged; older ones are not
)

func (f *flight) ids() []uint32 {
	if f.extra == nil {
		return nil
	}
	return f.extra.ids
}

func (f *flight) share() string {
	if f.extra == nil {
		return ""
	}
	return f.extra.share
}

// flights are the messages to the client, oldest first, in a ring. What waits
// is behind what was sent, except that PUBREL does not wait. Those without a
// packet id are the last.
type flights struct {
	ring    []flight // its length is a power of two, or 0
	head    uint32
	n       uint32 // places in use, live or landed
	waiting uint32
	flying  uint32 // counted
	next    uint32 // everything before it, counted from head, does not wait
	last    uint16 // packet id that was given last
	mixed   bool   // packet ids do not ascend from the oldest to the last
}

const keptFlights = 8 // places that an idle session keeps

func (o *flights) at(i uint32) *flight { return &o.ring[(o.head+i)&uint32(len(o.ring)-1)] }

// push adds f and returns its place, which is valid until the next push.
func (o *flights) push(f flight) *flight {
	if int(o.n) == len(o.ring) {
		o.grow()
	}
	if f.id != 0 {
		o.ascend(f.id)
	}
	o.n++
	p := o.at(o.n - 1)
	*p = f
	return p
}

// grow makes room: by closing the gaps if there are many, so that one message
// that is never acknowledged does not keep the places of all later ones.
func (o *flights) grow() {
	live := 0
	for i := range o.n {
		if o.at(i).state != landed {
			live++
		}
	}
	size := len(o.ring)
	if live*2 > size || size == 0 {
		size = max(4, 2*size)
	}
	ring, n, next := make([]flight, size), uint32(0), uint32(0)
	for i := range o.n {
		f := o.at(i)
		if i == o.next {
			next = n
		}
		if f.state != landed {
			ring[n] = *f
			n++
		}
	}
	if o.next >= o.n {
		next = n
	}
	o.ring, o.head, o.n, o.next = ring, 0, n, next
}

// ascend notes that id is given to the newest message that has one.
func (o *flights) ascend(id uint16) {
	if o.n > 0 && o.at(0).id != 0 && id-o.at(0).id <= o.last-o.at(0).id {
		o.mixed = true
	}
	o.last = id
}

// find returns what flies under a packet id, or nil. Ids mostly ascend without
// a gap, so that the first guess is right; and nearly always ascend.
func (o *flights) find(id uint16) *flight {
	if o.n == 0 {
		return nil
	}
	first := o.at(0).id
	if i := uint32(id - first); i < o.n {
		if f := o.at(i); f.id == id && f.state != landed {
			return f
		}
	}
	if !o.mixed {
		i := uint32(sort.Search(int(o.n), func(i int) bool {
			f := o.at(uint32(i))
			return f.id == 0 || f.id-first >= id-first
		}))
		if i < o.n && o.at(i).id == id && o.at(i).state != landed {
			return o.at(i)
		}
		return nil
	}
	for i := range o.n {
		if f := o.at(i); f.id == id && f.state != landed {
			return f
		}
	}
	return nil
}

// free returns the first packet id after last that no message has
// [MQTT-2.2.1-4]. There are fewer than 65,535 in flight.
func (o *flights) free(last uint16) uint16 {
	for {
		last++
		switch {
		case last == 0:
		case o.n == 0:
			return last
		case !o.mixed && o.at(0).id != 0 && last-o.at(0).id > o.last-o.at(0).id: // newer than all
			return last
		case o.find(last) == nil:
			return last
		}
	}
}

// launched takes a message out of those that wait.
func (o *flights) launched(f *flight, counted bool) {
	o.waiting--
	f.state = sent
	if f.counted = counted; counted {
		o.flying++
	}
}

// land frees the place of f as soon as everything older is gone.
func (o *flights) land(f *flight) {
	if f.state == waiting {
		o.waiting--
	}
	if f.counted {
		o.flying--
	}
	*f = flight{id: f.id, state: landed}
}

// trim frees the places of what has landed.
func (o *flights) trim() {
	for o.n > 0 && o.at(0).state == landed {
		*o.at(0) = flight{}
		o.head = (o.head + 1) & uint32(len(o.ring)-1)
		o.n--
		if o.next > 0 {
			o.next--
		}
	}
	if o.n == 0 {
		o.head, o.next, o.mixed = 0, 0, false
		if len(o.ring) > keptFlights {
			o.ring = nil
		}
	}
}

// pump sends what waits, as far as the client's window allows [MQTT-4.9.0-2].
func (s *Session) pump(now clock.Instant, out []Action) []Action {
	o := &s.out
	for o.waiting > 0 && o.flying < uint32(s.inflightMax) {
		f := o.at(o.next)
		if o.next++; f.state == waiting {
			out = s.launch(f, now, out)
		}
	}
	o.trim()
	return out
}

// launch sends one that waits, or gives it up.
func (s *Session) launch(f *flight, now clock.Instant, out []Action) []Action {
	m := f.message
	s.unqueue(f)
	a := Action{Kind: SendMessage, Message: m, QoS: f.qos, Retain: f.retain, Dup: f.again, SubscriptionIDs: f.ids()} // [MQTT-3.3.1-1]
	if why := s.prepare(&a, now); why != 0 {
		return s.giveUp(f, why, out)
	}
	if f.id == 0 {
		s.nextID = s.out.free(s.nextID)
		s.out.ascend(s.nextID)
		f.id = s.nextID
	}
	a.PacketID = f.id
	s.out.launched(f, true)
	if !s.stored && f.share() == "" {
		f.message, f.extra = nil, nil
	}
	return append(out, a)
}

// unqueue takes the bytes of a message that waits out of the queue's.
func (s *Session) unqueue(f *flight) {
	if !s.stored {
		s.outBytes -= uint32(f.message.Size())
	}
}

func (s *Session) giveUp(f *flight, why DropReason, out []Action) []Action {
	id := f.id
	s.out.land(f)
	out = append(out, Action{Kind: Drop, Why: why})
	if s.stored {
		out = append(out, Action{Kind: Settle, PacketID: id})
	}
	return out
}

// settled ends a flight on its last acknowledgement. While the transport is
// behind, what waits goes on waiting for Drain: a client that acknowledges and
// does not read must not make us send without bound.
func (s *Session) settled(f *flight, congested bool, now clock.Instant, out []Action) []Action {
	id := f.id
	if f.state == waiting {
		s.unqueue(f)
	}
	s.out.land(f)
	s.out.trim()
	if s.stored {
		out = append(out, Action{Kind: Settle, PacketID: id})
	}
	if congested {
		return out
	}
	return s.pump(now, out)
}
