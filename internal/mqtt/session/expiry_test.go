package session_test

import (
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// TestExpiryNeverGrows: a turn that began before a message was received, by the
// clock, does not give it more time than it came with [MQTT-3.3.2-6].
func TestExpiryNeverGrows(t *testing.T) {
	s := online(t, benchConfig(), connect(packet.V5), nil)
	m := &session.Message{Received: epoch.Add(time.Millisecond), Publish: packet.Publish{Topic: []byte("t"), MessageExpiryInterval: packet.Some[uint32](1)}}
	acts := s.Step(session.Input{Kind: session.Deliver, Message: m}, start, nil)
	if len(acts) != 1 || acts[0].Kind != session.SendMessage || acts[0].Expiry != 1 {
		t.Fatalf("%v", acts)
	}
}
