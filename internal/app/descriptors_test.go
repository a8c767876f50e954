package app

import (
	"testing"

	"rollcall/internal/config"
)

// What sockets can take and what the store needs fit into the limit, and a
// generous limit lowers nothing.
func TestDescriptorsAreSharedOut(t *testing.T) {
	c := config.Default(config.Open)
	for _, limit := range []uint64{512, 1024, 4096, 65536, 1 << 20, 1 << 40} {
		d := shareDescriptors(limit, c)
		if used := uint64(d.Store + d.Connections + d.http + otherFiles); used > limit {
			t.Errorf("limit %d: %+v takes %d", limit, d, used)
		}
		if d.Connections < 128 {
			t.Errorf("limit %d: %d connections", limit, d.Connections)
		}
		if limit >= 1<<20 && d.Connections != c.MQTT.MaxConnections {
			t.Errorf("limit %d lowers connections to %d", limit, d.Connections)
		}
	}
	if d := shareDescriptors(0, c); d.Connections != c.MQTT.MaxConnections {
		t.Errorf("an unknown limit lowers connections to %d", d.Connections)
	}
}
