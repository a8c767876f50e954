package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// reluctant are settings under which a subscriber is soon too slow.
const reluctant = `
mqtt: {connectTimeout: 2s, loops: %d, outputBytes: 65536, maxInflight: 50, queueMessages: 4000, queueBytes: 4194304, fullQueue: endSession}
storage: {lowWater: 67108864, reserve: 16777216}
log: {level: error}
`

// overDrivers runs f against servers with event loops and without.
func overDrivers(t *testing.T, f func(t *testing.T, p *servertest.Process)) {
	for _, d := range []struct {
		name  string
		loops int
	}{{"loops", 0}, {"goroutines", -1}} {
		t.Run(d.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "rollcall.yaml")
			if err := os.WriteFile(file, fmt.Appendf(nil, reluctant, d.loops), 0o600); err != nil {
				t.Fatal(err)
			}
			p := servertest.StartProcessFirst(t, filepath.Join(dir, "data"), "--config", file,
				"--mqtt", "127.0.0.1:0", "--mqtts", "127.0.0.1:0", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0")
			t.Cleanup(func() { p.Kill() })
			by := newBystander(t, p.Info)
			defer by.end(t)
			f(t, p)
		})
	}
}

// client connects with MQTT 5. A subscriber's system takes no more bytes from
// the server than it must before they are read.
func client(t *testing.T, i app.ReadyInfo, p packet.Connect) (*peer.Conn, *packet.Connack) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	if p.ReceiveMaximum == 0 {
		p.ReceiveMaximum = 65535
	}
	c, err := peer.Open(ctx, servertest.Target(i, "tcp"), packet.V5, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Net().(*net.TCPConn).SetReadBuffer(256 << 10); err != nil {
		t.Fatal(err)
	}
	ack, err := c.Connect(ctx, &p)
	if err != nil || ack.ReasonCode.Failed() {
		t.Fatalf("%s: %v %+v", p.ClientID, err, ack)
	}
	return c, ack
}

func next(t *testing.T, c *peer.Conn) packet.Packet {
	t.Helper()
	p, err := c.Receive(time.Now().Add(servertest.Patience))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func subscribe(t *testing.T, c *peer.Conn, filter string, qos packet.QoS) {
	t.Helper()
	if err := c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: filter, QoS: qos}}}); err != nil {
		t.Fatal(err)
	}
	if a, ok := next(t, c).(*packet.Suback); !ok || a.ReasonCodes[0] != packet.ReasonCode(qos) {
		t.Fatalf("subscribe %s: %+v", filter, a)
	}
}

// flood publishes numbered messages, 100 at a time, and returns what their
// acknowledgements said.
func flood(t *testing.T, c *peer.Conn, topic string, qos packet.QoS, from, n, size int) map[packet.ReasonCode]int {
	t.Helper()
	const window = 100
	codes := map[packet.ReasonCode]int{}
	take := func() {
		switch a := next(t, c).(type) {
		case *packet.Puback:
			codes[a.ReasonCode]++
		case *packet.Pubrec:
			codes[a.ReasonCode]++
			if err := c.Send(&packet.Pubrel{PacketID: a.PacketID}); err != nil {
				t.Fatal(err)
			}
			if p, ok := next(t, c).(*packet.Pubcomp); !ok {
				t.Fatalf("%v instead of PUBCOMP", p)
			}
		default:
			t.Fatalf("%T while publishing", a)
		}
	}
	flying := 0
	step := window
	if qos == packet.QoS2 {
		step = 1 // take expects PUBCOMP next
	}
	for k := range n {
		p := packet.Publish{Topic: []byte(topic), QoS: qos, Payload: append(fmt.Appendf(nil, "%d ", from+k), bytes.Repeat([]byte("x"), size)...)}
		if qos > packet.QoS0 {
			p.PacketID = uint16(k%60000 + 1)
			if flying++; flying > step {
				flying--
				take()
			}
		}
		if err := c.Send(&p); err != nil {
			t.Fatal(err)
		}
	}
	for ; flying > 0; flying-- {
		take()
	}
	return codes
}

