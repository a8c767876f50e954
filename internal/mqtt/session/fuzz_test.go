package session_test

import (
	"bytes"
	"testing"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// FuzzConversation drives a session with a conversation made of the input: a
// byte that picks the server's offer, then bytes that pick what happens, each
// followed by what it needs. The frames are whatever bytes follow, cut and
// decoded as the broker does it. Whatever happens, the session keeps its
// promises.
func FuzzConversation(f *testing.F) {
	encode := func(offer byte, v packet.Version, ps ...packet.Packet) []byte {
		out := []byte{offer}
		for _, p := range ps {
			frame, err := p.AppendTo(nil, v)
			if err != nil {
				f.Fatal(err)
			}
			out = append(append(out, 0, byte(len(frame))), frame...)
			out = append(out, 1, 5, 0) // admitted, or nothing; committed
		}
		return out
	}
	will := &packet.Will{Topic: []byte("w"), Payload: []byte("x"), QoS: 1, DelayInterval: 5}
	f.Add(encode(0, packet.V5,
		&packet.Connect{ClientID: "c", KeepAlive: 10, CleanStart: true, Will: will, ReceiveMaximum: 2, TopicAliasMaximum: 5},
		&packet.Subscribe{PacketID: 1, SubscriptionIdentifier: 4, Subscriptions: []packet.Subscription{{Filter: "a/#", QoS: 1}}},
		&packet.Publish{Topic: []byte("a/b/c"), TopicAlias: 1, QoS: 1, PacketID: 2, Payload: []byte("p")},
		&packet.Publish{TopicAlias: 1, QoS: 1, PacketID: 3},
		&packet.Puback{PacketID: 1}, &packet.Pingreq{},
		&packet.Unsubscribe{PacketID: 4, Filters: []string{"a/#"}}, &packet.Disconnect{ReasonCode: 4}))
	f.Add(encode(0, packet.V311, &packet.Connect{ClientID: "c", CleanStart: true, ReceiveMaximum: 65535},
		&packet.Publish{Topic: []byte("a"), QoS: 1, PacketID: 2}, &packet.Disconnect{}))
	qos2 := []packet.Packet{&packet.Connect{ClientID: "c", SessionExpiryInterval: 9, ReceiveMaximum: 2},
		&packet.Publish{Topic: []byte("a"), QoS: 2, PacketID: 2}, &packet.Publish{Topic: []byte("a"), QoS: 2, PacketID: 2, Dup: true},
		&packet.Publish{Topic: []byte("a"), QoS: 2, PacketID: 3},
		&packet.Pubrel{PacketID: 2}, &packet.Pubrec{PacketID: 1}, &packet.Pubcomp{PacketID: 1}, &packet.Pubrel{PacketID: 3},
		&packet.Pubrec{PacketID: 2, ReasonCode: 0x80}, &packet.Pubcomp{PacketID: 7}}
	f.Add(encode(1, packet.V5, qos2...))
	f.Add(append(encode(3, packet.V5, qos2...), 9, 11, 0, 3, 3, 3))
	f.Add(append(encode(1, packet.V5, &packet.Connect{ClientID: "c", ReceiveMaximum: 1, CleanStart: true}), 3, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9, 11))
	f.Add(append(encode(4, packet.V5, &packet.Connect{ClientID: "c", AuthenticationMethod: "M"}), 10, 0,
		6, 0xF0, 6, 0x18, 4, 0x15, 0, 1, 'M', 1))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) == 0 {
			return
		}
		w := &witness{t: t, now: epoch, cfg: config()}
		w.offer(p[0])
		w.connect(nil)
		for p = p[1:]; len(p) > 0; {
			p = w.next(p)
		}
	})
}

// witness checks what sessions of one client do.
type witness struct {
	t       *testing.T
	cfg     *session.Config
	stored  bool
	s       *session.Session
	now     time.Time
	state   *session.State  // for the next Admitted
	scratch session.Message // of every PUBLISH

	asked    bool // Admit or Authenticate came
	admitted bool
	ended    bool
	shut     bool
	window   uint16
	owed     []uint64 // tokens in the order they were given out

	lastID uint16          // of a stored session
	kept   map[uint16]bool // packet ids that the driver stores
	flying map[uint16]bool // QoS 1 and 2 messages that the client has not answered
}

func (w *witness) offer(b byte) {
	if b&1 != 0 {
		w.cfg.MaximumQoS = packet.QoS2
	}
	w.stored = b&2 != 0
	if b&4 != 0 {
		w.cfg.AuthMethods = []string{"M"}
	}
	if b&8 != 0 {
		w.cfg.RetainAvailable, w.cfg.SharedAvailable, w.cfg.SubscriptionIDAvailable = true, true, true
		w.cfg.ServerAliasMaximum = 2
	}
	if b&16 != 0 {
		w.cfg.RefuseUserProps, w.cfg.FatalNegativeAck, w.cfg.MaxWillDelay, w.cfg.MaxSessionExpiry = true, true, 2, 5
	}
}

