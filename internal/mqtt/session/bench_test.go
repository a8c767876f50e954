package session_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// online returns a session of a connected client.
func online(t testing.TB, cfg *session.Config, c *packet.Connect, a *session.Admission) *session.Session {
	s := session.New(cfg, start)
	s.Step(session.Input{Kind: session.Received, Packet: c}, start, nil)
	s.Step(session.Input{Kind: session.Admitted, Admission: a}, start, nil)
	if !s.Online() {
		t.Fatal("the client is not connected")
	}
	return s
}

func benchConfig() *session.Config {
	cfg := config()
	cfg.MaximumQoS, cfg.MaxInflight, cfg.QueueMessages = packet.QoS2, 100, 100
	return cfg
}

func connect(v packet.Version) *packet.Connect {
	return &packet.Connect{Version: v, ClientID: "device-31415", CleanStart: true, ReceiveMaximum: 65535}
}

// steps are what the broker does most often, each as a function that does it
// once.
func steps(t testing.TB) map[string]func() {
	all := map[string]func(){}
	for qos := packet.QoS0; qos <= packet.QoS2; qos++ {
		all[fmt.Sprintf("publish/qos%d", qos)] = publishStep(t, qos)
		all[fmt.Sprintf("deliver/qos%d", qos)] = deliverStep(t, qos, false)
	}
	all["deliver/window"] = windowStep(t)
	all["deliver/stored"] = deliverStep(t, packet.QoS1, true)
	return all
}

// publishStep takes a message in, routes it to a subscriber of QoS 0, and
// acknowledges it.
func publishStep(t testing.TB, qos packet.QoS) func() {
	s := online(t, benchConfig(), connect(packet.V5), nil)
	sub := online(t, benchConfig(), connect(packet.V5), nil)
	p := &packet.Publish{QoS: qos, Topic: []byte("devices/31415/temperature"), Payload: make([]byte, 64)}
	if qos > 0 {
		p.PacketID = 7
	}
	frame, err := p.AppendTo(nil, packet.V5)
	if err != nil {
		t.Fatal(err)
	}
	var scratch session.Message
	var in packet.Publish
	rel := &packet.Pubrel{PacketID: 7}
	var acts, more []session.Action
	out := make([]byte, 0, 1024)
	return func() {
		if err := in.Decode(packet.V5, frame); err != nil {
			t.Fatal(err)
		}
		acts = s.Step(session.Input{Kind: session.Received, Packet: &in, Frame: frame, Scratch: &scratch}, start, acts[:0])
		if len(acts) != 1 || acts[0].Kind != session.Route {
			t.Fatalf("%d actions", len(acts))
		}
		more = sub.Step(session.Input{Kind: session.Deliver, Message: acts[0].Message}, start, more[:0])
		if _, err := more[0].AppendMessage(out, packet.V5); err != nil {
			t.Fatal(err)
		}
		scratch.Reset()
		if qos > 0 {
			acts = s.Step(session.Input{Kind: session.Committed, Token: acts[0].Token}, start, acts[:0])
		}
		if qos == packet.QoS2 {
			acts = s.Step(session.Input{Kind: session.Received, Packet: rel}, start, acts[:0])
		}
		if qos > 0 && (len(acts) != 1 || acts[0].Kind != session.SendAck || acts[0].Code != 0) {
			t.Fatalf("%d actions", len(acts))
		}
	}
}