// numbered is the number of a message of flood's.
func numbered(t *testing.T, p *packet.Publish) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(string(p.Payload[:min(len(p.Payload), 12)]), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// respond acknowledges a message, or a step of it, and returns the message if
// it is new.
func respond(t *testing.T, c *peer.Conn, p packet.Packet) *packet.Publish {
	t.Helper()
	var err error
	switch p := p.(type) {
	case *packet.Publish:
		switch p.QoS {
		case packet.QoS1:
			err = c.Send(&packet.Puback{PacketID: p.PacketID})
		case packet.QoS2:
			err = c.Send(&packet.Pubrec{PacketID: p.PacketID})
		}
		if err != nil {
			t.Fatal(err)
		}
		return p
	case *packet.Pubrel:
		if err = c.Send(&packet.Pubcomp{PacketID: p.PacketID}); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatalf("%T instead of a message", p)
	}
	return nil
}

// lastDisconnect is what the ledger tells of a session's end.
func lastDisconnect(t *testing.T, i app.ReadyInfo, session string) (reason, detail string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var s struct {
			Connected      bool
			LastDisconnect *struct {
				Reason   string
				Evidence struct{ Detail string }
			}
		}
		status, text, err := servertest.Call(ctx, i, http.MethodGet, "/rollcall/v1/sessions/"+session, nil)
		if err != nil || status != http.StatusOK || json.Unmarshal(text, &s) != nil {
			t.Fatalf("session %s: %d %s %v", session, status, text, err)
		}
		if !s.Connected && s.LastDisconnect != nil {
			return s.LastDisconnect.Reason, s.LastDisconnect.Evidence.Detail
		}
		<-tick.C
	}
}

// TestSlowQoS0: what a subscriber that does not read misses is dropped and
// counted, memory stays bounded, and it gets what comes once it reads again.
func TestSlowQoS0(t *testing.T) {
	overDrivers(t, func(t *testing.T, p *servertest.Process) {
		slow, _ := client(t, p.Info, packet.Connect{ClientID: "slow", CleanStart: true})
		subscribe(t, slow, "flood", packet.QoS0)
		pub, _ := client(t, p.Info, packet.Connect{ClientID: "pub", CleanStart: true})
		before := memory(t, p.PID())
		const size, n = 16 << 10, 6000 // 94 MiB, more than systems buffer
		flood(t, pub, "flood", packet.QoS0, 0, n, size)
		flood(t, pub, "else", packet.QoS1, 0, 1, 1) // all of it has been handled
		grown := memory(t, p.PID()) - before
		if grown > 48<<20 {
			t.Errorf("a subscriber that does not read made the server %d MiB larger", grown>>20)
		}
		m, err := servertest.Metrics(t.Context(), p.Info)
		if err != nil {
			t.Fatal(err)
		}
		dropped := int(m[`rollcall_mqtt_messages_dropped_total{reason="congested"}`])
		if dropped == 0 {
			t.Fatal("nothing was dropped")
		}
		if err := slow.Send(&packet.Pingreq{}); err != nil {
			t.Fatal(err)
		}
		came, last := 0, -1
		for {
			got := next(t, slow)
			if got.Type() == packet.PINGRESP {
				break
			}
			k := numbered(t, got.(*packet.Publish))
			if k <= last {
				t.Fatalf("message %d after %d", k, last)
			}
			came, last = came+1, k
		}
		t.Logf("%d came, %d were dropped; the server grew by %d KiB", came, dropped, grown>>10)
		if came+dropped != n {
			t.Errorf("%d came and %d were counted as dropped, of %d", came, dropped, n)
		}
		flood(t, pub, "flood", packet.QoS0, n, 1, 1)
		if got, ok := next(t, slow).(*packet.Publish); !ok || numbered(t, got) != n {
			t.Errorf("after it has read again: %+v", got)
		}
	})
}

// TestSlowStored: messages to a stored session wait on disk while its client
// does not read; a healthy one gets them meanwhile; they come once it reads.
func TestSlowStored(t *testing.T) {
	overDrivers(t, func(t *testing.T, p *servertest.Process) {
		const n, size = 1500, 1 << 10
		slow, _ := client(t, p.Info, packet.Connect{ClientID: "slow", SessionExpiryInterval: 0xFFFFFFFF})
		subscribe(t, slow, "flood/#", packet.QoS2)
		healthy, _ := client(t, p.Info, packet.Connect{ClientID: "healthy", SessionExpiryInterval: 0xFFFFFFFF})
		subscribe(t, healthy, "flood/#", packet.QoS1)
		got := make(chan struct{})
		go func() { // until the server has sent all, or is killed
			defer close(got)
			for k := 0; k < 2*n; k++ {
				m, err := healthy.Receive(time.Now().Add(servertest.Patience))
				if err == nil {
					err = healthy.Send(&packet.Puback{PacketID: m.(*packet.Publish).PacketID})
				}
				if err != nil {
					t.Errorf("the healthy subscriber, after %d messages: %v", k, err)
					return
				}
			}
		}()
		pub, _ := client(t, p.Info, packet.Connect{ClientID: "pub", CleanStart: true})
		before := memory(t, p.PID())
		for q := packet.QoS1; q <= packet.QoS2; q++ {
			if codes := flood(t, pub, fmt.Sprintf("flood/%d", q), q, 0, n, size); codes[packet.Success] != n {
				t.Fatalf("QoS %d: %v", q, codes)
			}
		}
		select {
		case <-got:
		case <-time.After(servertest.Patience):
			t.Fatal("the healthy subscriber does not get what the slow one does not take")
		}
		grown := memory(t, p.PID()) - before
		t.Logf("%d messages of %d bytes wait; the server grew by %d KiB", 2*n, size, grown>>10)
		if grown > 48<<20 {
			t.Errorf("they made the server %d MiB larger", grown>>20)
		}
		newest := map[string]int{"flood/1": -1, "flood/2": -1}
		for k := 0; k < 2*n; {
			m := respond(t, slow, next(t, slow))
			if m == nil {
				continue
			}
			if got := numbered(t, m); got != newest[string(m.Topic)]+1 {
				t.Fatalf("%s: message %d after %d", m.Topic, got, newest[string(m.Topic)])
			}
			newest[string(m.Topic)]++
			k++
		}
	})
}

