package broker

import (
	"slices"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/mqtt/topic"
)

// granted is a subscription as the tree holds it.
func (c *conn) granted(sub *session.Subscription) grant {
	g := grant{conn: c, id: sub.ID, qos: sub.QoS, noLocal: sub.NoLocal, asPublished: sub.RetainAsPublished}
	if c.box != nil {
		g.conn, g.box = nil, c.box
	}
	return g
}

// subscribe gives the client its subscriptions: those of a stored session once
// they are durable. SUBACK goes before any message that they bring, although it
// need not (3.8.4), unless an earlier acknowledgement is held up or the
// subscription is shared; the retained messages come last.
func (c *conn) subscribe(r *round, q *session.Request, token uint64, a *actions) {
	c.listens = true
	q = q.ForDriver()
	c.b.refuseExcess(q)
	notes := c.attendTo(q)
	bx := c.box
	if bx == nil {
		c.settle(r, a) // acknowledgements that are owed before
		c.grantShared(q, func(sub *session.Subscription) {
			c.share(sub.Filter)
			c.realm.subscribe(c, sub.Filter, c.granted(sub))
		})
		c.acknowledge(r, token, q, func() { c.grant(q, c) })
		c.replay(q, notes)
		return
	}
	subs := make([]stored.Subscription, 0, len(q.Subscriptions))
	for i := range q.Subscriptions {
		if sub := &q.Subscriptions[i]; !q.Codes[i].Failed() {
			subs = append(subs, stored.Subscription{Subscription: sub.Subscription, Identifier: sub.ID})
		}
	}
	if len(subs) == 0 {
		a.tokens = append(a.tokens, settled{token: token, codes: q.Codes})
		return
	}
	c.b.store.Subscribe(bx.key, subs, c.requested(q, token, func(r *round) {
		c.grantShared(q, func(sub *session.Subscription) { bx.subscribe(sub.Filter, c.granted(sub)) })
		alive := !bx.isDead()
		c.acknowledge(r, token, q, func() {
			if alive {
				c.grant(q, bx)
			}
		})
		if alive && bx.isDead() { // end may have come too early to remove them
			c.realm.tree.RemoveAll(bx)
		}
		c.replay(q, notes)
	}))
}

// refuseExcess refuses new subscriptions where all take as much memory as they
// may.
func (b *Broker) refuseExcess(q *session.Request) {
	most := b.opts.SubscriptionBytes
	if most == 0 {
		return
	}
	taken := b.subscriptionBytes()
	for i := range q.Subscriptions {
		if q.Codes[i].Failed() || q.Existed[i] {
			continue
		}
		w := int64(topic.Weight(q.Subscriptions[i].Filter))
		if taken+w > most {
			q.Codes[i] = packet.QuotaExceeded
			b.metrics.refusedSubscriptions.Inc()
			continue
		}
		taken += w
	}
}

// acknowledge answers a SUBSCRIBE and calls now before anything else can be
// sent to the client, and before the client can know: its subscriptions are in
// effect once it does.
func (c *conn) acknowledge(r *round, token uint64, q *session.Request, now func()) {
	a := takeActions()
	c.acknowledgeLocked(r, token, q, now, a)
	c.perform(r, a)
	a.put()
}

func (c *conn) acknowledgeLocked(r *round, token uint64, q *session.Request, now func(), a *actions) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stepLocked(r, session.Input{Kind: session.Committed, Token: token, Codes: q.Codes}, a)
	now()
}

// grant makes h the holder of the subscriptions that are not shared. The caller
// holds the connection's lock.
func (c *conn) grant(q *session.Request, h holder) {
	for i := range q.Subscriptions {
		sub := &q.Subscriptions[i]
		if _, _, shared, _ := topic.ParseShared(sub.Filter); !shared && !q.Codes[i].Failed() {
			c.realm.tree.Subscribe(sub.Filter, h, c.granted(sub))
		}
	}
}

