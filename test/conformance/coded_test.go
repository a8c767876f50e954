package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"rollcall/internal/servertest"
)

// coded are the conversations that bytes alone cannot tell.
func coded() []*talk {
	list := []*talk{
		{version: "5.0", group: "open", ids: []string{"4.8.2"}, title: "every message goes to one member", run: spread},
		{version: "5.0", group: "open", ids: []string{"4.8.2"}, title: "a member that takes no more is passed over", run: passOver},
		{version: "5.0", group: "open", ids: []string{"MQTT-4.6.0-5", "MQTT-4.6.0-6", "MQTT-4.3.1-1"}, title: "a thousand messages in their order", run: inOrder},
		{version: "5.0", group: "open", ids: []string{"3.14.2.1"}, title: "a server that shuts down says 0x8B", run: shutDown},
		{version: "5.0", group: "open", ids: []string{"4.1.1", "MQTT-3.1.2-23", "MQTT-4.4.0-1", "MQTT-4.3.3-10", "MQTT-3.3.1-5"}, title: "sessions and retained messages outlive the server", run: outlive},
	}
	for _, v := range []string{"5.0", "3.1.1"} {
		list = append(list,
			&talk{version: v, group: "websocket", ids: []string{"MQTT-6.0.0-1"}, title: "a text frame closes the connection", run: textFrame},
			&talk{version: v, group: "websocket", ids: []string{"MQTT-6.0.0-2"}, title: "packets span frames, and frames packets", run: frames},
			&talk{version: v, group: "websocket", ids: []string{"MQTT-6.0.0-3", "MQTT-6.0.0-4"}, title: "the subprotocol is mqtt", run: subprotocol})
	}
	for _, k := range list {
		k.where = "coded_test.go"
	}
	return list
}

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

// dialect are a CONNECT and its CONNACK in the version of the table.
func dialect(tb *table) (connect, connack string) {
	if tb.v == "5.0" {
		return `10 [ "MQTT" 05 02 0000 {} "~" ]`, "20 [ 00 00 { $ACCEPT } ]"
	}
	return `10 [ "MQTT" 04 02 0000 "~" ]`, "20 02 00 00"
}

// raw opens a WebSocket connection of which every frame is the test's.
func raw(tb *table, protocols ...string) (net.Conn, *client, ws.Handshake, error) {
	ctx, cancel := context.WithTimeout(tb.t.Context(), servertest.Patience)
	defer cancel()
	d := ws.Dialer{Protocols: protocols}
	nc, early, hs, err := d.Dial(ctx, tb.d.target)
	if err != nil {
		return nil, nil, hs, err
	}
	tb.t.Cleanup(func() { nc.Close() })
	if early != nil {
		tb.failf("the server speaks first")
	}
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.failf("%v", err)
	}
	return nc, &client{tb: tb, name: "ws"}, hs, nil
}

func (tb *table) must(err error) {
	tb.t.Helper()
	if err != nil {
		tb.failf("%v", err)
	}
}

// readMessage reads one data frame.
func readMessage(nc net.Conn) ([]byte, ws.OpCode, error) {
	f, err := ws.ReadFrame(nc)
	return f.Payload, f.Header.OpCode, err
}

// textFrame sends MQTT in a text frame, at once and later.
func textFrame(tb *table) {
	connect, connack := dialect(tb)
	for _, later := range []bool{false, true} {
		nc, c, _, err := raw(tb, "mqtt")
		tb.must(err)
		if later {
			tb.must(ws.WriteFrame(nc, ws.MaskFrame(ws.NewBinaryFrame(c.bytes(connect)))))
			got, op, err := readMessage(nc)
			tb.must(err)
			if op != ws.OpBinary || tb.names.match(c.compile(connack), got) != nil {
				tb.failf("got % X in a frame of type %d", got, op)
			}
			connect = "C0 00"
		}
		tb.must(ws.WriteFrame(nc, ws.MaskFrame(ws.NewTextFrame(c.bytes(connect)))))
		for {
			got, op, err := readMessage(nc)
			if err != nil {
				if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "reset") {
					break
				}
				tb.failf("the connection is not closed: %v", err)
			}
			if bytes.HasPrefix(got, []byte{0xD0}) || bytes.HasPrefix(got, []byte{0x20}) {
				tb.failf("the text frame is answered with % X", got)
			}
			if op == ws.OpClose {
				if code, _ := ws.ParseCloseFrameData(got); code != ws.StatusUnsupportedData {
					tb.failf("closed with status %d", code)
				}
			}
		}
	}
}

// frames sends packets in pieces, in fragments and several in one frame.
func frames(tb *table) {
	connect, connack := dialect(tb)
	nc, c, _, err := raw(tb, "mqtt")
	tb.must(err)
	sub, suback, pub := `82 [ 0001 {} "t/~" 00 ]`, `90 [ 0001 {} 00 ]`, `30 [ "t/~" {} 'x' ]`
	if tb.v != "5.0" {
		sub, suback, pub = `82 [ 0001 "t/~" 00 ]`, `90 [ 0001 00 ]`, `30 [ "t/~" 'x' ]`
	}
	all := c.bytes(connect + " " + sub + " " + pub + " C0 00")
	for _, piece := range [][]byte{all[:1], all[1:9], all[9:]} {
		tb.must(ws.WriteFrame(nc, ws.MaskFrame(ws.NewBinaryFrame(piece))))
	}
	// A fragmented message with a ping between its fragments.
	tb.must(ws.WriteFrame(nc, ws.MaskFrame(ws.NewFrame(ws.OpBinary, false, []byte{0xC0}))))
	tb.must(ws.WriteFrame(nc, ws.MaskFrame(ws.NewPingFrame([]byte("are you there")))))
	tb.must(ws.WriteFrame(nc, ws.MaskFrame(ws.NewFrame(ws.OpContinuation, true, []byte{0x00, 0xC0, 0x00}))))
	var got []byte
	pong := false
	want := []string{connack, suback, pub, "D0 00", "D0 00", "D0 00"}
	for len(want) > 0 {
		if n, size := varint(got[min(1, len(got)):]); size > 0 && len(got) >= 1+size+n {
			if tb.names.match(c.compile(want[0]), got[:1+size+n]) != nil {
				tb.failf("got % X, want %s", got, want[0])
			}
			got, want = got[1+size+n:], want[1:]
			continue
		}
		b, op, err := readMessage(nc)
		tb.must(err)
		switch op {
		case ws.OpBinary, ws.OpContinuation:
			got = append(got, b...)
		case ws.OpPong:
			pong = string(b) == "are you there"
		default:
			tb.failf("a frame of type %d", op)
		}
	}
	if !pong {
		tb.failf("the WebSocket ping is not answered")
	}
}

// subprotocol offers what the server knows, and what it does not.
func subprotocol(tb *table) {
	_, _, hs, err := raw(tb, "other", "mqtt")
	tb.must(err)
	if hs.Protocol != "mqtt" {
		tb.failf("the subprotocol is %q", hs.Protocol)
	}
	for _, offer := range [][]string{nil, {"other"}} {
		_, _, _, err := raw(tb, offer...)
		var status ws.StatusError
		if !errors.As(err, &status) || int(status) != http.StatusBadRequest {
			tb.failf("offering %v: %v", offer, err)
		}
	}
}
