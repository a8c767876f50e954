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
// not. Token is settled by then; route reports whether it is, and with what.
func (c *conn) route(r *round, m *session.Message, token uint64, id uint16) (code packet.ReasonCode, settled bool) {
	r.byQoS[m.QoS]++
	if bx := c.box; bx != nil && m.QoS == packet.QoS2 {
		bx.noteInbound(id, false)
	}
	var p *publisher
	if m.Retain { // [MQTT-3.3.1-5]
		p = newPublisher(c, token, id)
		c.b.retain(r, c.realm, m, p)
	}
	p, code = c.b.fanOut(r, c.realm, m, p, c, token, id)
	return code, p == nil || p.routed(r)
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

// fanOut hands m to its subscribers. Where it is to be stored first, p, made if
// it is nil, is told when it is. The code is for the publisher: whether there
// was anybody, section 3.4.2.1.
func (b *Broker) fanOut(r *round, rl *realm, m *session.Message, p *publisher, c *conn, token uint64, id uint16) (*publisher, packet.ReasonCode) {
	f := r.takeFan()
	defer r.putFan(f)
	f.found = rl.tree.Match(m.Topic, f.found[:0])
	f.collect(m)
	r.fanned += len(f.found)
	b.endExcessive(r, f)
	var keep *publication
	for i := range f.to {
		t := &f.to[i]
		qos := min(t.qos, m.QoS)
		if m.Retain {
			t.note(m)
		}
		switch {
		case t.ended:
		case t.conn != nil:
			t.conn.deliver(r, m, t.qos, t.retain, f.idsOf(t), t.share)
		case qos == packet.QoS0:
			if c := t.box.online(); c != nil {
				c.deliver(r, m, t.qos, t.retain, f.idsOf(t), t.share)
			}
		default:
			if keep == nil {
				if p == nil {
					p = newPublisher(c, token, id)
				}
				keep = &publication{b: b, realm: rl, message: m.Keep(), by: p}
			}
			keep.boxes = append(keep.boxes, t.box)
			keep.targets = append(keep.targets, stored.Target{Session: t.box.name, Epoch: t.box.key.Epoch, QoS: qos,
				Retain: t.retain, SubscriptionIDs: append([]uint32(nil), f.idsOf(t)...), Share: t.share})
		}
	}
	code := packet.Success
	if len(f.found) == 0 { // it counts, too, who wants none of its own
		code = packet.NoMatchingSubscribers
	}
	if p != nil {
		p.code = code
	}
	if keep != nil {
		p.part()
		b.keep(r, keep)
	}
	return p, code
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
	prepareAtOnce = 64
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
		if err := bx.prepare(p.charge, r.now.Wall); err != nil {
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

// fan is what routing one message needs. It is used again.
type fan struct {
	found  []grant
	to     []receiver
	ids    []uint32
	groups int            // shared subscriptions among them
	seen   map[holder]int // where in to, when there are many
}

// receiver is one client that a message goes to.
type receiver struct {
	conn   *conn
	box    *box
	share  string // the shared subscription that it comes by
	found  int    // how many of its subscriptions match
	ended  bool   // there are too many
	first  int    // its subscription identifiers in fan.ids
	n      int
	qos    packet.QoS
	retain bool
}

// note has the client's connection, if there is one, note that a retained
// message comes to it now.
func (t *receiver) note(m *session.Message) {
	c := t.conn
	if c == nil {
		c = t.box.online()
	}
	if c != nil {
		c.note(m)
	}
}

const (
	searchMax = 8       // receivers up to which they are searched one by one
	foundMax  = 1 << 14 // larger ones are not kept
)

func (f *fan) idsOf(t *receiver) []uint32 { return f.ids[t.first : t.first+t.n] }

func (f *fan) clear() {
	if cap(f.found) > foundMax {
		*f = fan{}
		return
	}
	clear(f.found) // no connection is kept alive
	clear(f.to)
	clear(f.seen)
	f.to, f.ids, f.groups = f.to[:0], f.ids[:0], 0
}

// collect makes receivers of the subscriptions found: those of one client are
// merged, and clients that do not want their own messages [MQTT-3.8.3-3] are
// left out. A shared subscription is one of its own (4.8.2).
func (f *fan) collect(m *session.Message) {
	ids := false
	for i := range f.found {
		g := &f.found[i]
		ids = ids || g.id != 0
		if g.group != nil {
			if member, ok := g.group.choose(m.QoS, grant{}); ok {
				f.groups++
				f.to = append(f.to, receiver{conn: member.conn, box: member.box, share: g.group.filter, qos: member.qos,
					retain: m.Retain && member.asPublished, first: len(f.ids)})
				f.addID(member.id)
			}
			continue
		}
		if g.noLocal && m.From == g.name() {
			continue
		}
		if t := f.find(g); t != nil {
			t.found++
			t.qos = max(t.qos, g.qos)
			t.retain = t.retain || m.Retain && g.asPublished
			continue
		}
		if len(f.found) > searchMax {
			if f.seen == nil {
				f.seen = make(map[holder]int)
			}
			f.seen[g.holder()] = len(f.to)
		}
		f.to = append(f.to, receiver{conn: g.conn, box: g.box, found: 1, qos: g.qos, retain: m.Retain && g.asPublished})
	}
	if ids {
		f.collectIDs(m)
	}
}

// collectIDs gives each receiver the identifiers of all its subscriptions that
// match [MQTT-3.3.4-3] to [MQTT-3.3.4-5].
func (f *fan) collectIDs(m *session.Message) {
	wanted := func(g *grant) *receiver {
		if g.group != nil || g.id == 0 || g.noLocal && m.From == g.name() {
			return nil
		}
		return f.find(g)
	}
	for i := range f.found {
		if t := wanted(&f.found[i]); t != nil {
			t.n++
		}
	}
	for i := range f.to {
		if t := &f.to[i]; t.share == "" {
			t.first = len(f.ids)
			f.ids = append(f.ids, make([]uint32, t.n)...)
			t.n = 0
		}
	}
	for i := range f.found {
		g := &f.found[i]
		if t := wanted(g); t != nil {
			f.ids[t.first+t.n] = g.id
			t.n++
		}
	}
}

func (f *fan) addID(id uint32) {
	if id != 0 {
		f.ids = append(f.ids, id)
		f.to[len(f.to)-1].n = 1
	}
}

func (g *grant) name() string {
	if g.box != nil {
		return g.box.name
	}
	return g.conn.name.id
}

func (g *grant) holder() holder {
	if g.box != nil {
		return g.box
	}
	return g.conn
}

func (f *fan) find(g *grant) *receiver {
	if len(f.found) > searchMax {
		if i, ok := f.seen[g.holder()]; ok {
			return &f.to[i]
		}
		return nil
	}
	for i := range f.to {
		if f.to[i].conn == g.conn && f.to[i].box == g.box && f.to[i].share == "" {
			return &f.to[i]
		}
	}
	return nil
}