// grantShared calls f for the shared subscriptions. Groups ask connections
// whether they are ready, so theirs are not given under a connection's lock.
func (c *conn) grantShared(q *session.Request, f func(*session.Subscription)) {
	for i := range q.Subscriptions {
		sub := &q.Subscriptions[i]
		if _, _, shared, _ := topic.ParseShared(sub.Filter); shared && !q.Codes[i].Failed() {
			f(sub)
		}
	}
}

// requested returns what is told, on the engine's goroutine, what became of a
// SUBSCRIBE or UNSUBSCRIBE of a stored session. Now puts it into effect and
// acknowledges it.
func (c *conn) requested(q *session.Request, token uint64, now func(*round)) func(error) {
	return func(err error) {
		r := c.b.begin()
		r.remote = true
		defer c.b.done(r)
		defer c.guard(r)
		if err != nil {
			c.subscribeFailed(r, q, token, err)
			return
		}
		now(r)
	}
}

func (c *conn) subscribeFailed(r *round, q *session.Request, token uint64, err error) {
	c.mu.Lock()
	c.dismiss()
	c.mu.Unlock()
	code := storageCode(err)
	if code == 0 {
		c.unstored(r, err)
		return
	}
	for i := range q.Codes {
		if !q.Codes[i].Failed() {
			q.Codes[i] = code
		}
	}
	c.committed(r, token, 0, q.Codes)
}

// share notes that a filter is of a shared subscription.
func (c *conn) share(filter string) {
	if _, _, shared, _ := topic.ParseShared(filter); shared {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.shared.add(filter)
	}
}

// unshare forgets what share noted.
func (c *conn) unshare(filter string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shared.remove(filter)
}

// filters is a set of them. The zero one is empty.
type filters map[string]struct{}

func (l *filters) add(filter string) {
	if *l == nil {
		*l = make(filters)
	}
	(*l)[filter] = struct{}{}
}

func (l *filters) remove(filter string) {
	if delete(*l, filter); len(*l) == 0 {
		*l = nil
	}
}

// subscribe adds a durable subscription, unless the session has ended. The
// box's lock is not held while the realm's or a group's is taken: groups ask
// boxes whether they are ready.
func (bx *box) subscribe(filter string, g grant) {
	_, _, shared, _ := topic.ParseShared(filter)
	bx.mu.Lock()
	dead := bx.dead
	if shared && !dead {
		bx.shared.add(filter)
	}
	bx.mu.Unlock()
	if dead {
		return
	}
	bx.realm.subscribe(bx, filter, g)
	if bx.isDead() { // end may have come too early to remove it
		bx.realm.unsubscribe(bx, filter, g)
	}
}

// unsubscribe takes a subscription away, durably.
func (bx *box) unsubscribe(filter string) {
	bx.mu.Lock()
	bx.shared.remove(filter)
	bx.mu.Unlock()
	bx.realm.unsubscribe(bx, filter, bx.grant())
}

// unsubscribe takes subscriptions away.
func (c *conn) unsubscribe(q *session.Request, token uint64, a *actions) {
	c.mu.Lock()
	c.replays.remove(q.Filters)
	c.mu.Unlock()
	q = q.ForDriver()
	bx := c.box
	if bx == nil {
		for _, f := range q.Filters {
			c.unshare(f)
			c.realm.unsubscribe(c, f, grant{conn: c})
		}
		a.tokens = append(a.tokens, settled{token: token, codes: q.Codes})
		return
	}
	var filters []string
	for i, f := range q.Filters {
		if q.Codes[i] == packet.Success {
			filters = append(filters, f)
		}
	}
	if len(filters) == 0 {
		a.tokens = append(a.tokens, settled{token: token, codes: q.Codes})
		return
	}
	c.b.store.Unsubscribe(bx.key, filters, c.requested(q, token, func(r *round) {
		for _, f := range filters {
			bx.unsubscribe(f)
		}
		c.committed(r, token, 0, q.Codes)
	}))
}

