package conformance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// patience bounds every wait for bytes.
const patience = servertest.Patience / 3

// table is where one conversation takes place.
type table struct {
	t      *testing.T
	d      *driver
	v      string
	unique string
	names  names
	at     int // line of the step
	seats  map[string]*client
	order  []*client
	made   int
}

// client is one connection of a conversation.
type client struct {
	tb     *table
	name   string
	conn   *peer.Conn
	nc     net.Conn
	in     []byte
	met    bool // CONNACK has accepted it
	over   bool
	active time.Time // when it began to send what it last sent
}

func (tb *table) failf(format string, a ...any) {
	tb.t.Helper()
	tb.t.Fatalf("line %d: %s", tb.at, fmt.Sprintf(format, a...))
}

// play takes all steps.
func (tb *table) play(k *talk) {
	defer tb.leave()
	if k.run != nil {
		k.run(tb)
	}
	for _, s := range k.steps {
		tb.at = s.line
		tb.step(s.text)
	}
	for _, c := range tb.order {
		if c.met && !c.over {
			c.ping()
		}
	}
}

func (tb *table) leave() {
	for _, c := range tb.order {
		if c.conn != nil {
			c.conn.Close()
		}
	}
}

// step is one line: of a client, or of the whole table.
func (tb *table) step(line string) {
	tb.t.Helper()
	first, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch first {
	case "elapse": // so many seconds pass, as the server sees it
		tb.elapse(rest)
		return
	case "differ": // all named choices differ
		tb.differ(strings.Fields(rest))
		return
	case "bad5", "bad4", "badconnect5", "badconnect4", "drop":
		tb.judge(first, rest)
		return
	}
	c := tb.seat(first)
	op, rest, _ := strings.Cut(rest, " ")
	c.do(op, strings.TrimSpace(rest))
}

// judge has a client of its own:
//
//	bad5 CODE > …         is connected, sends, gets DISCONNECT with the code and is closed
//	bad4 > …              the same in 3.1.1, where nothing is sent before the close
//	badconnect5 CODE > …  sends, gets CONNACK with the code and is closed
//	badconnect4 CODE > …
//	drop > …              sends, and is closed without an answer
func (tb *table) judge(kind, rest string) {
	tb.t.Helper()
	code, packet, ok := strings.Cut(rest, ">")
	if !ok {
		tb.failf("no packet")
	}
	code = strings.TrimSpace(code)
	tb.made++
	c := tb.seat(fmt.Sprintf("z%d", tb.made))
	switch kind {
	case "bad5":
		c.do("connect5", "")
	case "bad4":
		c.do("connect4", "")
	}
	c.do(">", packet)
	switch kind {
	case "bad5":
		c.do("bye", code)
	case "badconnect5":
		c.do("<", "20 [ 00 "+code+" {} ]")
		c.do("closed", "")
	case "badconnect4":
		c.do("<", "20 02 00 "+code)
		c.do("closed", "")
	case "bad4", "drop":
		c.do("closed", "")
	}
}

func (tb *table) seat(name string) *client {
	c := tb.seats[name]
	if c == nil {
		c = &client{tb: tb, name: name}
		tb.seats[name] = c
		tb.order = append(tb.order, c)
	}
	return c
}

func (c *client) open() {
	if c.conn != nil {
		return
	}
	conn, err := c.tb.d.open(c.tb.t)
	if err != nil {
		c.tb.failf("%s: %v", c.name, err)
	}
	c.conn, c.nc = conn, conn.Net()
}

// do takes one step of a client:
//
//	> …          sends
//	drip …       sends byte by byte
//	< …          gets exactly this packet
//	connect5 [FLAGS] [{PROPERTIES}] [more payload]   connects and is accepted without a session; keep=003C and id="…" may go first
//	resume5 …    is accepted with a session
//	connect4, resume4 the same in 3.1.1
//	subscribe5 "f" 01 · unsubscribe5 "f"    and gets the answer
//	ping         sends PINGREQ, and PINGRESP is the next that comes
//	synced5, synced4   has been sent all retained messages that its subscriptions so far ask for
//	bye CODE [from to]  gets DISCONNECT with the code and nothing else, and is closed
//	closed [from to]    is closed without another byte; so many seconds after it last said something
//	close        closes the connection without DISCONNECT · reset: rudely
//	leave        sends DISCONNECT and closes
//	again        opens a new connection
func (c *client) do(op, rest string) {
	c.tb.t.Helper()
	if op == "again" {
		if c.conn != nil {
			c.conn.Close()
		}
		c.conn, c.in, c.over, c.met = nil, nil, false, false
		return
	}
	c.open()
	switch op {
	case ">":
		c.send(rest)
	case "drip":
		c.drip(rest)
	case "<":
		c.expect(rest)
	case "connect5", "resume5", "connect4", "resume4":
		c.connect(op, rest)
	case "subscribe5":
		option := rest[strings.LastIndexByte(rest, ' ')+1:]
		c.send("82 [ FFFE {} " + rest + " ]")
		c.expect("90 [ FFFE {} " + qosOf(option) + " ]")
	case "subscribe4":
		c.send("82 [ FFFE " + rest + " ]")
		c.expect("90 [ FFFE " + qosOf(rest[strings.LastIndexByte(rest, ' ')+1:]) + " ]")
	case "unsubscribe5":
		c.send("A2 [ FFFD {} " + rest + " ]")
		c.expect("B0 [ FFFD {} 00 ]")
	case "ping":
		c.ping()
	case "synced5", "synced4":
		c.synced(op == "synced5")
	case "bye":
		code, span, _ := strings.Cut(rest, " ")
		c.expect("E0 01 " + code)
		c.within(span, time.Since(c.active))
		c.closed("")
	case "closed":
		c.closed(rest)
	case "close":
		c.conn.Close()
		c.over = true
	case "reset":
		if err := c.conn.Abort(); err != nil {
			c.tb.failf("%v", err)
		}
		c.over = true
	case "leave":
		c.send("E0 00")
		c.closed("")
	default:
		c.tb.failf("unknown step %q", op)
	}
}