// deliverStep sends a message and takes its acknowledgements.
func deliverStep(t testing.TB, qos packet.QoS, stored bool) func() {
	s := online(t, benchConfig(), connect(packet.V5), &session.Admission{Stored: stored})
	m := &session.Message{Publish: packet.Publish{QoS: qos, Topic: []byte("devices/31415/temperature"), Payload: make([]byte, 64)}}
	var acts []session.Action
	var ack packet.Puback
	var rec packet.Pubrec
	var comp packet.Pubcomp
	out := make([]byte, 0, 1024)
	id := uint16(0)
	return func() {
		in := session.Input{Kind: session.Deliver, Message: m, QoS: qos}
		if stored {
			id = id%60000 + 1
			in.PacketID = id
		}
		acts = s.Step(in, start, acts[:0])
		if len(acts) != 1 || acts[0].Kind != session.SendMessage {
			t.Fatalf("%d actions", len(acts))
		}
		if _, err := acts[0].AppendMessage(out, packet.V5); err != nil {
			t.Fatal(err)
		}
		switch qos {
		case packet.QoS1:
			ack.PacketID = acts[0].PacketID
			acts = s.Step(session.Input{Kind: session.Received, Packet: &ack}, start, acts[:0])
		case packet.QoS2:
			rec.PacketID, comp.PacketID = acts[0].PacketID, acts[0].PacketID
			acts = s.Step(session.Input{Kind: session.Received, Packet: &rec}, start, acts[:0])
			acts = s.Step(session.Input{Kind: session.Received, Packet: &comp}, start, acts[:0])
		}
	}
}

// windowStep sends a message while 99 others are unacknowledged, the oldest
// of which is acknowledged then.
func windowStep(t testing.TB) func() {
	s := online(t, benchConfig(), connect(packet.V5), nil)
	m := &session.Message{Publish: packet.Publish{QoS: 1, Topic: []byte("devices/31415/temperature"), Payload: make([]byte, 64)}}
	var acts []session.Action
	for range 99 {
		acts = s.Step(session.Input{Kind: session.Deliver, Message: m, QoS: 1}, start, acts[:0])
	}
	ack := packet.Puback{}
	return func() {
		acts = s.Step(session.Input{Kind: session.Deliver, Message: m, QoS: 1}, start, acts[:0])
		if ack.PacketID++; ack.PacketID == 0 {
			ack.PacketID++
		}
		acts = s.Step(session.Input{Kind: session.Received, Packet: &ack}, start, acts[:0])
		if s.Room() != 1 {
			t.Fatalf("room %d", s.Room())
		}
	}
}

func TestStepsDoNotAllocate(t *testing.T) {
	for name, f := range steps(t) {
		f() // buffers are made
		f()
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkStep(b *testing.B) {
	for _, name := range []string{"publish/qos0", "publish/qos1", "publish/qos2", "deliver/qos0", "deliver/qos1", "deliver/qos2", "deliver/window", "deliver/stored"} {
		b.Run(name, func(b *testing.B) {
			f := steps(b)[name]
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}

// TestIdleMemory bounds what a client costs that is connected, has one
// subscription and has sent and got a little.
func TestIdleMemory(t *testing.T) {
	const n, most = 4000, 512
	cfg := benchConfig()
	keep := make([]*session.Session, n)
	m := &session.Message{Publish: packet.Publish{QoS: 1, Topic: []byte("t"), Payload: []byte("p")}}
	var acts []session.Action
	before := heap()
	for i := range keep {
		c := connect(packet.V5)
		c.ClientID = fmt.Sprintf("device-%07d", i)
		c.UserName, c.Password = packet.Some("user"), make([]byte, 100)
		s := online(t, cfg, c, nil)
		acts = s.Step(session.Input{Kind: session.Received, Packet: &packet.Subscribe{PacketID: 1,
			Subscriptions: []packet.Subscription{{Filter: "commands/" + c.ClientID, QoS: 1}}}}, start, acts[:0])
		acts = s.Step(session.Input{Kind: session.Committed, Token: acts[0].Token}, start, acts[:0])
		acts = s.Step(session.Input{Kind: session.Deliver, Message: m, QoS: 1}, start, acts[:0])
		acts = s.Step(session.Input{Kind: session.Received, Packet: &packet.Puback{PacketID: 1}}, instant(epoch.Add(time.Second)), acts[:0])
		keep[i] = s
	}
	clear(acts[:cap(acts)])
	per := (heap() - before) / n
	t.Logf("%d bytes per client", per)
	if per > most {
		t.Errorf("%d bytes per client, want at most %d", per, most)
	}
	runtime.KeepAlive(keep)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