// TestOverflowClean: the queue of a session that ends with its connection
// overflows (P7): DISCONNECT 0x97, with evidence.
func TestOverflowClean(t *testing.T) {
	overDrivers(t, func(t *testing.T, p *servertest.Process) {
		slow, _ := client(t, p.Info, packet.Connect{ClientID: "slow", CleanStart: true})
		subscribe(t, slow, "flood", packet.QoS1)
		pub, _ := client(t, p.Info, packet.Connect{ClientID: "pub", CleanStart: true})
		if codes := flood(t, pub, "flood", packet.QoS1, 0, 4100, 10); codes[packet.Success]+codes[packet.NoMatchingSubscribers] != 4100 {
			t.Errorf("the publisher was told %v", codes)
		}
		overflown(t, p.Info, slow)
	})
}

// overflown reads until the server's DISCONNECT 0x97 and sees its evidence.
func overflown(t *testing.T, i app.ReadyInfo, c *peer.Conn) {
	t.Helper()
	for {
		got := next(t, c)
		if d, ok := got.(*packet.Disconnect); ok {
			if d.ReasonCode != packet.QuotaExceeded {
				t.Errorf("DISCONNECT %s", d.ReasonCode)
			}
			break
		}
	}
	reason, detail := lastDisconnect(t, i, "slow")
	t.Logf("%s: %s", reason, detail)
	if reason != "SessionOverflow" || !strings.Contains(detail, "4000 messages") {
		t.Errorf("the session ended with %s: %s", reason, detail)
	}
}

// TestOverflowStored: a stored session overflows, in messages and in bytes,
// with its client and without: it ends, and is gone.
func TestOverflowStored(t *testing.T) {
	overDrivers(t, func(t *testing.T, p *servertest.Process) {
		pub, _ := client(t, p.Info, packet.Connect{ClientID: "pub", CleanStart: true})
		sessions := 0.0
		for _, tc := range []struct {
			name    string
			n, size int
			online  bool
		}{
			{"messages online", 4100, 10, true}, {"messages offline", 4100, 10, false},
			{"bytes online", 300, 16 << 10, true}, {"bytes offline", 300, 16 << 10, false},
		} {
			t.Run(tc.name, func(t *testing.T) {
				slow, _ := client(t, p.Info, packet.Connect{ClientID: "slow", SessionExpiryInterval: 0xFFFFFFFF})
				subscribe(t, slow, "flood", packet.QoS1)
				if !tc.online {
					if err := slow.Disconnect(); err != nil {
						t.Fatal(err)
					}
					lastDisconnect(t, p.Info, "slow")
				}
				if codes := flood(t, pub, "flood", packet.QoS1, 0, tc.n, tc.size); codes[packet.Success]+codes[packet.NoMatchingSubscribers] != tc.n {
					t.Errorf("the publisher was told %v", codes)
				}
				if tc.online {
					overflown(t, p.Info, slow)
				}
				sessions++
				servertest.AwaitMetrics(t, p.Info, "the overflow is counted", func(m map[string]float64) bool {
					return m[`rollcall_mqtt_dropped_sessions_total{reason="SessionOverflow"}`] == sessions
				})
				again, ack := client(t, p.Info, packet.Connect{ClientID: "slow", SessionExpiryInterval: 0xFFFFFFFF})
				if ack.SessionPresent {
					t.Error("the session is still there")
				}
				// It has no subscription and no message.
				if codes := flood(t, pub, "flood", packet.QoS1, 0, 1, 1); codes[packet.Success]+codes[packet.NoMatchingSubscribers] != 1 {
					t.Errorf("the publisher was told %v", codes)
				}
				if err := again.Send(&packet.Pingreq{}); err != nil {
					t.Fatal(err)
				}
				if got := next(t, again); got.Type() != packet.PINGRESP {
					t.Errorf("the new session got %+v", got)
				}
			})
		}
	})
}
