package hostile

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// At the limit of file descriptors, with clients that take every connection they
// can get, the store keeps what it needs: a publish for a stored session is
// acknowledged, nothing ends, and the log says once that accepting is bounded.
func TestTheStoreHasDescriptorsThatSocketsCannotTake(t *testing.T) {
	const limit = 512
	p := servertest.StartProcessUnder(t, limit, filepath.Join(t.TempDir(), "data"),
		"--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0", "--mqtts", "", "--https", "")
	defer p.Kill()
	target := servertest.Target(p.Info, "tcp")
	dial := func(id string) *peer.Conn {
		t.Helper()
		const expiry = 3600
		connect := packet.Connect{ClientID: id, CleanStart: false}
		connect.SessionExpiryInterval = expiry
		c, _, err := peer.Dial(t.Context(), target, packet.V5, nil, connect)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const sleepers = 4
	for n := range sleepers {
		sub := dial(fmt.Sprintf("sleeper-%d", n))
		filter := fmt.Sprintf("t/%d", n)
		if err := sub.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: filter, QoS: 1}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := sub.Receive(time.Now().Add(servertest.Patience)); err != nil {
			t.Fatal(err)
		}
		if err := sub.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	pub := dial("publisher")
	defer pub.Close()
	addr := p.Info.MQTT[0]
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // takes every connection there is
		defer close(done)
		var held []net.Conn
		for n := 0; ; n++ {
			select {
			case <-stop:
				for _, c := range held {
					c.Close()
				}
				return
			default:
			}
			if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
				held = append(held, c)
			}
			if len(held) > 3*limit {
				held[0].Close()
				held = held[1:]
			}
		}
	}()
	payload := make([]byte, 64<<10)
	for n := range 400 { // 25 MB: several tables and logs
		if err := pub.Send(&packet.Publish{Topic: fmt.Appendf(nil, "t/%d", n%sleepers), QoS: 1, PacketID: uint16(n%60000 + 1), Payload: payload}); err != nil {
			t.Fatalf("publish %d: %v", n, err)
		}
		if _, err := pub.Receive(time.Now().Add(servertest.Patience)); err != nil {
			t.Fatalf("publish %d is not acknowledged: %v", n, err)
		}
	}
	close(stop)
	<-done
	if err := p.Stop(t.Context()); err != nil {
		t.Errorf("it ended with %v\n%s", err, p.Output())
	}
	out := p.Output()
	if n := strings.Count(out, "accepting pauses"); n > 1 {
		t.Errorf("that accepting pauses is logged %d times", n)
	}
	if !strings.Contains(out, "file descriptors, ") || !strings.Contains(out, "connections") {
		t.Errorf("the start-up block does not say what the limit means:\n%s", out)
	}
}