// replay is a subscription whose retained messages are to be sent.
type replay struct {
	session.Subscription
	notes uint64 // what was noted before the subscription was made is sent again
	turn  uint64 // of replays
}

// replays are those that wait. A client that takes nothing can have as many
// waiting as it may have subscriptions, and name hundreds of thousands in one
// UNSUBSCRIBE: each costs the same, however many wait. The zero one is empty.
type replays struct {
	by    map[string]replay // by filter
	order []replayTurn      // some of which are not in by any more
	turns uint64
}

type replayTurn struct {
	filter string
	turn   uint64
}

// put adds p, in the place of one that has not begun.
func (q *replays) put(p replay) {
	if old, waits := q.by[p.Filter]; waits {
		p.turn = old.turn
		q.by[p.Filter] = p
		return
	}
	if q.by == nil {
		q.by = make(map[string]replay)
	}
	q.turns++
	p.turn = q.turns
	q.by[p.Filter] = p
	q.order = append(q.order, replayTurn{p.Filter, p.turn})
}

// remove takes out those of the filters.
func (q *replays) remove(filters []string) {
	if len(q.by) == 0 {
		return
	}
	for _, f := range filters {
		delete(q.by, f)
	}
	if len(q.order) > 2*len(q.by) { // so that what is left behind stays less than what waits
		q.order = slices.DeleteFunc(q.order, func(t replayTurn) bool { return !q.waits(t) })
	}
}

func (q *replays) waits(t replayTurn) bool {
	p, ok := q.by[t.filter]
	return ok && p.turn == t.turn
}

// take takes out the one that has waited longest.
func (q *replays) take() (p replay, ok bool) {
	for !ok && len(q.order) > 0 {
		t := q.order[0]
		q.order = q.order[1:]
		if ok = q.waits(t); ok {
			p = q.by[t.filter]
			delete(q.by, t.filter)
		}
	}
	return p, ok
}

// replay sends the retained messages that a SUBSCRIBE asks for (3.3.1.3).
func (c *conn) replay(q *session.Request, notes uint64) {
	var subs []session.Subscription
	for i := range q.Subscriptions {
		sub := &q.Subscriptions[i]
		_, _, shared, _ := topic.ParseShared(sub.Filter)
		switch {
		case q.Codes[i].Failed(), shared: // 4.8.2: none for a shared one
		case sub.RetainHandling == 2: // [MQTT-3.3.1-11]
		case sub.RetainHandling == 1 && q.Existed[i]: // [MQTT-3.3.1-10]
		default:
			subs = append(subs, *sub)
		}
	}
	n, _ := c.b.store.Retained()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(subs) == 0 || n == 0 {
		c.dismiss()
		return
	}
	for _, sub := range subs {
		c.replays.put(replay{Subscription: sub, notes: notes})
	}
	if !c.replaying {
		c.replaying = true
		c.b.work.Go(c.replayAll) // ends when all is sent, or with the session
	}
}

// dismiss ends the noting of topics if no retained messages are being sent. The
// caller holds the lock.
func (c *conn) dismiss() {
	if !c.replaying {
		c.live, c.liveBytes = nil, 0
	}
}

// attendTo has the topics noted from now on of retained messages that come to
// the client as they are published, if a SUBSCRIBE asks for retained messages:
// those are not sent again as what was retained before. It returns how many were
// noted so far.
func (c *conn) attendTo(q *session.Request) (notes uint64) {
	for i := range q.Subscriptions {
		if q.Subscriptions[i].RetainHandling != 2 && !q.Codes[i].Failed() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.live == nil {
				c.live = make(map[string]uint64)
			}
			return c.notes
		}
	}
	return 0
}

// liveMax bounds what is noted for a client that takes its retained messages
// slowly. What is not noted may come twice.
const liveMax = 64 << 10 // bytes of topics

