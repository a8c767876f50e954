package session_test

import (
	"bytes"
	"sync"
	"testing"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// received gives a session a PUBLISH as it comes and returns the message that
// is routed.
func received(t *testing.T, s *session.Session, p *packet.Publish, scratch *session.Message) (m *session.Message, frame []byte) {
	t.Helper()
	frame, err := p.AppendTo(nil, s.Version())
	if err != nil {
		t.Fatal(err)
	}
	in := new(packet.Publish)
	if err := in.Decode(s.Version(), frame); err != nil {
		t.Fatal(err)
	}
	acts := s.Step(session.Input{Kind: session.Received, Packet: in, Frame: frame, Scratch: scratch}, start, nil)
	if len(acts) != 1 || acts[0].Kind != session.Route {
		t.Fatalf("%v", acts)
	}
	return acts[0].Message, frame
}

func TestBorrowedMessage(t *testing.T) {
	s := online(t, benchConfig(), connect(packet.V5), nil)
	var scratch session.Message
	p := &packet.Publish{QoS: 1, PacketID: 3, Topic: []byte("a/b"), Payload: []byte("payload"), ContentType: []byte("text"),
		UserProperties: []packet.UserProperty{{Name: []byte("k"), Value: []byte("v")}}}
	m, frame := received(t, s, p, &scratch)
	if m != &scratch || !m.Borrowed() || m.PacketID != 0 || m.From != "device-31415" {
		t.Fatalf("got %+v", m)
	}
	kept := m.Keep()
	if kept == m || kept.Borrowed() || m.Keep() != kept || kept.Keep() != kept {
		t.Fatal("a message is kept once")
	}
	want, err := m.Encoded(packet.V311, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	wire := want.AppendTo(nil, 0, false, 0)
	m.Reset()
	for i := range frame {
		frame[i] = 0xEE
	}
	got, err := kept.Encoded(packet.V311, 0, true)
	if err != nil || !bytes.Equal(got.AppendTo(nil, 0, false, 0), wire) {
		t.Errorf("kept % x, %v, want % x", got.AppendTo(nil, 0, false, 0), err, wire)
	}
	if again, _ := kept.Encoded(packet.V311, 0, true); again != got {
		t.Error("encoded twice")
	}
	if string(kept.Topic) != "a/b" || string(kept.UserProperties[0].Name) != "k" || kept.From != "device-31415" || !kept.Received.Equal(epoch) {
		t.Errorf("kept %+v", kept)
	}
	// The scratch knows nothing of the first message.
	m, _ = received(t, s, &packet.Publish{Topic: []byte("c")}, &scratch)
	if e, err := m.Encoded(packet.V311, 0, true); err != nil || e.Len() != 5 || m.Keep() == kept {
		t.Errorf("got %+v, %v", m, err)
	}
}

// TestFrameIsForwarded compares what is forwarded byte for byte with what is
// not.
func TestFrameIsForwarded(t *testing.T) {
	plain := packet.Publish{QoS: 1, PacketID: 3, Topic: []byte("a/b"), Payload: []byte("payload"), PayloadFormatIndicator: packet.Some[uint8](1)}
	with := func(f func(*packet.Publish)) *packet.Publish {
		p := plain
		f(&p)
		return &p
	}
	for name, tt := range map[string]struct {
		p      *packet.Publish
		qos    packet.QoS
		retain bool
		same   bool
	}{
		"plain":    {&plain, 1, false, true},
		"QoS 0":    {&plain, 0, false, false},
		"retain":   {&plain, 1, true, false},
		"dup":      {with(func(p *packet.Publish) { p.Dup = true }), 1, false, false},
		"alias":    {with(func(p *packet.Publish) { p.TopicAlias = 2 }), 1, false, false},
		"expiry":   {with(func(p *packet.Publish) { p.MessageExpiryInterval = packet.Some[uint32](7) }), 1, false, false},
		"retained": {with(func(p *packet.Publish) { p.Retain = true }), 1, false, false},
	} {
		cfg := benchConfig()
		cfg.RetainAvailable = true
		var scratch session.Message
		m, frame := received(t, online(t, cfg, connect(packet.V5), nil), tt.p, &scratch)
		e, err := m.Encoded(packet.V5, tt.qos, tt.retain)
		if err != nil {
			t.Fatal(err)
		}
		if same := &e.Payload()[0] == &frame[len(frame)-len(tt.p.Payload)]; same != tt.same {
			t.Errorf("%s: forwarded as it came: %v", name, same)
		}
		want := *tt.p
		want.QoS, want.Retain, want.Dup, want.TopicAlias, want.PacketID = tt.qos, tt.retain, false, 0, uint16(9*tt.qos)
		wire, err := want.AppendTo(nil, packet.V5)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.AppendTo(nil, 9, false, 7); !bytes.Equal(got, wire) {
			t.Errorf("%s: got % x, want % x", name, got, wire)
		}
	}
}

func TestStableMessageIsShared(t *testing.T) {
	m := &session.Message{Publish: packet.Publish{QoS: 2, Topic: []byte("a"), Payload: []byte("p")}}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for qos := packet.QoS0; qos <= packet.QoS2; qos++ {
				if e, err := m.Encoded(packet.V5, qos, false); err != nil || e.QoS() != qos {
					t.Errorf("QoS %d: %v", qos, err)
				}
			}
		})
	}
	wg.Wait()
}
