package app

import (
	"rollcall/internal/config"
	"rollcall/internal/store/pebble"
)

// Descriptors says how the file descriptors that the process may have are
// shared out. What the store needs is kept from the sockets: a store that
// cannot open a file makes everybody wait.
type Descriptors struct {
	Limit       uint64 `json:"limit"`       // of the process, 0: not known
	Store       int    `json:"store"`       // kept for the store
	Connections int    `json:"connections"` // MQTT connections let in at once
	Configured  int    `json:"configured"`  // mqtt.maxConnections
	storeFiles  int
	http        int
}

// What is needed whatever the limit is.
const (
	minStoreFiles  = 64
	maxHTTP        = 4096
	maxOutgoing    = 1536 // delivery.workers and idle connections to webhooks
	otherFiles     = 64   // listeners, event loops, logs, dead letters, certificates
	minConnections = 16
)

// low reports whether the limit is worth a warning, and not only a line of the
// start-up block: it keeps out connections that somebody has asked for, or most
// of any fleet.
func (d Descriptors) low(byDefault int) bool {
	return d.Connections < d.Configured && (d.Configured != byDefault || d.Connections < fewConnections)
}

// fewConnections are fewer than an ordinary limit of 4,096 leaves.
const fewConnections = 1024

// shareDescriptors shares out a limit.
func shareDescriptors(limit uint64, c config.Config) Descriptors {
	d := Descriptors{Limit: limit, Connections: c.MQTT.MaxConnections, Configured: c.MQTT.MaxConnections,
		storeFiles: pebble.DefaultMaxFiles, http: maxHTTP}
	out := maxOutgoing
	if limit > 0 && limit < 1<<20 {
		n := int(limit)
		d.storeFiles = max(minStoreFiles, min(d.storeFiles, n/4))
		d.http = max(minConnections, min(d.http, n/8))
		out = min(out, n/8)
	}
	d.Store = pebble.DescriptorsFor(d.storeFiles)
	if limit > 0 {
		left := int(min(limit, 1<<30)) - d.Store - d.http - out - otherFiles
		d.Connections = max(minConnections, min(d.Connections, left))
	}
	return d
}
