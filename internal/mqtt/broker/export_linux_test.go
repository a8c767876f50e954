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
