package session_test

import (
	"testing"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// FuzzConversation drives a session with a conversation made of the input: a
// byte that picks what happens, then what it needs. The frames are whatever
// bytes follow, cut and decoded as the broker does it. Whatever happens, the
// session keeps its promises.
func FuzzConversation(f *testing.F) {
	encode := func(v packet.Version, ps ...packet.Packet) (out []byte) {
		for _, p := range ps {
			frame, err := p.AppendTo(nil, v)
			if err != nil {
				f.Fatal(err)
			}
			out = append(append(out, 0, byte(len(frame))), frame...)
			out = append(out, 1) // admitted, or nothing
		}
		return out
	}
	will := &packet.Will{Topic: []byte("w"), Payload: []byte("x"), QoS: 1}
	f.Add(encode(packet.V5,
		&packet.Connect{ClientID: "c", KeepAlive: 10, CleanStart: true, Will: will, ReceiveMaximum: 2},
		&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "a/#", QoS: 1}}},
		&packet.Publish{Topic: []byte("a"), TopicAlias: 1, QoS: 1, PacketID: 2, Payload: []byte("p")},
		&packet.Publish{TopicAlias: 1, QoS: 1, PacketID: 3},
		&packet.Puback{PacketID: 1}, &packet.Pingreq{},
		&packet.Unsubscribe{PacketID: 4, Filters: []string{"a/#"}}, &packet.Disconnect{ReasonCode: 4}))
	f.Add(encode(packet.V311, &packet.Connect{ClientID: "c", CleanStart: true, ReceiveMaximum: 65535},
		&packet.Publish{Topic: []byte("a"), QoS: 1, PacketID: 2}, &packet.Disconnect{}))
	f.Add(append(encode(packet.V5, &packet.Connect{ClientID: "c", ReceiveMaximum: 1, CleanStart: true}), 3, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9))
	f.Fuzz(func(t *testing.T, p []byte) {
		w := &witness{t: t, s: session.New(config(), epoch), now: epoch}
		for len(p) > 0 {
			p = w.next(p)
		}
	})
}

// witness checks what a session does.
type witness struct {
	t        *testing.T
	s        *session.Session
	now      time.Time
	asked    bool // Admit came
	admitted bool
	ended    bool
	shut     bool
	owed     []uint32 // tokens in the order they were given out
}

func (w *witness) next(p []byte) (rest []byte) {
	op, rest := p[0], p[1:]
	take := func() byte {
		if len(rest) == 0 {
			return 0
		}
		b := rest[0]
		rest = rest[1:]
		return b
	}
	switch op % 10 {
	case 0: // a frame
		n := min(int(take()), len(rest))
		w.frame(rest[:n])
		rest = rest[n:]
	case 1:
		if w.asked && !w.admitted && !w.ended {
			w.admitted = true
			w.step(session.Input{Kind: session.Admitted})
		}
	case 2:
		if w.asked && !w.admitted && !w.ended {
			w.step(session.Input{Kind: session.Refused, Code: packet.NotAuthorized})
		}
	case 3:
		m := &session.Message{Publish: packet.Publish{Topic: []byte("t"), QoS: packet.QoS(take() % 2)}, Received: w.now}
		w.step(session.Input{Kind: session.Deliver, Message: m, QoS: packet.QoS(op / 10 % 2), Congested: op > 200})
	case 4:
		w.now = w.now.Add(time.Duration(take()) * time.Second)
		w.step(session.Input{Kind: session.Tick})
	case 5:
		if len(w.owed) > 0 {
			i := int(take()) % len(w.owed)
			token := w.owed[i]
			w.owed = append(w.owed[:i], w.owed[i+1:]...)
			in := session.Input{Kind: session.Committed, Token: token}
			w.step(in)
		}
	case 6:
		w.step(session.Input{Kind: session.Drain})
	case 7:
		w.step(session.Input{Kind: session.Committed, Token: uint32(take())<<8 | 0x80000000})
	case 8:
		w.step(session.Input{Kind: session.Close, Code: packet.AdministrativeAction,
			Ending: session.Ending{Reason: disconnect.ServerInitiatedDisconnect}})
	case 9:
		w.step(session.Input{Kind: session.Lost, Ending: session.Ending{Reason: disconnect.ConnectionLost}})
	}
	return rest
}

// frame does what the broker does with bytes.
func (w *witness) frame(b []byte) {
	if w.s.Paused() || w.ended {
		return
	}
	n, err := packet.Frame(b, 1<<20)
	if err == nil && n == 0 {
		return
	}
	in := session.Input{Kind: session.Received}
	if err == nil {
		in.Packet, err = packet.Decode(w.s.Version(), b[:n])
	}
	if err != nil {
		e, ok := err.(*packet.Error)
		if !ok {
			w.t.Fatalf("an error of type %T", err)
		}
		in.Kind, in.Err = session.Garbled, e
	}
	w.step(in)
}

func (w *witness) step(in session.Input) {
	t := w.t
	acts := w.s.Step(in, w.now, nil)
	if w.shut && len(acts) > 0 {
		t.Fatalf("actions after the end: %v", show(acts[0]))
	}
	for i, a := range acts {
		if w.shut {
			t.Fatalf("%s after shut", show(a))
		}
		switch a.Kind {
		case session.Admit:
			if w.asked {
				t.Fatal("admit twice")
			}
			w.asked = true
		case session.Send:
			if w.ended && a.Packet.Type() != packet.CONNACK {
				t.Fatalf("%s after the end", show(a))
			}
			if _, ok := a.Packet.(*packet.Connack); !w.admitted && w.asked && !ok {
				t.Fatalf("%s before admission", show(a))
			}
			if _, err := a.Packet.AppendTo(nil, w.s.Version()); err != nil {
				t.Fatalf("%s cannot be encoded: %v", show(a), err)
			}
		case session.SendMessage:
			if a.QoS > 0 && a.PacketID == 0 {
				t.Fatal("QoS 1 without packet id")
			}
		case session.Route, session.Subscribe, session.Unsubscribe:
			if !w.admitted {
				t.Fatalf("%s before admission", show(a))
			}
			if a.Token != 0 {
				w.owed = append(w.owed, a.Token)
			}
		case session.End:
			if !w.admitted || w.ended || !a.Ending.Reason.Valid() {
				t.Fatalf("%s (admitted %v, ended %v)", show(a), w.admitted, w.ended)
			}
			w.ended = true
		case session.Shut:
			if i != len(acts)-1 {
				t.Fatal("shut is not the last action")
			}
			w.shut = true
		}
	}
	if w.shut && w.admitted && !w.ended {
		t.Fatal("an admitted session was shut without its end")
	}
	if w.s.Ended() != w.shut {
		t.Fatalf("ended %v, shut %v", w.s.Ended(), w.shut)
	}
	w.ended = w.ended || w.shut
}