func (w *witness) connect(st *session.State) {
	w.s, w.state = session.New(w.cfg, instant(w.now)), st
	w.asked, w.admitted, w.ended, w.shut, w.owed = false, false, false, false, nil
	w.flying = map[uint16]bool{}
	if st == nil {
		w.kept = map[uint16]bool{}
	}
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
	waiting := w.asked && !w.admitted && !w.ended && w.s.Paused()
	switch op % 12 {
	case 0: // a frame
		n := min(int(take()), len(rest))
		w.frame(bytes.Clone(rest[:n]), op > 200)
		rest = rest[n:]
	case 1:
		if waiting {
			w.admitted = true
			w.step(session.Input{Kind: session.Admitted, Admission: &session.Admission{Stored: w.stored, Resumed: w.state != nil, State: w.state}})
		}
	case 2:
		if waiting {
			w.step(session.Input{Kind: session.Refused, Code: packet.NotAuthorized})
		}
	case 3:
		b := take()
		w.deliver(&session.Message{Publish: packet.Publish{Topic: []byte("topic"), QoS: packet.QoS(b % 3)}, Received: w.now}, op, b)
	case 4:
		w.now = w.now.Add(time.Duration(take()) * time.Second)
		w.step(session.Input{Kind: session.Tick})
	case 5:
		if len(w.owed) > 0 {
			i := int(take()) % len(w.owed)
			token := w.owed[i]
			w.owed = append(w.owed[:i], w.owed[i+1:]...)
			in := session.Input{Kind: session.Committed, Token: token}
			if op > 200 {
				in.Code = packet.QuotaExceeded
			}
			w.step(in)
		}
	case 6:
		w.step(session.Input{Kind: session.Drain})
	case 7:
		w.step(session.Input{Kind: session.Committed, Token: uint64(take())<<8 | 1<<40})
	case 8:
		w.step(session.Input{Kind: session.Close, Code: packet.AdministrativeAction,
			Ending: session.Ending{Reason: disconnect.ServerInitiatedDisconnect}})
	case 9:
		w.step(session.Input{Kind: session.Lost, Ending: session.Ending{Reason: disconnect.ConnectionLost}})
	case 10:
		if waiting || w.admitted {
			w.step(session.Input{Kind: session.Challenge, Data: []byte{take()}})
		}
	case 11: // the next connection, or the same one again
		switch {
		case w.ended:
			w.connect(w.left())
		case w.admitted:
			w.step(session.Input{Kind: session.Reauthenticated, Admission: &session.Admission{ExpiresAt: w.now.Add(time.Minute)}})
		}
	}
	return rest
}

// left is what the ended session leaves to the next, with all tokens answered.
func (w *witness) left() *session.State {
	if !w.admitted {
		return w.state
	}
	for _, token := range w.owed {
		w.s.Step(session.Input{Kind: session.Committed, Token: token}, instant(w.now), nil)
	}
	if !w.s.Settled() {
		w.t.Fatal("tokens are open that nobody was given")
	}
	st := w.s.State()
	for _, o := range st.Inflight {
		if w.stored && !w.kept[o.PacketID] {
			w.t.Fatalf("packet id %d is in flight and not stored", o.PacketID)
		}
		if w.stored && o.Message == nil && !o.Released {
			w.t.Fatalf("message %d of a stored session is gone", o.PacketID)
		}
	}
	if w.stored && len(st.Inflight) != len(w.kept) {
		w.t.Fatalf("%d messages in flight, %d stored", len(st.Inflight), len(w.kept))
	}
	return st
}

// deliver does what a driver does with a message for the client.
func (w *witness) deliver(m *session.Message, op, b byte) {
	in := session.Input{Kind: session.Deliver, Message: m, QoS: packet.QoS(op / 12 % 3), Congested: op > 200, Retain: b&32 != 0}
	if b&64 != 0 {
		in.SubscriptionIDs = []uint32{1, 300}
	}
	if b&128 != 0 {
		in.Share = "g"
	}
	if w.stored && min(m.QoS, in.QoS) > 0 {
		if w.s.Room() == 0 {
			return
		}
		w.lastID++
		if w.lastID == 0 || w.kept[w.lastID] {
			return
		}
		w.kept[w.lastID] = true
		in.PacketID = w.lastID
	}
	w.step(in)
}

// frame does what the broker does with bytes. The buffer is used again.
func (w *witness) frame(b []byte, congested bool) {
	if w.s.Paused() || w.ended {
		return
	}
	n, err := packet.Frame(b, 1<<20)
	if err == nil && n == 0 {
		return
	}
	in := session.Input{Kind: session.Received, Congested: congested}
	if err == nil {
		in.Packet, err = packet.Decode(w.s.Version(), b[:n])
		in.Frame, in.Scratch = b[:n], &w.scratch
	}
	if err != nil {
		e, ok := err.(*packet.Error)
		if !ok {
			w.t.Fatalf("an error of type %T", err)
		}
		in.Kind, in.Err, in.Text = session.Garbled, e, packet.TypeOf(b[0]).String()
	} else {
		w.answered(in.Packet)
	}
	if c, ok := in.Packet.(*packet.Connect); ok && !w.asked {
		w.window = c.ReceiveMaximum
	}
	w.step(in)
	w.scratch.Reset()
	for i := range b {
		b[i] = 0xEE // is no UTF-8
	}
}

