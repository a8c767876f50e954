package conformance

import (
	"fmt"
	"strings"
)

// spread has three members get what a publisher sends.
func spread(tb *table) {
	const n = 30
	members := []*client{tb.seat("a"), tb.seat("b"), tb.seat("c")}
	for _, m := range members {
		m.do("connect5", "")
		m.do("subscribe5", `"$share/g/t/~" 00`)
		m.do("subscribe5", `"end/~" 00`)
	}
	p := tb.seat("p")
	p.do("connect5", "")
	for i := range n {
		p.send(fmt.Sprintf(`30 [ "t/~" {} '%03d' ]`, i))
	}
	p.send(`30 [ "end/~" {} ]`)
	seen := map[string]int{}
	for _, m := range members {
		got, last := 0, ""
		for {
			f, err := m.frame()
			if err != nil {
				tb.failf("%s: %v", m.name, err)
			}
			if tb.names.match(m.compile(`30 [ "end/~" {} ]`), f) == nil {
				break
			}
			if err := tb.names.match(m.compile(`30 [ "t/~" {} ??*3 ]`), f); err != nil {
				tb.failf("%s: got % X", m.name, f)
			}
			text := string(f[len(f)-3:])
			if text <= last {
				tb.failf("%s: %s after %s", m.name, text, last)
			}
			last = text
			seen[text]++
			got++
		}
		if got == 0 {
			tb.failf("%s got nothing", m.name)
		}
	}
	if len(seen) != n {
		tb.failf("%d of %d messages came", len(seen), n)
	}
	for text, times := range seen {
		if times != 1 {
			tb.failf("%s came %d times", text, times)
		}
	}
}

// passOver has a member with a full window: the others get what follows.
func passOver(tb *table) {
	a, b, p := tb.seat("a"), tb.seat("b"), tb.seat("p")
	a.do("connect5", "02 {21 0001}")
	a.do("subscribe5", `"$share/g/t/~" 01`)
	p.do("connect5", "")
	p.send(`32 [ "t/~" 0001 {} '0' ]`)
	p.expect("40 02 0001")
	a.expect(`32 [ "t/~" <p> {} '0' ]`)
	b.do("connect5", "")
	b.do("subscribe5", `"$share/g/t/~" 01`)
	for i := range 6 {
		p.send(fmt.Sprintf(`32 [ "t/~" 0001 {} '%d' ]`, i))
		p.expect("40 02 0001")
		b.expect(fmt.Sprintf(`32 [ "t/~" <q%d> {} '%d' ]`, i, i))
	}
}

// inOrder sends a thousand messages with QoS 0, and as many with QoS 1 as the
// window takes at once.
func inOrder(tb *table) {
	a, b := tb.seat("a"), tb.seat("b")
	a.do("connect5", "")
	a.do("subscribe5", `"t/~" 01`)
	b.do("connect5", "")
	var all strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&all, ` 30 [ "t/~" {} '%04d' ]`, i)
	}
	b.send(all.String())
	for i := range 1000 {
		a.expect(fmt.Sprintf(`30 [ "t/~" {} '%04d' ]`, i))
	}
	for round := range 20 {
		all.Reset()
		for i := range 10 {
			fmt.Fprintf(&all, ` 32 [ "t/~" %04X {} '%d' ]`, i+1, i)
		}
		b.send(all.String())
		for i := range 10 {
			name := fmt.Sprintf("p%d-%d", round, i)
			a.expect(fmt.Sprintf(`32 [ "t/~" <%s> {} '%d' ]`, name, i))
			a.send("40 [ <" + name + "> ]")
			b.expect(fmt.Sprintf("40 02 %04X", i+1))
		}
	}
}
