package conformance

import (
	"strings"
	"testing"

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
		b < 40 02 0003
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

// TestNotation checks the notation itself: what must not match does not.
func TestNotation(t *testing.T) {
	for _, c := range []struct {
		text string
		b    string
		ok   bool
	}{
		{`30 [ "t" {} 'x' ]`, "30 05 0001 74 00 78", true},
		{`30 [ "t" {} 'x' ]`, "30 05 0001 74 00 79", false},
		{`30 [ "t" {} 'x' ]`, "30 06 0001 74 00 78 78", false},
		{`30 [ "t" {} 'x' ]`, "30 85 00 0001 74 00 78", false},
		{`E0 [ 81 {*} ]`, "E0 02 81 00", true},
		{`E0 [ 81 {*} ]`, "E0 06 81 04 1F 0001 61", true},
		{`E0 [ 81 {*} ]`, "E0 01 81", false},
		{`E0 [ 81 {*} ]`, "E0 06 82 04 1F 0001 61", false},
		{`E0 [ 81 {*} ]`, "E0 07 81 05 26 0001 61 00", false},
		{`E0 [ 81 {*} ]`, "E0 06 81 04 1F 0001 FF", false},
		{`40 [ <p> ]`, "40 02 0000", false},
		{`40 [ <p> <p> ]`, "40 04 0001 0002", false},
		{`40 [ <p> <p> ]`, "40 04 0001 0001", true},
		{`30 [ u32:2..3 ]`, "30 04 00000002", true},
		{`30 [ u32:2..3 ]`, "30 04 00000004", false},
		{`30 [ "*n" ]`, "30 03 0001 61", true},
		{`30 [ "*n" ]`, "30 02 0000", false},
		{`30 [ ??*3 ]`, "30 03 000161", true},
		{`30 [ ??*3 ]`, "30 02 0001", false},
	} {
		list, err := compile(c.text, "")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := compile(c.b, "")
		if err != nil {
			t.Fatal(err)
		}
		b, err := names{}.encode(nil, raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := (names{}).match(list, b); (err == nil) != c.ok {
			t.Errorf("%s against %s: %v", c.text, c.b, err)
		}
	}
	for _, bad := range []string{"3", "30 [", "zz", `"open`, "<p", "u32:x", "61*x"} {
		if _, err := compile(bad, ""); err == nil {
			t.Errorf("%s compiles", bad)
		}
	}
}
