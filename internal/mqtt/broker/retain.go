package broker

import "rollcall/internal/mqtt/session"

// retain makes m what is retained for its topic (3.3.1.3). P is told when that
// is durable.
func (b *Broker) retain(_ *round, rl *realm, m *session.Message, p *publisher) {
	if p.token == 0 && p.then == nil { // nobody waits
		if err := b.store.Retain(rl.name, m, nil); err != nil {
			b.metrics.drop("not_retained")
		}
		return
	}
	p.part()
	err := b.store.Retain(rl.name, m, func(err error) {
		r := b.begin()
		r.remote = true
		defer b.done(r)
		defer p.conn.guard(r)
		p.stored(r, err)
	})
	if err != nil {
		p.done(err)
	}
}
