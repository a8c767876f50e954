package conformance

import (
	"fmt"
	"strconv"
	"time"
)

// synced subscribes to a retained message that comes behind all that are owed.
func (c *client) synced(five bool) {
	c.tb.t.Helper()
	c.tb.made++
	topic, props := fmt.Sprintf(`"synced/~/%d"`, c.tb.made), ""
	if five {
		props = "{}"
	}
	c.send("33 [ " + topic + " FFFC " + props + " 's' ]")
	c.expectAny("40 02 FFFC", "40 03 FFFC 10")
	c.send("82 [ FFFC " + props + topic + " 00 ]")
	c.expect("90 [ FFFC " + props + " 00 ]")
	c.expect("31 [ " + topic + props + " 's' ]")
}

// within judges how long something took, where a span is given.
func (c *client) within(span string, took time.Duration) {
	c.tb.t.Helper()
	if span == "" {
		return
	}
	var from, to float64
	if _, err := fmt.Sscanf(span, "%f %f", &from, &to); err != nil {
		c.tb.failf("%s: %v", span, err)
	}
	if s := took.Seconds(); s < from || s > to {
		c.tb.failf("%s: after %.3f s", c.name, s)
	}
}

func (tb *table) differ(list []string) {
	tb.t.Helper()
	for i, a := range list {
		for _, b := range list[:i] {
			if string(tb.names[a]) == string(tb.names[b]) {
				tb.failf("%s and %s are both % X", a, b, tb.names[a])
			}
		}
	}
}

// elapse lets time pass on the server: until a Will that is delayed by so many
// seconds is published.
func (tb *table) elapse(seconds string) {
	tb.t.Helper()
	n, err := strconv.Atoi(seconds)
	if err != nil {
		tb.failf("%v", err)
	}
	tb.made++
	w, k := tb.seat(fmt.Sprintf("w%d", tb.made)), tb.seat(fmt.Sprintf("k%d", tb.made))
	topic := fmt.Sprintf(`"elapsed/~/%d"`, tb.made)
	w.do("connect5", "")
	w.do("subscribe5", topic+" 00")
	k.do("connect5", fmt.Sprintf("06 {11 0000%04X} {18 0000%04X} %s 0000", n+10, n, topic))
	start := time.Now()
	k.do("reset", "")
	w.expect("30 [ " + topic + " {} ]")
	if took := time.Since(start); took < time.Duration(n)*time.Second {
		tb.failf("only %v have passed", took)
	}
}
