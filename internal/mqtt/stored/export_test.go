package stored

// Counted reports whether all partitions have been counted.
func (st *Store) Counted() bool {
	st.refs.mu.Lock()
	defer st.refs.mu.Unlock()
	for _, o := range st.refs.old {
		if o.state != counted {
			return false
		}
	}
	return true
}

// Backlog is how many keys are settled and not durably deleted.
func (st *Store) Backlog() int { return st.reap.backlog() }

// Dying is how many entries readers have to be kept from.
func (st *Store) Dying() int {
	st.reap.mu.Lock()
	defer st.reap.mu.Unlock()
	return len(st.reap.dying)
}
