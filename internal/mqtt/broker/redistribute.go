package broker

import (
	"errors"
	"maps"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
)

// redistribute gives what shared subscriptions gave the client, and it did not
// acknowledge, to other members [4.8.2]: QoS 1, and QoS 2 that was never sent.
func (c *conn) redistribute(r *round, left *session.State) {
	if left == nil {
		return
	}
	for i := range left.Inflight {
		o := &left.Inflight[i]
		if o.Share == "" || o.Message == nil || o.QoS == packet.QoS2 && o.Sent {
			continue
		}
		c.b.handOn(r, c.realm, o.Share, o.Message, grant{conn: c})
	}
}

// handOn gives m to another member of a shared subscription.
func (b *Broker) handOn(r *round, rl *realm, share string, m *session.Message, from grant) {
	g := rl.group(share)
	if g == nil {
		b.metrics.drop("no_member")
		return
	}
	member, _, ok := g.choose(m.QoS, from)
	if !ok {
		b.metrics.drop("no_member")
		return
	}
	if member.conn != nil {
		member.conn.deliver(r, m, member.qos, m.Retain && member.asPublished, member.ids(), share)
		return
	}
	p := newPublisher(b.ghost(rl, m.From), 0, 0)
	b.keep(r, &publication{b: b, realm: rl, message: m, by: p, boxes: []*box{member.box}, targets: []stored.Target{{
		Session: member.box.name, Epoch: member.box.key.Epoch, QoS: min(m.QoS, member.qos),
		Retain: m.Retain && member.asPublished, SubscriptionIDs: member.ids(), Share: share}}})
}

func (g grant) ids() []uint32 {
	if g.id == 0 {
		return nil
	}
	return []uint32{g.id}
}

func (rl *realm) group(filter string) *group {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	return rl.groups[filter]
}

// redistribute is the loader's: it hands on what a stored session, which has
// ended, was given by shared subscriptions.
func (bx *box) redistribute() {
	b := bx.b
	bx.mu.Lock()
	sent, known := maps.Clone(bx.sent), bx.sentKnown
	bx.mu.Unlock()
	var cursor stored.Cursor
	for {
		page, err := b.store.Pending(bx.key, &cursor, pageMessages, pageBytes)
		if err != nil {
			b.opts.Log.Error("the messages of a session that has ended cannot be handed on", "session", bx.name, "err", err)
			return
		}
		for i := range page.Entries {
			e := &page.Entries[i]
			cursor = e.Ref.Cursor()
			_, before := sent[e.PacketID]
			if e.Share == "" || e.Released || e.QoS == packet.QoS2 && (before || !known) {
				continue
			}
			bx.handOn(e)
		}
		if !page.More {
			return
		}
	}
}

// handOn moves an entry to another member's queue, or sends it to one that has
// none.
func (bx *box) handOn(e *stored.Entry) {
	b, rl := bx.b, bx.realm
	r := b.begin()
	defer b.done(r)
	g := rl.group(e.Share)
	if g == nil {
		b.metrics.drop("no_member")
		return
	}
	member, _, ok := g.choose(e.Message.QoS, bx.grant())
	if !ok {
		b.metrics.drop("no_member")
		return
	}
	retain := e.Message.Retain && member.asPublished
	if member.conn != nil {
		member.conn.deliver(r, e.Message, member.qos, retain, member.ids(), e.Share)
		b.store.Settle(bx.key, e.Ref)
		return
	}
	to := member.box
	q := charge{e.Message.Size() + entryOverhead, e.Expires}
	if err := to.prepare(q, r.now.Wall, nil); err != nil {
		b.opts.Log.Error("a message of a session that has ended cannot be handed on", "session", to.name, "err", err)
		return
	}
	id, err := to.reserve(q, r.now.Wall)
	if err != nil {
		if errors.Is(err, errOverflow) {
			to.overflow(r)
		}
		return
	}
	t := stored.Target{Session: to.name, Epoch: to.key.Epoch, PacketID: id, QoS: min(e.Message.QoS, member.qos),
		Retain: retain, SubscriptionIDs: member.ids(), Share: e.Share, Size: q.size}
	m := e.Message
	b.store.Move(bx.key, e, &t, func(receipt stored.Receipt, err error) {
		r := b.begin()
		r.remote = true
		defer b.done(r)
		if err != nil {
			to.unreserve(id, q)
			b.metrics.drop("not_stored")
			return
		}
		to.committed(r, receipt.Target(0), &session.Input{Kind: session.Deliver, Message: m, QoS: t.QoS,
			Retain: retain, SubscriptionIDs: t.SubscriptionIDs, PacketID: id, Share: t.Share}, q)
	})
}
