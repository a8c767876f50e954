package hostile

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// fanSize is set to the number of subscribers, or filters, that a message goes
// to: 10000 is the full size.
const fanSize = "ROLLCALL_HOSTILE_FAN"

func fanTo(t *testing.T) int {
	t.Helper()
	text := os.Getenv(fanSize)
	if text == "" {
		return 500
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFans publishes small messages that match very much: each goes to as many
// connected clients, matches as many overlapping filters of one client, or as
// many share groups. Another connection of the same loop goes on.
func TestFans(t *testing.T) {
	n := fanTo(t)
	const messages = 300
	overlapping := func(i int) string { // matches a/b/c/…, each in its own way
		levels := []byte("a/b/c/d/e/f/g/h/i/j/k/l/m/n")
		for k := range 14 {
			if i>>k&1 != 0 {
				levels[2*k] = '+'
			}
		}
		return string(levels)
	}
	for _, tc := range []struct {
		name    string
		clients int
		filters int // of each
		filter  func(client, i int) string
	}{
		{"clients", min(n, 5000), 1, func(int, int) string { return "a/b/c/d/e/f/g/h/i/j/k/l/m/n" }},
		{"overlapping filters of one client", 1, n, func(_, i int) string { return overlapping(i) }},
		{"overlapping filters within the limit", max(1, n/250), 250, func(_, i int) string { return overlapping(i) }},
		{"share groups", max(1, n/250), 250, func(c, i int) string { return fmt.Sprintf("$share/%d-%d/a/#", c, i) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := startOn(t, 1)
			for i := range tc.clients {
				c, _ := client(t, p.Info, packet.Connect{ClientID: fmt.Sprint("s", i), CleanStart: true, KeepAlive: 600})
				subscribeAll(t, c, tc.filters, func(k int) string { return tc.filter(i, k) })
				go drain(c)
			}
			pub, _ := client(t, p.Info, packet.Connect{ClientID: "pub", CleanStart: true, KeepAlive: 600})
			by := newBystander(t, p.Info)
			began := time.Now()
			for i := range messages {
				if err := pub.Send(&packet.Publish{Topic: []byte("a/b/c/d/e/f/g/h/i/j/k/l/m/n"), Payload: []byte("x"), QoS: packet.QoS1, PacketID: uint16(i + 1)}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range messages {
				if ack, ok := next(t, pub).(*packet.Puback); !ok || int(ack.PacketID) != i+1 {
					t.Fatalf("PUBACK %d: %+v", i+1, ack)
				}
			}
			t.Logf("%d messages took %v", messages, time.Since(began))
			by.end(t)
		})
	}
}

// subscribeAll subscribes to n filters, a hundred at a time.
func subscribeAll(t *testing.T, c *peer.Conn, n int, filter func(int) string) {
	t.Helper()
	for i := 0; i < n; i += 100 {
		s := &packet.Subscribe{PacketID: 1}
		for k := i; k < min(n, i+100); k++ {
			s.Subscriptions = append(s.Subscriptions, packet.Subscription{Filter: filter(k), RetainHandling: 2})
		}
		if err := c.Send(s); err != nil {
			t.Fatal(err)
		}
		if _, ok := next(t, c).(*packet.Suback); !ok {
			t.Fatal("no SUBACK")
		}
	}
}

// drain reads and drops what comes until the connection ends.
func drain(c *peer.Conn) {
	for {
		if _, err := c.Receive(time.Now().Add(servertest.Patience)); err != nil {
			return
		}
	}
}

// startOn starts a server with so many event loops: with one, all connections
// are each other's neighbours.
func startOn(t *testing.T, loops int) *servertest.Process {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "rollcall.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "mqtt: {loops: %d}\nlog: {level: error}\n", loops), 0o600); err != nil {
		t.Fatal(err)
	}
	p := servertest.StartProcessFirst(t, filepath.Join(dir, "data"), "--config", file,
		"--mqtt", "127.0.0.1:0", "--mqtts", "", "--http", "127.0.0.1:0", "--https", "")
	t.Cleanup(func() { p.Kill() })
	return p
}
