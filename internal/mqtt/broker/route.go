package broker

import (
	"errors"
	"sync/atomic"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
)

// route hands m, which c publishes, to everybody with a matching subscription:
// once per client, at the highest QoS of the subscriptions that match
// [MQTT-3.3.4-2], and to one member of each shared subscription. It is the
// owner's, so messages of one publisher arrive in its order: at once where the
// session ends with its connection, once the message is stored where it does
// not; in slices where there are many, see fan. Token is settled by then; route
// reports whether it is, and with what.
func (c *conn) route(r *round, m *session.Message, token uint64, id uint16) (code packet.ReasonCode, settled bool) {
	r.byQoS[m.QoS]++
	if bx := c.box; bx != nil && m.QoS == packet.QoS2 {
		bx.noteInbound(id, false)
	}
	f := r.takeFan()
	f.b, f.realm, f.message, f.by, f.token, f.id = c.b, c.realm, m, c, token, id
	if !c.fan(r, f) {
		return 0, false
	}
	return f.finish(r)
}

// publisher waits for the parts of a message to be stored: its queue entries
// and, if it is retained, itself.
type publisher struct {
	conn    *conn
	token   uint64            // 0: nobody waits
	id      uint16            // of QoS 2
	then    func(stored bool) // called once all parts are decided; may be nil
	code    packet.ReasonCode // for the client once all parts are stored
	parts   atomic.Int32
	failure atomic.Pointer[error] // the first
}

// newPublisher has one part: the routing.
func newPublisher(c *conn, token uint64, id uint16) *publisher {
	p := &publisher{conn: c, token: token, id: id}
	p.parts.Store(1)
	if c.box != nil && id != 0 {
		c.box.beginInbound()
	}
	return p
}

// end is for when all is settled: whoever resumes the publisher's session may
// rely on its identifiers.
func (p *publisher) end() {
	if p.conn.box != nil && p.id != 0 {
		p.conn.box.endInbound()
	}
}

// part adds a part, of which stored will be told.
func (p *publisher) part() { p.parts.Add(1) }

// stored is told what became of a part.
func (p *publisher) stored(r *round, err error) {
	if p.done(err) {
		defer p.end()
		p.settle(r)
	}
}

// routed says that all parts are known. It reports whether they are stored
// already, so that the token is settled.
func (p *publisher) routed(r *round) bool {
	if !p.done(nil) {
		return false
	}
	defer p.end()
	if p.failure.Load() == nil && p.then == nil {
		return true
	}
	p.settle(r)
	return false
}

func (p *publisher) done(err error) (last bool) {
	if err != nil {
		p.failure.CompareAndSwap(nil, &err)
	}
	return p.parts.Add(-1) == 0
}

// settle tells the client.
func (p *publisher) settle(r *round) {
	c := p.conn
	failure := p.failure.Load()
	if p.then != nil {
		p.then(failure == nil)
	}
	if p.token == 0 {
		return
	}
	if failure == nil {
		c.committed(r, p.token, p.code, nil)
		return
	}
	if bx := c.box; bx != nil && p.id != 0 {
		bx.forgetInbound(p.id)
	}
	if code := storageCode(*failure); code != 0 && c.version() == packet.V5 {
		c.committed(r, p.token, code, nil)
		return
	}
	if code := storageCode(*failure); code != 0 { // 3.1.1 has no other way to say so
		c.end(r, session.Ending{Reason: disconnect.QuotaExceeded, Evidence: disconnect.Evidence{
			Kind: disconnect.Limit, Packet: "PUBLISH", Detail: "the message could not be stored: " + (*failure).Error()}}, code)
		return
	}
	c.unstored(r, *failure)
}

// publication is a message on its way to the store.
type publication struct {
	b       *Broker
	realm   *realm
	message *session.Message
	boxes   []*box
	targets []stored.Target
	charge
	by   *publisher
	part bool // others of the same message follow
}

// keep stores a publication: with the round's others, or by way of the loader
// if a queue that it goes to must be looked at first, or an earlier publication
// of the same client, perhaps on an earlier connection, may wait there.
func (b *Broker) keep(r *round, p *publication) {
	p.charge = charge{size: p.message.Size() + entryOverhead}
	if at := p.message.Expires(); !at.IsZero() {
		p.expires = at.UnixNano()
	}
	wait := len(p.boxes) > partTargets
	for i, bx := range p.boxes {
		p.targets[i].Size = p.size
		wait = wait || !bx.prepared(p.charge, r.now.Wall)
	}
	c := p.by.conn
	deferred := &b.deferred[c.partition]
	if wait || deferred.Load() > 0 {
		r.submit() // what came before goes before
		deferred.Add(1)
		b.loader.submitSteps(c.partition, (&preparation{publication: p, deferred: deferred}).step)
		return
	}
	p.add(r)
}

