package session_test

import (
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// TestExpiredDoNotOverflow: what has expired while it waited for a client that
// acknowledges nothing makes room [MQTT-3.3.2-5]; what lives overflows.
func TestExpiredDoNotOverflow(t *testing.T) {
	cfg := *benchConfig()
	cfg.QueueMessages = 10
	c := connect(packet.V5)
	c.ReceiveMaximum = 1
	s := online(t, &cfg, c, nil)
	now := epoch
	deliver := func(seconds uint32) []session.Action {
		m := &session.Message{Received: now, Publish: packet.Publish{Topic: []byte("t"), Payload: []byte("x"), QoS: packet.QoS1}}
		if seconds > 0 {
			m.MessageExpiryInterval = packet.Some(seconds)
		}
		return s.Step(session.Input{Kind: session.Deliver, Message: m, QoS: packet.QoS1}, instant(now), nil)
	}
	deliver(0) // fills the window
	for range 100 {
		deliver(5)
		now = now.Add(time.Second)
		if s.Ended() {
			t.Fatal("the queue has overflowed with five messages that live")
		}
	}
	for range 11 {
		deliver(0)
	}
	if !s.Ended() {
		t.Error("the queue does not overflow")
	}
}
