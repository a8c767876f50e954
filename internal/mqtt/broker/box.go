package broker

import (
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
)

// box is a session that outlives its connections, as the broker knows it: who
// serves it now, what of its queue has been given to that connection, and how
// much there is. The queue itself is in the store; a message is put there
// before it is sent, and the connection is given what it has room for.
//
// Its life cycle follows the ledger's: it changes in callbacks of claims,
// releases and amendments of its name. Its lock may be held while a
// connection's is taken, not the other way round.
type box struct {
	b     *Broker
	realm *realm
	name  string
	key   stored.SessionKey

	unsubscribed atomic.Uint64 // see grant.unsubscribed

	mu        sync.Mutex
	meta      stored.Session // what is stored, unless staged is
	staged    *stagedMeta    // what an earlier turn has staged
	shared    filters        // of shared subscriptions
	conn      *conn          // nil: nobody is connected
	will      *stored.Will   // to be published unless the client comes back
	willKnown bool           // what is stored of it has been read

	// What follows is known once loaded; until then nothing is added to the
	// queue but by the loader, which loads first.
	loaded   bool
	queued   atomic.Int32 // messages, for who has not the lock
	ids      idSet
	messages int
	bytes    int64
	expiring expiring
	dropped  uint64           // messages, since the start, because the queue was full
	victims  []stored.Waiting // the oldest that may be dropped, as far as is known
	// fruitless: there were none when somebody looked, and nothing has been
	// settled since.
	fruitless bool
	received  map[uint16]bool // inbound QoS 2 identifiers; whether stored
	storing   int             // messages with such that are being stored
	settled   chan struct{}   // closed when there are none; nil: nobody waits

	out       map[uint16]delivered // given to conn and not settled
	sent      map[uint16]bool      // sent over the last connection; whether released
	asleep    time.Time            // since when the client that is connected now was away; zero: it was not, or always
	sentKnown bool                 // there was one since the start
	cursor    stored.Cursor        // given to conn up to here
	last      stored.Cursor        // of the newest entry that is known to be durable, or the start of this run
	behind    bool                 // there are entries after cursor
	feeding   bool                 // somebody is giving conn what it has room for
	dead      bool                 // ended
	ending    *session.Ending      // how, if terminate has ended it
}

// delivered is a queue entry that a connection has been given.
type delivered struct {
	ref stored.Ref
	charge
}

func (b *Broker) newBox(rl *realm, meta stored.Session) *box {
	return &box{b: b, realm: rl, name: meta.Name, key: meta.Key(), meta: meta, last: b.store.Start()}
}

// partition is that of the session's name.
func (bx *box) partition() uint8 { return bx.b.store.Partition(bx.realm.name, bx.name) }

func (bx *box) grant() grant { return grant{box: bx} }

// subscriptions returns what the session is subscribed to.
func (bx *box) subscriptions() []session.Subscription {
	var subs []session.Subscription
	add := func(filter string, g grant) bool {
		subs = append(subs, session.Subscription{ID: g.id, Subscription: packet.Subscription{
			Filter: filter, QoS: g.qos, NoLocal: g.noLocal, RetainAsPublished: g.asPublished}})
		return true
	}
	bx.realm.tree.Each(bx, add)
	bx.mu.Lock()
	shared := slices.Collect(maps.Keys(bx.shared))
	bx.mu.Unlock()
	for _, f := range shared {
		bx.realm.mu.Lock()
		grp := bx.realm.groups[f]
		bx.realm.mu.Unlock()
		if grp == nil {
			continue
		}
		grp.mu.Lock()
		if i, ok := grp.places[bx]; ok {
			add(f, grp.members[i])
		}
		grp.mu.Unlock()
	}
	return subs
}

func (bx *box) readiness(qos packet.QoS) readiness {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	switch {
	case bx.dead:
		return away
	case bx.conn == nil:
		return asleep
	case bx.behind && qos > packet.QoS0:
		return slow
	}
	return bx.conn.readiness(qos)
}

// online returns the connection that serves the session, or nil.
func (bx *box) online() *conn {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	return bx.conn
}

// receive notes a QoS 2 identifier of the client's.
func (bx *box) receive(id uint16, stored bool) {
	if bx.received == nil {
		bx.received = make(map[uint16]bool)
	}
	bx.received[id] = stored
}

// committed is told, in commit order, that an entry of the queue is durable,
// and gives it to the connection if that has been given everything before and
// has room.
func (bx *box) committed(r *round, ref stored.Ref, d *session.Input, q charge) {
	a := takeActions()
	c := bx.offer(r, ref, d, q, a)
	if c != nil {
		c.perform(r, a)
	}
	a.put()
}

func (bx *box) offer(r *round, ref stored.Ref, d *session.Input, q charge, a *actions) *conn {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	at := ref.Cursor()
	if after(bx.last, at) {
		bx.last = at
	}
	c := bx.conn
	if _, given := bx.out[d.PacketID]; !given && !after(bx.cursor, at) {
		// Its outcome was in doubt for a while, and others have overtaken it. What
		// has been given since is passed over.
		bx.cursor = stored.Cursor{Index: at.Index - 1, Ordinal: math.MaxUint16}
		bx.behind = true
		bx.b.admissions.submit(bx.kick)
		return nil
	}
	if c == nil || bx.behind || bx.feeding || !after(bx.cursor, at) {
		bx.behind = bx.behind || c == nil || after(bx.cursor, at)
		return nil
	}
	if !c.give(r, d, a) {
		bx.behind = true
		return nil
	}
	bx.given(ref, d.PacketID, q, true)
	return c
}

