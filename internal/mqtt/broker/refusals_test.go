package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"rollcall/internal/clock/clocktest"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// Whoever is not let in leaves a trace that says who it was, and why: one sample
// of a counter, one line of the log, and an entry of the list.
func TestEveryRefusalLeavesATrace(t *testing.T) {
	var log bytes.Buffer
	hand := clocktest.NewHand(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	s := start(t, settings{broker: broker.Options{Clock: hand, Log: slog.New(slog.NewTextHandler(&log, nil))}, keeps: true,
		session: func(c *session.Config) { c.MaxClientID = 20 }})
	s.gate.set(func(_ context.Context, c broker.Credentials) (broker.Identity, error) {
		if c.UserName == "mallory" {
			return broker.Identity{}, &broker.Refusal{Code: packet.BadUserNameOrPassword, Reason: "password", Text: "no client mallory with that password"}
		}
		return broker.Identity{AuthenticationName: c.UserName, Method: "anonymous"}, nil
	})
	owner := s.open("tcp", packet.V5)
	send(t, owner, &packet.Connect{ClientID: "mine", UserName: packet.Some("owner"), SessionExpiryInterval: 100})
	receive[*packet.Connack](t, owner)
	owner.Disconnect()

	for _, c := range []struct {
		reason string
		first  packet.Packet
		raw    string
		wait   time.Duration
		want   broker.Refused
	}{
		{reason: "password", first: &packet.Connect{ClientID: "a", UserName: packet.Some("mallory"), Password: []byte("x")},
			want: broker.Refused{ClientID: "a", UserName: "mallory", Code: packet.BadUserNameOrPassword, HasCode: true}},
		{reason: "owned", first: &packet.Connect{ClientID: "mine", UserName: packet.Some("other")},
			want: broker.Refused{ClientID: "mine", UserName: "other", Code: packet.NotAuthorized, HasCode: true}},
		{reason: "not_supported", first: &packet.Connect{ClientID: "will", UserName: packet.Some("u"), Will: &packet.Will{Topic: []byte("$SYS/x")}},
			want: broker.Refused{ClientID: "will", UserName: "u", Code: packet.NotAuthorized, HasCode: true}},
		{reason: "not_supported", first: &packet.Connect{ClientID: strings.Repeat("x", 30)},
			want: broker.Refused{ClientID: strings.Repeat("x", 30), Code: packet.ClientIdentifierNotValid, HasCode: true}},
		{reason: "not_connect", first: &packet.Pingreq{}},
		{reason: "malformed", raw: "GET / HTTP/1.1\r\n\r\n"},
		{reason: "connect_timeout", wait: time.Minute},
	} {
		before := s.metric("rollcall_mqtt_refusals_total", c.reason)
		conn := s.open("tcp", packet.V5)
		switch {
		case c.first != nil:
			send(t, conn, c.first)
		case c.raw != "":
			if err := conn.Write([]byte(c.raw)); err != nil {
				t.Fatal(err)
			}
		}
		if !eventually(func() bool {
			hand.Advance(c.wait)
			return s.metric("rollcall_mqtt_refusals_total", c.reason) > before
		}) {
			t.Fatalf("%s is not counted", c.reason)
		}
		got := s.b.Refusals(1)[0]
		if got.Reason != c.reason || got.ClientID != c.want.ClientID || got.UserName != c.want.UserName || got.HasCode != c.want.HasCode ||
			got.HasCode && got.Code != c.want.Code || got.Text == "" || got.Remote == "" || got.Transport != "tcp" || got.Time.IsZero() {
			t.Errorf("%s: %+v", c.reason, got)
		}
		conn.Close()
	}
	if text := log.String(); strings.Count(text, "CONNECT refused") != 7 || !strings.Contains(text, "why=\"no client mallory with that password\"") {
		t.Errorf("the log says:\n%s", text)
	}
}

// A flood of refusals keeps the list and the log within their bounds.
func TestRefusalsAreBounded(t *testing.T) {
	var log bytes.Buffer
	hand := clocktest.NewHand(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	s := start(t, settings{broker: broker.Options{Clock: hand, Log: slog.New(slog.NewTextHandler(&log, nil))}})
	for i := range 2500 {
		s.b.Refuse(broker.Refused{ClientID: fmt.Sprint(i), Text: strings.Repeat("x", 10_000), Reason: "password"})
	}
	all := s.b.Refusals(5000)
	if len(all) != 1000 || all[0].ClientID != "2499" || all[999].ClientID != "1500" || len(all[0].Text) > 200 {
		t.Errorf("%d refusals from %s to %s", len(all), all[0].ClientID, all[len(all)-1].ClientID)
	}
	if n := strings.Count(log.String(), "\n"); n != 20 {
		t.Errorf("%d lines are logged at once, want 20", n)
	}
	hand.Advance(time.Second)
	s.b.Refuse(broker.Refused{Reason: "password"})
	if !strings.Contains(log.String(), "notLogged=2480") {
		t.Error("the log does not say how many refusals it does not show")
	}
}

// Refusals of one kind, or of one network, do not push out those of others.
func TestAFloodOfRefusalsLeavesThoseOfOthers(t *testing.T) {
	s := start(t, settings{})
	refuse := func(id, reason, remote string) {
		s.b.Refuse(broker.Refused{ClientID: id, Reason: reason, Remote: remote, Text: "x"})
	}
	refuse("alone in its reason", "disabled", "192.0.2.1:1")
	refuse("alone in its network", "password", "192.0.2.1:1")
	for i := range 3000 {
		refuse("scanner", "not_connect", fmt.Sprintf("198.51.100.%d:1", i%250))
		refuse("guesser", "password", fmt.Sprintf("203.0.113.7:%d", i+1))
		refuse("guesser", "password", fmt.Sprintf("[2001:db8::%x]:1", i+1)) // one /64
	}
	all := s.b.Refusals(5000)
	seen := map[string]int{}
	for _, x := range all {
		seen[x.ClientID]++
	}
	if len(all) != 1000 || seen["alone in its reason"] != 1 || seen["alone in its network"] != 1 || seen["scanner"] == 0 || seen["guesser"] == 0 {
		t.Errorf("%d refusals: %v", len(all), seen)
	}
	if all[0].ClientID != "guesser" || all[999].ClientID != "alone in its reason" {
		t.Errorf("they are listed from %q to %q", all[0].ClientID, all[999].ClientID)
	}
	if got := s.b.Refusals(-1); len(got) != 0 {
		t.Errorf("%d where none were asked for", len(got))
	}
}

// What strangers hold is bounded for each, and for all of them.
func TestStrangersHoldLittle(t *testing.T) {
	for _, transport := range []string{"tcp", "tls", "ws"} {
		t.Run(transport, func(t *testing.T) {
			s := start(t, settings{broker: broker.Options{UnadmittedBytes: 1 << 20}})
			// A CONNECT of 1,000,000 bytes that never ends, 960,000 of which come.
			part := append([]byte{0x10, 0xc0, 0x84, 0x3d}, "\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a"...)
			part = append(part, make([]byte, 960_000)...)
			big := s.open(transport, packet.V5)
			_ = big.Write(part) // it fails when the server has closed
			if _, err := big.Receive(time.Now().Add(patience)); err == nil {
				t.Error("an endless CONNECT is answered")
			}
			if !eventually(func() bool { return s.metric("rollcall_mqtt_refusals_total", "memory") == 1 }) {
				t.Error("it is not refused for what it holds")
			}
			// Many that hold 60 kB each: no more than there is room for.
			for range 40 {
				c := s.open(transport, packet.V5)
				_ = c.Write(part[:60_000])
			}
			if !eventually(func() bool { return s.metric("rollcall_mqtt_refusals_total", "memory") >= 10 }) {
				t.Errorf("%v were refused", s.metric("rollcall_mqtt_refusals_total", "memory"))
			}
			// Who comes whole is let in all the same.
			s.dial(transport, packet.V5, packet.Connect{ClientID: "honest"})
		})
	}
}

// What clients have sent behind a CONNECT that is being judged counts beside the
// CONNECT, in whichever order the two are noted.
func TestBytesBehindConnectCount(t *testing.T) {
	for name, sizes := range map[string][2]int{"small CONNECT": {10, 60_000}, "large CONNECT": {60_000, 10}} {
		t.Run(name, func(t *testing.T) {
			s := start(t, settings{broker: broker.Options{UnadmittedBytes: 1 << 20}})
			release := make(chan struct{})
			s.gate.slow = true
			s.gate.set(func(context.Context, broker.Credentials) (broker.Identity, error) {
				<-release
				return broker.Identity{}, &broker.Refusal{Code: packet.NotAuthorized, Text: "no"}
			})
			for i := range 40 {
				c := s.open("tcp", packet.V5)
				will := &packet.Will{Topic: []byte("w"), Payload: make([]byte, sizes[0])}
				connect := encode(t, packet.V5, &packet.Connect{Version: packet.V5, ClientID: fmt.Sprint("c", i), Will: will})
				// Of a PUBLISH of 1,000,000 bytes.
				part := append([]byte{0x30, 0xc0, 0x84, 0x3d, 0, 1, 't', 0}, make([]byte, sizes[1])...)
				_ = c.Write(append(connect, part...)) // it fails when the server has closed
			}
			least, most := 8.0, 30.0 // how much is read behind a CONNECT depends on how it arrives
			if os.Getenv("ROLLCALL_TEST_DRIVER") == "goroutines" && sizes[1] > sizes[0] {
				least, most = 0, 0 // the reader waits for the answer, and what follows stays with the system
			}
			refused := eventuallyWithin(5*time.Second, func() bool { return s.metric("rollcall_mqtt_refusals_total", "memory") >= least })
			if n := s.metric("rollcall_mqtt_refusals_total", "memory"); !refused || n > most {
				t.Errorf("%v of 40 that hold 60 kB each were refused, of a budget of 1 MiB", n)
			}
			close(release)
			if !eventually(func() bool { return s.b.Connections() == 0 }) {
				t.Fatal("clients that were refused are connected")
			}
			if n := s.b.LentToStrangers(); n != 0 {
				t.Errorf("%d bytes are lent when everybody has gone", n)
			}
		})
	}
}
