package registry

// authenticate waits for the answer.
func authenticate(r *Registry, p Proof) (Identity, error) {
	type answer struct {
		id  Identity
		err error
	}
	answers := make(chan answer, 1)
	id, known, err := r.Authenticate(p, func(id Identity, err error) { answers <- answer{id, err} })
	if known {
		return id, err
	}
	a := <-answers
	return a.id, a.err
}
