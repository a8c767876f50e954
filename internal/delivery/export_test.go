package delivery

import "os"

// SetSync replaces what syncs dead-letter files and their directories. It is to
// be called before Run.
func (d *Dispatcher) SetSync(f func(*os.File) error) { d.sync = f }

// Held is how many events memory has for the subscription, and their bytes.
func (q *Queue) Held() (events, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.held), q.bytes
}
