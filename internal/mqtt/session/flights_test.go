package session_test

import (
	"math/rand/v2"
	"testing"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// TestPacketIDs sends far more messages than there are packet ids, which are
// acknowledged in no order, and one of them never.
func TestPacketIDs(t *testing.T) {
	cfg := benchConfig()
	cfg.MaxInflight = 40
	s := online(t, cfg, connect(packet.V5), nil)
	m := &session.Message{Publish: packet.Publish{QoS: 1, Topic: []byte("t")}}
	rnd := rand.New(rand.NewPCG(1, 2))
	var open []uint16
	used := map[uint16]bool{}
	for i := range 200_000 {
		acts := s.Step(session.Input{Kind: session.Deliver, Message: m, QoS: 1}, start, nil)
		if len(acts) != 1 || acts[0].Kind != session.SendMessage {
			t.Fatalf("message %d: %v", i, acts)
		}
		id := acts[0].PacketID
		if id == 0 || used[id] {
			t.Fatalf("message %d: packet id %d is in use", i, id)
		}
		used[id] = true
		if i > 0 { // the first is never acknowledged
			open = append(open, id)
		}
		for len(open) == 39 || len(open) > 0 && rnd.IntN(3) == 0 {
			k := rnd.IntN(len(open))
			s.Step(session.Input{Kind: session.Received, Packet: &packet.Puback{PacketID: open[k]}}, start, nil)
			delete(used, open[k])
			open = append(open[:k], open[k+1:]...)
		}
		if s.Room() != 40-len(used) {
			t.Fatalf("message %d: room %d with %d in flight", i, s.Room(), len(used))
		}
	}
}

// TestQueueOrder lets messages wait and acknowledges in random order: they are
// sent in order all the same.
func TestQueueOrder(t *testing.T) {
	cfg := benchConfig()
	cfg.MaxInflight, cfg.QueueMessages = 7, 1000
	s := online(t, cfg, connect(packet.V5), nil)
	rnd := rand.New(rand.NewPCG(3, 4))
	var open []uint16
	next, given := byte(0), byte(0)
	took := func(acts []session.Action) {
		for _, a := range acts {
			if a.Kind != session.SendMessage || a.Message.Payload[0] != next {
				t.Fatalf("%v, want message %d", show(a), next)
			}
			next++
			open = append(open, a.PacketID)
		}
	}
	for range 5000 {
		if rnd.IntN(2) == 0 && given-next < 200 {
			m := &session.Message{Publish: packet.Publish{QoS: 1, Topic: []byte("t"), Payload: []byte{given}}}
			given++
			took(s.Step(session.Input{Kind: session.Deliver, Message: m, QoS: 1, Congested: rnd.IntN(4) == 0}, start, nil))
			continue
		}
		if len(open) == 0 {
			took(s.Step(session.Input{Kind: session.Drain}, start, nil))
			continue
		}
		k := rnd.IntN(len(open))
		id := open[k]
		open = append(open[:k], open[k+1:]...)
		took(s.Step(session.Input{Kind: session.Received, Packet: &packet.Puback{PacketID: id}, Congested: rnd.IntN(4) == 0}, start, nil))
		if len(open) > 7 {
			t.Fatalf("%d in flight", len(open))
		}
	}
}

// TestManySubscriptions goes beyond what a list holds and back.
func TestManySubscriptions(t *testing.T) {
	s := online(t, benchConfig(), connect(packet.V5), nil)
	filter := func(i int) string { return string([]byte{'f', byte('a' + i%26), byte('a' + i/26)}) }
	for i := range 100 {
		acts := s.Step(session.Input{Kind: session.Received, Packet: &packet.Subscribe{PacketID: 1,
			Subscriptions: []packet.Subscription{{Filter: filter(i), QoS: 1}, {Filter: filter(i / 2)}}}}, start, nil)
		r := acts[0].Request
		if r.Existed[0] || !r.Existed[1] && i > 0 {
			t.Fatalf("%d: existed %v", i, r.Existed)
		}
		s.Step(session.Input{Kind: session.Committed, Token: acts[0].Token}, start, nil)
	}
	if got := s.State().Subscriptions; len(got) != 100 {
		t.Fatalf("%d subscriptions", len(got))
	}
	if s.Revoke("nothing") || !s.Revoke(filter(99)) {
		t.Error("revoked what was not there, or not what was")
	}
	for i := range 99 {
		acts := s.Step(session.Input{Kind: session.Received, Packet: &packet.Unsubscribe{PacketID: 1, Filters: []string{filter(i)}}}, start, nil)
		if code := acts[0].Request.Codes[0]; code != packet.Success {
			t.Fatalf("%d: %s", i, code)
		}
		s.Step(session.Input{Kind: session.Committed, Token: acts[0].Token}, start, nil)
	}
	if got := s.State().Subscriptions; len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// TestOwedIsBounded floods a session whose first acknowledgement never comes.
func TestOwedIsBounded(t *testing.T) {
	s := online(t, benchConfig(), connect(packet.V5), nil)
	s.Step(session.Input{Kind: session.Received, Packet: &packet.Publish{QoS: 1, PacketID: 1, Topic: []byte("t")}}, start, nil)
	rel := &packet.Pubrel{PacketID: 9}
	for i := 1; i < 65535; i++ {
		if acts := s.Step(session.Input{Kind: session.Received, Packet: rel}, start, nil); len(acts) != 0 {
			t.Fatalf("%d: %v", i, show(acts[0]))
		}
	}
	if s.Owed() != 65535 {
		t.Fatalf("%d owed", s.Owed())
	}
	acts := s.Step(session.Input{Kind: session.Received, Packet: rel}, start, nil)
	if !s.Ended() || len(acts) == 0 || acts[0].Packet.(*packet.Disconnect).ReasonCode != packet.QuotaExceeded {
		t.Errorf("%v", acts)
	}
}
