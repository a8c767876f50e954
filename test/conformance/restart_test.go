package conformance

import (
	"strings"

	"rollcall/internal/config"
	"rollcall/internal/servertest"
)

// restart has a server of its own: first is what is said before it stops in
// order, then what is said once it has started again.
func restart(tb *table, first, then string) {
	var c config.Config
	s := servertest.Start(tb.t, func(set *config.Config) {
		openLimits(set)
		set.MQTT.Loops = tb.d.loops
		c = *set
	})
	tb.d = tb.d.of(s)
	lines := func(text string) {
		for _, l := range strings.Split(text, "\n") {
			if l = strings.TrimSpace(l); l != "" {
				tb.step(l)
			}
		}
	}
	parts := strings.Split(first, "STOP")
	lines(parts[0])
	s.Stop()
	if len(parts) > 1 {
		lines(parts[1])
	}
	if then == "" {
		return
	}
	again := servertest.Run(tb.t, c)
	tb.d = tb.d.of(again)
	lines(then)
}

// of is the driver to another server.
func (d *driver) of(s *servertest.Server) *driver {
	n := *d
	n.target = s.Target(d.transport)
	if d.transport == "tls" {
		n.tls = s.TLS()
	}
	return &n
}

// shutDown ends connections with 0x8B.
func shutDown(tb *table) {
	restart(tb, `
		a connect5
		b connect4
		c connect5 06 {} {} "w/~" 0001 'x'
	STOP
		a bye 8B
		b closed
		c bye 8B`, "")
}

// outlive has sessions, messages, QoS 2 and retained messages outlive the server.
func outlive(tb *table) {
	restart(tb, `
		a connect5 02 {11 0000003C}
		a > 82 [ 0001 {0B 05} "t/~" 02 ]
		a < 90 [ 0001 {} 02 ]
		b connect5 02 {11 0000003C}
		b > 34 [ "t/~" 0001 {} '1' ]
		b < 50 02 0001
		a < 34 [ "t/~" <p> {0B 05} '1' ]
		a > 50 [ <p> ]
		a < 62 [ <p> ]
		a leave
		b > 34 [ "t/~" 0002 {26 "k" "v"} '2' ]
		b < 50 02 0002
		b > 33 [ "r/~" 0003 {} 'kept' ]
		b < 40 03 0003 10
		b > 62 [ 0001 ]
		b < 70 02 0001
		c connect4 00
		c subscribe4 "u/~" 01
		d connect5
	STOP
		b bye 8B
		c closed
		d bye 8B`, `
		a again
		a resume5 00 {11 0000003C}
		a < 62 [ <p> ]
		a < 34 [ "t/~" <q> {0B 05 26 "k" "v"} '2' ]
		a > 70 [ <p> ]
		a > 50 [ <q> ]
		a < 62 [ <q> ]
		a > 70 [ <q> ]
		b again
		b resume5 00
		b > 3C [ "t/~" 0002 {26 "k" "v"} '2' ]
		b < 50 02 0002
		b > 62 [ 0002 ]
		b < 70 02 0002
		b > 62 [ 0001 ]
		b < 70 [ 0001 92 ]
		c again
		c resume4 00
		b > 32 [ "u/~" 0003 {} 'x' ]
		b < 40 02 0003
		c < 32 [ "u/~" <r> 'x' ]
		c > 40 [ <r> ]
		d again
		d connect5 00
		d subscribe5 "r/~" 00
		d < 31 [ "r/~" {} 'kept' ]`)
}