// note notes the topic of a message that is retained and comes to the client
// now.
func (c *conn) note(m *session.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live == nil || len(m.Payload) == 0 {
		return
	}
	c.notes++
	if _, again := c.live[string(m.Topic)]; !again {
		c.liveBytes += len(m.Topic)
	}
	if c.liveBytes <= liveMax {
		c.live[string(m.Topic)] = c.notes
	}
}

// noted reports whether m's topic was noted after so many notes.
func (c *conn) noted(m *session.Message, after uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live[string(m.Topic)] > after
}

func (c *conn) nextReplay() (sub replay, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s.Online() {
		sub, ok = c.replays.take()
	}
	if !ok {
		c.replaying, c.replays = false, replays{}
		c.dismiss()
	}
	return sub, ok
}

func (c *conn) replayAll() {
	for {
		sub, ok := c.nextReplay()
		if !ok {
			return
		}
		err := c.b.store.MatchRetained(c.realm.name, sub.Filter, func(m *session.Message) bool { return c.resend(m, &sub) })
		if err != nil {
			c.b.opts.Log.Error("retained messages cannot be read", "filter", sub.Filter, "err", err)
		}
	}
}

// resend sends one retained message, when the client has room for it, and
// reports whether there may be more.
func (c *conn) resend(m *session.Message, sub *replay) bool {
	if sub.NoLocal && m.From == c.name.id || c.noted(m, sub.notes) { // [MQTT-3.8.3-3]
		return true
	}
	r := c.b.begin()
	defer c.b.done(r)
	defer c.guard(r)
	var ids []uint32
	if sub.ID != 0 {
		ids = []uint32{sub.ID}
	}
	if !c.awaitRoom() || !c.subscribed(sub.Filter) { // [MQTT-3.10.4-2]
		return false
	}
	if c.noted(m, sub.notes) { // meanwhile, and perhaps a newer one
		return true
	}
	r.now = c.b.clock.Instant()
	qos := min(sub.QoS, m.QoS)
	if bx := c.box; bx != nil && qos > packet.QoS0 {
		p := newPublisher(c, 0, 0)
		c.b.keep(r, &publication{b: c.b, realm: c.realm, message: m, by: p, boxes: []*box{bx}, targets: []stored.Target{{
			Session: bx.name, Epoch: bx.key.Epoch, QoS: qos, Retain: true, SubscriptionIDs: ids}}})
		return c.online()
	}
	c.deliver(r, m, sub.QoS, true, ids, "") // [MQTT-3.3.1-8]
	return c.online()
}

// subscribed reports whether the client is subscribed to a filter that is not
// shared.
func (c *conn) subscribed(filter string) (ok bool) {
	if c.box != nil {
		_, ok = c.realm.tree.Get(filter, c.box)
	} else {
		_, ok = c.realm.tree.Get(filter, c)
	}
	return ok
}

// awaitRoom waits until the client has room for a message, and reports false
// if its session ends before.
func (c *conn) awaitRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.s.Online() && !c.roomy() {
		woken := c.waiting
		if woken == nil {
			woken = make(chan struct{})
			c.waiting = woken
		}
		c.mu.Unlock()
		<-woken
		c.mu.Lock()
	}
	return c.s.Online()
}

// signalRoom wakes whoever waits for room. The caller holds the lock.
func (c *conn) signalRoom() {
	if c.waiting != nil && (!c.s.Online() || c.roomy()) {
		close(c.waiting)
		c.waiting = nil
	}
}

// roomy reports whether the client can be sent more at its own pace: it takes
// bytes and acknowledges, and its queue is less than half full. The caller
// holds the lock.
func (c *conn) roomy() bool {
	if c.behind() || c.s.Room() == 0 {
		return false
	}
	return c.box == nil || int(c.box.queued.Load()) <= c.b.cfg.QueueMessages/2
}
