package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/audit"
	"rollcall/internal/clock/clocktest"
	"rollcall/internal/config"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// A whole server whose wall clock is set, an hour and ten years, forth and back:
// nobody is cut, what was stored stays, what is to be delivered is delivered,
// and a client that is silent is found in time, with evidence that is true.
func TestWallClockThatIsSet(t *testing.T) {
	moved := new(clocktest.Moved)
	w := servertest.StartAt(t, moved, func(c *config.Config) {
		c.Delivery.Schedule, c.Delivery.BusyFloor = []time.Duration{time.Second}, time.Second
	})
	rc := servertest.NewReceiver(t)
	var down atomic.Bool
	rc.Answer(func(*http.Request, []byte) int {
		if down.Load() {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	w.Subscribe("hook", rc.URL, nil)

	var devices []*peer.Conn
	for i, transport := range []string{"tcp", "tls", "ws", "wss"} {
		c, _ := w.DialWith(transport, packet.V5, packet.Connect{ClientID: fmt.Sprint("device-", i), CleanStart: true, KeepAlive: 60, SessionExpiryInterval: 600})
		devices = append(devices, c)
	}
	away, _ := w.DialWith("tcp", packet.V5, packet.Connect{ClientID: "away", CleanStart: true, SessionExpiryInterval: 600})
	if err := away.Disconnect(); err != nil {
		t.Fatal(err)
	}
	rc.Wait(t, func(ds []audit.Delivery) bool { return len(ds) >= 6 })

	const tenYears = 10 * 365 * 24 * time.Hour
	for n, jump := range []time.Duration{time.Hour, -time.Hour, -time.Hour, time.Hour, tenYears, -tenYears} {
		moved.SetWall(jump)
		down.Store(jump == tenYears) // what comes meanwhile waits for its next attempt
		name := fmt.Sprint("silent-", n)
		silent, _ := w.DialWith("tcp", packet.V5, packet.Connect{ClientID: name, CleanStart: true, KeepAlive: 1})
		if p, err := silent.Receive(time.Now().Add(servertest.Patience)); err != nil || p.Type() != packet.DISCONNECT {
			t.Fatalf("after %v the silent client got %v, %v", jump, p, err)
		}
		var h struct {
			Value []struct {
				Kind     string
				Evidence struct{ Detail string }
			}
		}
		for end := time.Now().Add(servertest.Patience); len(h.Value) < 2 && time.Now().Before(end); { // it is stored behind the good-bye
			if err := json.Unmarshal(w.Must(http.MethodGet, "/rollcall/v1/sessions/"+name+"/history", nil), &h); err != nil {
				t.Fatal(err)
			}
		}
		if len(h.Value) != 2 || !strings.Contains(h.Value[0].Evidence.Detail, "no packet for 1.5s") {
			t.Errorf("after %v the history of the silent client is %+v", jump, h.Value)
		}
		for i, c := range devices {
			if err := c.Send(&packet.Pingreq{}); err != nil {
				t.Fatalf("after %v device %d: %v", jump, i, err)
			}
			if p, err := c.Receive(time.Now().Add(servertest.Patience)); err != nil || p.Type() != packet.PINGRESP {
				t.Fatalf("after %v device %d got %v, %v", jump, i, p, err)
			}
		}
	}
	back, ack := w.DialWith("tcp", packet.V5, packet.Connect{ClientID: "away", SessionExpiryInterval: 600})
	if !ack.SessionPresent {
		t.Error("a session that was away has expired")
	}
	back.Close()
	down.Store(false)
	for n := range 6 {
		rc.Ended(t, fmt.Sprint("silent-", n), 1)
	}
	metrics := string(w.Must(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "rollcall_delivery_dropped") && !strings.HasSuffix(strings.TrimSpace(line), " 0") {
			t.Errorf("events were given up: %s", line)
		}
	}
}
