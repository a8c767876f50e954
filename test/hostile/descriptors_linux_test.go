package hostile

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// At the limit of file descriptors, with a fleet that has every connection it
// can get and clients that come and go, the store keeps what it needs: messages
// for stored sessions are acknowledged and come out again, nothing ends, and the
// log says once that accepting is bounded.
func TestTheStoreHasDescriptorsThatSocketsCannotTake(t *testing.T) {
	const limit = 512
	p := servertest.StartProcessUnder(t, limit, filepath.Join(t.TempDir(), "data"),
		"--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0", "--mqtts", "", "--https", "")
	defer p.Kill()
	target := servertest.Target(p.Info, "tcp")
	dial := func(id string) *peer.Conn {
		t.Helper()
		const expiry = 3600
		connect := packet.Connect{ClientID: id, CleanStart: false, ReceiveMaximum: 10}
		connect.SessionExpiryInterval = expiry
		c, _, err := peer.Dial(t.Context(), target, packet.V5, nil, connect)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const sleepers = 8
	for n := range sleepers {
		sub := dial(fmt.Sprintf("sleeper-%d", n))
		filter := fmt.Sprintf("t/%d", n)
		subscribe(t, sub, filter, 1)
		if err := sub.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	pub, reader := dial("publisher"), dial("reader") // which reads once all has been published
	defer pub.Close()
	defer reader.Close()
	subscribe(t, reader, "t/0", 1)
	addr := p.Info.MQTT[0]
	for n := range 2 * limit { // the fleet: it is let in, and stays
		c, err := net.DialTimeout("tcp", addr, servertest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(connect(t, packet.V5, fmt.Sprintf("fleet-%d", n))); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Fatal(err) // but not if there are as many as there may be
		}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // those that come and go: they take every descriptor that gets free
		defer close(done)
		var held []net.Conn
		defer func() {
			for _, c := range held {
				c.Close()
			}
		}()
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-stop:
				return
			case <-pace.C:
			}
			if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
				held = append(held, c)
			}
			if len(held) > limit {
				held[0].Close()
				held = held[1:]
			}
		}
	}()
	payload := make([]byte, 64<<10)
	const messages = 800 // 52 MB: more tables and logs than the store has memory for
	for n := range messages {
		if err := pub.Send(&packet.Publish{Topic: fmt.Appendf(nil, "t/%d", n%sleepers), QoS: 1, PacketID: uint16(n%60000 + 1), Payload: payload}); err != nil {
			t.Fatalf("publish %d: %v", n, err)
		}
		if _, err := pub.Receive(time.Now().Add(servertest.Patience)); err != nil {
			t.Fatalf("publish %d is not acknowledged: %v", n, err)
		}
	}
	for n := range messages / sleepers {
		if m, ok := next(t, reader).(*packet.Publish); !ok || respond(t, reader, m) == nil {
			t.Fatalf("message %d is %T", n, m)
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