// after reports whether b comes after a.
func after(a, b stored.Cursor) bool {
	return b.Index > a.Index || b.Index == a.Index && b.Ordinal > a.Ordinal
}

// given notes that the connection has been given an entry, and all before it
// if it was next.
func (bx *box) given(ref stored.Ref, id uint16, q charge, next bool) {
	if next {
		bx.cursor = ref.Cursor()
	}
	for len(bx.victims) > 0 && !after(ref.Cursor(), bx.victims[0].Ref.Cursor()) {
		bx.victims = bx.victims[1:]
	}
	if bx.out == nil {
		bx.out = make(map[uint16]delivered)
	}
	bx.out[id] = delivered{ref, q}
}

// give hands a connection a message of its queue, or reports that it has no
// room now. What is to be performed is appended to a.
func (c *conn) give(r *round, d *session.Input, a *actions) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.s.Online() || c.s.Room() == 0 || c.behind() {
		c.hungry = c.behind()
		return false
	}
	c.stepLocked(r, *d, a)
	return true
}

// takes reports whether the client can be given messages of its queue now. If
// it only has to read first, the box is kicked once it has.
func (c *conn) takes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hungry = c.behind()
	return c.s.Online() && c.s.Room() > 0 && !c.hungry
}

// settle is the session's over by: an entry is acknowledged or given up. What
// comes so late that another connection has taken over is sent again on that.
func (bx *box) settle(by *conn, id uint16) {
	bx.mu.Lock()
	d, ok := bx.out[id]
	if !ok || bx.conn != nil && bx.conn != by {
		bx.mu.Unlock()
		return
	}
	delete(bx.out, id)
	delete(bx.sent, id)
	bx.release(id, d.charge)
	bx.b.store.Settle(bx.key, d.ref) // under the lock: it is in out, or settled
	c := bx.conn
	bx.mu.Unlock()
	if c != nil {
		c.mu.Lock()
		c.signalRoom()
		c.mu.Unlock()
	}
	bx.kick()
}

// released makes it durable that PUBREC has come.
func (bx *box) released(c *conn, id uint16, token uint64, a *actions) {
	bx.mu.Lock()
	d, ok := bx.out[id]
	if bx.sent == nil {
		bx.sent = make(map[uint16]bool)
	}
	bx.sent[id] = true
	if ok { // only the identifier is kept
		bx.bytes -= int64(d.size)
		bx.expiring.remove(d.expires, d.size)
		d.charge = charge{}
		bx.out[id] = d
	}
	bx.mu.Unlock()
	if !ok {
		a.tokens = append(a.tokens, settled{token: token})
		return
	}
	bx.b.store.Release(bx.key, d.ref, id, func(err error) { c.hear(token, err) })
}

// completed makes it durable that PUBREL has come for what the client sent.
func (bx *box) completed(c *conn, id uint16, token uint64, a *actions) {
	bx.mu.Lock()
	onDisk := bx.received[id]
	bx.mu.Unlock()
	if !onDisk {
		bx.forgetInbound(id)
		a.tokens = append(a.tokens, settled{token: token})
		return
	}
	bx.b.store.Complete(bx.key, id, func(err error) {
		if err == nil {
			bx.forgetInbound(id)
		}
		c.hear(token, err)
	})
}

// hear is told, on the engine's goroutine, what became of what token stands
// for.
func (c *conn) hear(token uint64, err error) {
	r := c.b.begin()
	r.remote = true
	defer c.b.done(r)
	defer c.guard(r)
	if err != nil && !errors.Is(err, stored.ErrSettled) {
		c.unstored(r, err)
		return
	}
	c.committed(r, token, packet.Success, nil)
}

// noteInbound notes a QoS 2 identifier of the client's.
func (bx *box) noteInbound(id uint16, onDisk bool) {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	if onDisk || !bx.received[id] {
		bx.receive(id, onDisk)
	}
}

// beginInbound says that a QoS 2 message of the client's is being stored,
// endInbound that it is known what came of it.
func (bx *box) beginInbound() {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	bx.storing++
}

func (bx *box) endInbound() {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	if bx.storing--; bx.storing == 0 && bx.settled != nil {
		close(bx.settled)
		bx.settled = nil
	}
}

// storesInbound reports whether QoS 2 messages of the client's are being stored.
func (bx *box) storesInbound() bool {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	return bx.storing > 0
}

// awaitInbound waits until it is known which of the client's QoS 2 messages are
// stored. Only the loader may, after whoever stores them by way of it.
func (bx *box) awaitInbound() {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	for bx.storing > 0 {
		known := bx.settled
		if known == nil {
			known = make(chan struct{})
			bx.settled = known
		}
		bx.mu.Unlock()
		<-known
		bx.mu.Lock()
	}
}

func (bx *box) forgetInbound(id uint16) {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	delete(bx.received, id)
}

func (bx *box) isDead() bool {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	return bx.dead
}
