//go:build !unix

package app

// descriptorLimit returns 0: this system has no limit to ask for.
func descriptorLimit() uint64 { return 0 }