// answered notes which messages a packet of the client's answers.
func (w *witness) answered(p packet.Packet) {
	switch p := p.(type) {
	case *packet.Puback:
		delete(w.flying, p.PacketID)
	case *packet.Pubrec:
		if p.ReasonCode.Failed() {
			delete(w.flying, p.PacketID)
		}
	case *packet.Pubcomp:
		delete(w.flying, p.PacketID)
	}
}

func (w *witness) step(in session.Input) {
	t := w.t
	acts := w.s.Step(in, instant(w.now), nil)
	var routed *session.Message
	for i := range acts {
		a := &acts[i]
		if w.shut {
			t.Fatalf("%s after the end", show(*a))
		}
		w.check(a)
		if a.Kind == session.Route {
			routed = a.Message
		}
		if a.Kind == session.Shut {
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
	if n := len(w.flying); n > int(w.window) || n > int(w.cfg.MaxInflight) {
		t.Fatalf("%d messages are unacknowledged", n) // [MQTT-3.3.4-7]
	}
	if w.s.Room() < 0 || w.ended && w.s.Room() != 0 {
		t.Fatalf("room %d", w.s.Room())
	}
	if routed != nil && !w.ended { // to the publisher itself
		w.deliver(routed, byte(12*routed.QoS), 0)
	}
}

// check checks one action.
func (w *witness) check(a *session.Action) {
	t := w.t
	switch a.Kind {
	case session.Admit, session.Authenticate:
		if w.asked && a.Kind == session.Admit || a.ClientID == "" {
			t.Fatalf("%s again", show(*a))
		}
		w.asked = true
	case session.Send:
		if _, err := a.Packet.AppendTo(nil, w.s.Version()); err != nil {
			t.Fatalf("%s cannot be encoded: %v", show(*a), err)
		}
		switch a.Packet.Type() {
		case packet.CONNACK, packet.AUTH:
		default:
			if w.ended || !w.admitted {
				t.Fatalf("%s while not connected", show(*a))
			}
		}
	case session.SendAck:
		if _, err := packet.AppendAck(nil, w.s.Version(), a.Type, a.PacketID, a.Code); err != nil || !w.admitted || w.ended {
			t.Fatalf("%s cannot be sent: %v", show(*a), err)
		}
	case session.SendMessage:
		w.message(a)
	case session.Route, session.Subscribe, session.Unsubscribe, session.Complete, session.Release:
		if !w.admitted || w.ended {
			t.Fatalf("%s while not connected", show(*a))
		}
		if a.Token != 0 {
			w.owed = append(w.owed, a.Token)
		} else if a.Kind != session.Route {
			t.Fatalf("%s without a token", show(*a))
		}
	case session.Settle:
		if !w.stored || !w.kept[a.PacketID] {
			t.Fatalf("%s of what is not stored", show(*a))
		}
		delete(w.kept, a.PacketID)
	case session.End:
		if !w.admitted || w.ended || !a.Final.Reason.Valid() || a.Final.WillDelay > a.Final.Expiry {
			t.Fatalf("%s (admitted %v, ended %v)", show(*a), w.admitted, w.ended)
		}
		if m := w.cfg.MaxSessionExpiry; m != 0 && a.Final.Expiry > m {
			t.Fatalf("%s: expiry", show(*a))
		}
		w.ended = true
	}
}

// message checks a message to the client.
func (w *witness) message(a *session.Action) {
	t := w.t
	if !w.admitted || w.ended || (a.QoS > 0) != (a.PacketID != 0) || a.QoS == 0 && a.Dup {
		t.Fatalf("%s while admitted %v, ended %v", show(*a), w.admitted, w.ended)
	}
	frame, err := a.AppendMessage(nil, w.s.Version())
	if err != nil {
		t.Fatalf("%s: %v", show(*a), err)
	}
	if most := w.s.MaximumPacketSize(); most != 0 && len(frame) > int(most) {
		t.Fatalf("%s has %d bytes, the client takes %d", show(*a), len(frame), most) // [MQTT-3.1.2-24]
	}
	var p packet.Publish
	if err := p.Decode(w.s.Version(), frame); err != nil {
		t.Fatalf("%s: % x: %v", show(*a), frame, err)
	}
	if p.QoS != a.QoS || p.PacketID != a.PacketID || p.Dup != a.Dup || p.Retain != a.Retain || !a.NoTopic && !bytes.Equal(p.Topic, a.Message.Topic) {
		t.Fatalf("%s is encoded as % x", show(*a), frame)
	}
	if a.QoS == 0 {
		return
	}
	if w.flying[a.PacketID] {
		t.Fatalf("%s: the packet id is in use", show(*a)) // [MQTT-2.2.1-4]
	}
	if w.stored && !w.kept[a.PacketID] {
		t.Fatalf("%s is not stored", show(*a))
	}
	w.flying[a.PacketID] = true
}
