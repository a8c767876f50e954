package pebble

// SetMemTableSize makes tables so small that a test writes many.
func SetMemTableSize(o *Options, n uint64) { o.memTable = n }
