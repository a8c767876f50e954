package conformance

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"rollcall/internal/servertest"
)

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
	h, err := ws.ReadHeader(nc)
	if err != nil {
		return nil, 0, err
	}
	if h.Length > 1<<20 {
		return nil, 0, errors.New("a frame of more than 1 MiB")
	}
	b := make([]byte, h.Length)
	_, err = io.ReadFull(nc, b)
	return b, h.OpCode, err
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
