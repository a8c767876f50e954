package delivery

import "os"

// SetSync replaces what syncs dead-letter files and their directories. It is to
// be called before Run.
func (d *Dispatcher) SetSync(f func(*os.File) error) { d.sync = f }