func qosOf(option string) string {
	n, err := strconv.ParseUint(option, 16, 8)
	if err != nil {
		return "80"
	}
	return fmt.Sprintf("%02X", n&3)
}

// connect sends CONNECT and expects to be accepted.
func (c *client) connect(op, rest string) {
	c.tb.t.Helper()
	keep, id, flags, props := "0000", `"`+c.name+`~"`, "02", "{}"
	present := "00"
	if strings.HasPrefix(op, "resume") {
		flags, present = "00", "01"
	}
	if after, ok := strings.CutPrefix(rest, "keep="); ok {
		keep, rest, _ = strings.Cut(after, " ")
	}
	if after, ok := strings.CutPrefix(rest, "id="); ok {
		id, rest, _ = strings.Cut(after, " ")
	}
	if len(rest) == 2 || len(rest) > 2 && rest[2] == ' ' {
		flags, rest = rest[:2], strings.TrimSpace(rest[2:])
	}
	five := strings.HasSuffix(op, "5")
	if five && strings.HasPrefix(rest, "{") {
		end := strings.IndexByte(rest, '}') + 1
		props, rest = rest[:end], rest[end:]
	}
	if five {
		c.send(`10 [ "MQTT" 05 ` + flags + " " + keep + " " + props + " " + id + " " + rest + " ]")
		c.expect("20 [ " + present + " 00 { $ACCEPT } ]")
	} else {
		c.send(`10 [ "MQTT" 04 ` + flags + " " + keep + " " + id + " " + rest + " ]")
		c.expect("20 02 " + present + " 00")
	}
	c.met = true
}

func (c *client) compile(text string) []node {
	c.tb.t.Helper()
	text = strings.NewReplacer("$ACCEPT", c.tb.d.accept, "$OTHER", c.tb.d.other).Replace(text)
	list, err := compile(text, c.tb.unique)
	if err != nil {
		c.tb.failf("%s: %v", c.name, err)
	}
	return list
}

func (c *client) bytes(text string) []byte {
	c.tb.t.Helper()
	b, err := c.tb.names.encode(nil, c.compile(text))
	if err != nil {
		c.tb.failf("%s: %v", c.name, err)
	}
	return b
}

// send writes the packets. That the server may have closed the connection
// shows in what is read.
func (c *client) send(text string) {
	c.tb.t.Helper()
	c.open()
	b := c.bytes(text)
	c.active = time.Now()
	_ = c.conn.Write(b)
}

func (c *client) drip(text string) {
	c.tb.t.Helper()
	all := c.bytes(text)
	c.active = time.Now()
	for _, b := range all {
		_ = c.conn.Write([]byte{b})
	}
}

func (c *client) expect(text string) {
	c.tb.t.Helper()
	c.expectAny(text)
}

// expectAny expects a packet that is one of the texts.
func (c *client) expectAny(texts ...string) {
	c.tb.t.Helper()
	got, err := c.frame()
	if err != nil {
		c.tb.failf("%s: waits for %s: %v (read so far: % X)", c.name, texts[0], err, c.in)
	}
	for _, text := range texts {
		if c.tb.names.match(c.compile(text), got) == nil {
			return
		}
	}
	c.tb.failf("%s:\n got % X %q\nwant %s", c.name, cut(got), cut(got), texts[0])
}

func cut(b []byte) []byte { return b[:min(len(b), 200)] }

// frame reads one packet.
func (c *client) frame() ([]byte, error) {
	_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	for {
		if n, size := varint(c.in[min(1, len(c.in)):]); size > 0 && len(c.in) >= 1+size+n {
			f := c.in[: 1+size+n : 1+size+n]
			c.in = c.in[1+size+n:]
			return f, nil
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

func (c *client) fill() error {
	buf := make([]byte, 4096)
	n, err := c.nc.Read(buf)
	c.in = append(c.in, buf[:n]...)
	if n > 0 {
		return nil
	}
	return err
}

func (c *client) ping() {
	c.tb.t.Helper()
	c.send("C0 00")
	c.expect("D0 00")
}

// closed expects the end of the stream.
func (c *client) closed(span string) {
	c.tb.t.Helper()
	_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	for len(c.in) == 0 {
		err := c.fill()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.tb.failf("%s: the server does not close the connection", c.name)
		}
		if err != nil {
			break
		}
	}
	if len(c.in) > 0 {
		c.tb.failf("%s: got % X instead of the end", c.name, cut(c.in))
	}
	c.over = true
	c.within(span, time.Since(c.active))
	c.conn.Close()
}