// How many queues are looked at, and how many entries are stored at once, before
// others have their turn.
const (
	prepareAtOnce = 128
	partTargets   = 4096
)

// preparation has the queues looked at that a publication goes to, and then
// stores it. Step is the loader's.
type preparation struct {
	*publication
	deferred *atomic.Int32
	stored   int // boxes whose part has been stored
	next     int // the first that has not been prepared
}

func (p *preparation) step() (more bool) {
	defer func() {
		if !more {
			p.deferred.Add(-1)
		}
	}()
	r := p.b.begin()
	defer p.b.done(r)
	var sv *stored.Surveyor // of this step
	defer func() {
		if sv != nil {
			_ = sv.Close() // what it could not read is known
		}
	}()
	for n := 0; p.next < len(p.boxes); p.next++ {
		if p.next-p.stored == partTargets {
			p.by.part()
			p.addPart(r, true)
			return true
		}
		bx := p.boxes[p.next]
		if bx.prepared(p.charge, r.now.Wall) {
			continue
		}
		if n++; n > prepareAtOnce {
			return true
		}
		if sv == nil {
			sv = p.b.store.Surveyor()
		}
		if err := bx.prepare(p.charge, r.now.Wall, sv); err != nil {
			p.failed(r, err)
			return false
		}
	}
	p.addPart(r, false)
	return false
}

// addPart stores what has been prepared.
func (p *preparation) addPart(r *round, more bool) {
	q := *p.publication
	q.boxes, q.targets, q.part = p.boxes[p.stored:p.next:p.next], p.targets[p.stored:p.next:p.next], more
	p.stored = p.next
	q.add(r)
	r.submit()
}

// add adds the publication to the round's batch.
func (p *publication) add(r *round) {
	n := 0
	for i, bx := range p.boxes {
		id, err := bx.reserve(p.charge, r.now.Wall)
		if err != nil {
			if errors.Is(err, errOverflow) {
				bx.overflow(r)
			}
			continue
		}
		p.boxes[n], p.targets[n] = bx, p.targets[i]
		p.targets[n].PacketID = id
		n++
	}
	p.boxes, p.targets = p.boxes[:n], p.targets[:n]
	if n == 0 {
		p.by.stored(r, nil)
		return
	}
	sp := stored.Publication{Realm: p.realm.name, Message: p.message, Targets: p.targets}
	c := p.by.conn
	if bx := c.box; bx != nil && !p.part && p.by.id != 0 && p.by.token != 0 && !bx.isDead() {
		sp.Inbound = &stored.Inbound{Session: bx.name, Epoch: bx.key.Epoch, PacketID: p.by.id}
		bx.noteInbound(p.by.id, true)
	}
	r.batch(p.b, c.partition).Add(&sp, p.done)
}

// done is told what became of the publication, on the engine's goroutine.
func (p *publication) done(receipt stored.Receipt, err error) {
	r := p.b.begin()
	r.remote = true
	defer p.b.done(r)
	defer p.by.conn.guard(r)
	if err != nil {
		for i, bx := range p.boxes {
			bx.unreserve(p.targets[i].PacketID, p.charge)
		}
		p.failed(r, err)
		return
	}
	for i, bx := range p.boxes {
		t := &p.targets[i]
		bx.committed(r, receipt.Target(i), &session.Input{Kind: session.Deliver, Message: p.message, QoS: t.QoS,
			Retain: t.Retain, SubscriptionIDs: t.SubscriptionIDs, PacketID: t.PacketID, Share: t.Share}, p.charge)
	}
	p.by.stored(r, nil)
}

func (p *publication) failed(r *round, err error) {
	p.b.metrics.drop("not_stored")
	p.by.stored(r, err)
}

// storageCode is how a client is told that something was not stored; 0: the
// server has failed.
func storageCode(err error) packet.ReasonCode {
	var bad *packet.Error
	switch {
	case errors.Is(err, store.ErrFull), errors.Is(err, stored.ErrTooLarge), errors.Is(err, stored.ErrRetainQuota):
		return packet.QuotaExceeded
	case errors.As(err, &bad):
		return packet.ImplementationSpecificError
	}
	return 0
}
