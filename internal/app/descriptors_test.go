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

// Only a limit that keeps out what somebody asked for, or nearly everybody, is
// warned about: an ordinary one is not.
func TestLowLimitsAreWarnedAbout(t *testing.T) {
	byDefault := config.Default(config.Open)
	asked := byDefault
	asked.MQTT.MaxConnections = 50_000
	for _, c := range []struct {
		limit uint64
		c     config.Config
		low   bool
	}{
		{20_000, byDefault, false}, {1024, byDefault, true}, {4096, byDefault, false}, {1 << 20, byDefault, false}, {0, byDefault, false},
		{20_000, asked, true}, {65_536, asked, false}, {1 << 20, asked, false},
	} {
		if d := shareDescriptors(c.limit, c.c); d.low(byDefault.MQTT.MaxConnections) != c.low {
			t.Errorf("limit %d, %d connections asked for: %+v, warned about: %v", c.limit, c.c.MQTT.MaxConnections, d, !c.low)
		}
	}
}
