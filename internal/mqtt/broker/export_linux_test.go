package broker

// Held returns how many bytes wait to be written to the client of that name,
// and how many the buffers take that they wait in. What is being written is in
// none.
func (b *Broker) Held(realm, id string) (waiting, memory int) {
	for _, c := range b.all(func(c *conn) bool { return c.has(sessionName{realm, id}) }) {
		c.mu.Lock()
		outs := []*output{c.out}
		if s, ok := c.link.(*socket); ok && s.tls != nil {
			s.tls.mu.Lock()
			outs = append(outs, s.tls.out)
			defer s.tls.mu.Unlock()
		}
		for _, o := range outs {
			if o != nil {
				waiting += len(o.buf) - o.from
				memory += cap(o.buf)
			}
		}
		c.mu.Unlock()
	}
	return waiting, memory
}

// HoldLoop stops the first event loop until release is called: what arrives
// meanwhile comes in its next turn.
func (b *Broker) HoldLoop() (release func()) {
	held, released := make(chan struct{}), make(chan struct{})
	b.mu.Lock()
	l := b.loops.all[0]
	b.mu.Unlock()
	l.call(func() {
		close(held)
		<-released
	})
	<-held
	return func() { close(released) }
}

// HoldNextTurn stops the first event loop, which is stopped, again: once what has
// arrived until it goes on is handled.
func (b *Broker) HoldNextTurn() (held <-chan struct{}, release func()) {
	stopped, released := make(chan struct{}), make(chan struct{})
	b.mu.Lock()
	l := b.loops.all[0]
	b.mu.Unlock()
	l.call(func() {
		l.call(func() {
			close(stopped)
			<-released
		})
	})
	return stopped, func() { close(released) }
}

// Fans returns, of the first event loop, which is stopped, how many subscriptions
// the fans under way hold, and how many fans it keeps for later.
func (b *Broker) Fans() (found, kept int) {
	l := b.loops.all[0]
	for _, f := range l.pacing.fans {
		found += len(f.found)
	}
	return found, len(l.round.fans)
}
