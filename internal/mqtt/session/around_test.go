package session_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/topic"
)

// step gives the session a packet at the start of time.
func step(s *session.Session, p packet.Packet) []session.Action {
	return s.Step(session.Input{Kind: session.Received, Packet: p}, start, nil)
}

// deliver gives the session a message of QoS 1 with the payload.
func deliver(s *session.Session, payload string) []session.Action {
	m := &session.Message{Received: epoch, Publish: packet.Publish{Topic: []byte("t"), Payload: []byte(payload), QoS: packet.QoS1}}
	return s.Step(session.Input{Kind: session.Deliver, Message: m, QoS: packet.QoS1}, start, nil)
}

// TestDeadline: a driver sleeps until Deadline, so what is due later than that
// would happen late, and what is due earlier would cost turns.
func TestDeadline(t *testing.T) {
	cfg := benchConfig()
	cfg.AuthMethods = []string{"x"}
	heard := start.Mono
	for name, c := range map[string]struct {
		keep    uint16
		proof   time.Duration // 0: none
		want    time.Duration
		session func(*packet.Connect, *session.Admission) *session.Session
	}{
		"before CONNECT": {want: heard + cfg.ConnectTimeout, session: func(*packet.Connect, *session.Admission) *session.Session {
			return session.New(cfg, start)
		}},
		"while it is judged": {want: 0, session: func(c *packet.Connect, _ *session.Admission) *session.Session {
			s := session.New(cfg, start)
			step(s, c)
			return s
		}},
		"while the client is challenged": {want: heard + cfg.ConnectTimeout, session: func(c *packet.Connect, _ *session.Admission) *session.Session {
			c.AuthenticationMethod = "x"
			s := session.New(cfg, start)
			step(s, c)
			s.Step(session.Input{Kind: session.Challenge}, start, nil)
			return s
		}},
		"nothing ends":                {want: 0},
		"keep-alive":                  {keep: 10, want: heard + 15*time.Second},
		"the proof ends":              {proof: time.Minute, want: heard + time.Minute},
		"the proof ends tomorrow":     {proof: 24 * time.Hour, want: heard + 10*time.Minute},
		"the proof before keep-alive": {keep: 100, proof: time.Minute, want: heard + time.Minute},
		"keep-alive before the proof": {keep: 10, proof: time.Minute, want: heard + 15*time.Second},
		"the proof has ended":         {keep: 10, proof: -time.Minute, want: heard - time.Minute},
		"the session is over": {keep: 10, want: 0, session: func(c *packet.Connect, a *session.Admission) *session.Session {
			s := online(t, cfg, c, a)
			step(s, &packet.Disconnect{})
			return s
		}},
		"the longest keep-alive there": {keep: 65535, want: heard + 65535*3*time.Second/2},
	} {
		c2, a := connect(packet.V5), &session.Admission{}
		c2.KeepAlive = c.keep
		if c.proof != 0 {
			a.ExpiresAt = epoch.Add(c.proof)
		}
		make := c.session
		if make == nil {
			make = func(c *packet.Connect, a *session.Admission) *session.Session { return online(t, cfg, c, a) }
		}
		if got := make(c2, a).Deadline(start); got != c.want {
			t.Errorf("%s: %v after the start, want %v", name, got-heard, c.want-heard)
		}
	}
}

// TestLateToTheTick: the Tick that Deadline asks for ends the session, one
// before it does not.
func TestLateToTheTick(t *testing.T) {
	for _, early := range []bool{true, false} {
		c := connect(packet.V5)
		c.KeepAlive = 10
		s := online(t, benchConfig(), c, nil)
		now := clock.Instant{Wall: epoch, Mono: s.Deadline(start)}
		if early {
			now.Mono--
		}
		s.Step(session.Input{Kind: session.Tick}, now, nil)
		if s.Ended() == early {
			t.Errorf("early %v: ended %v", early, s.Ended())
		}
	}
}

// TestWhoIsThere: what a driver asks a session between its inputs.
func TestWhoIsThere(t *testing.T) {
	cfg := benchConfig()
	cfg.AuthMethods = []string{"x"}
	c := connect(packet.V5)
	c.UserName = packet.Some("ann")
	c.AuthenticationMethod = "x"
	s := session.New(cfg, start)
	if s.UserName() != "" || s.Paused() || s.Doomed() {
		t.Errorf("before CONNECT: user %q, paused %v, doomed %v", s.UserName(), s.Paused(), s.Doomed())
	}
	step(s, c)
	if s.UserName() != "ann" || !s.Paused() || s.Doomed() {
		t.Errorf("while it is judged: user %q, paused %v, doomed %v", s.UserName(), s.Paused(), s.Doomed())
	}
	s.Step(session.Input{Kind: session.Challenge}, start, nil)
	if s.Paused() {
		t.Error("paused, although it is the client's turn")
	}
	step(s, &packet.Auth{ReasonCode: packet.ContinueAuthentication, AuthenticationMethod: "x"})
	if !s.Paused() {
		t.Error("not paused, although it is the server's turn")
	}
	s.Step(session.Input{Kind: session.Lost}, start, nil)
	if !s.Doomed() || s.Ended() {
		t.Errorf("the client went while it was judged: doomed %v, ended %v", s.Doomed(), s.Ended())
	}
	s.Step(session.Input{Kind: session.Refused}, start, nil)
	if !s.Doomed() || !s.Ended() {
		t.Errorf("refused: doomed %v, ended %v", s.Doomed(), s.Ended())
	}

	cfg = benchConfig()
	cfg.MaxInflight = 1
	s = online(t, cfg, connect(packet.V5), nil)
	if s.Paused() || s.Doomed() || s.Waiting() || s.Queued() != 0 {
		t.Errorf("connected: paused %v, doomed %v, waiting %v, queued %d", s.Paused(), s.Doomed(), s.Waiting(), s.Queued())
	}
	deliver(s, "flies")
	if s.Waiting() || s.Queued() != 1 {
		t.Errorf("one is sent: waiting %v, queued %d", s.Waiting(), s.Queued())
	}
	deliver(s, "waits")
	if !s.Waiting() || s.Queued() != 2 {
		t.Errorf("one waits: waiting %v, queued %d", s.Waiting(), s.Queued())
	}
}

// TestUserPropertiesAreRefused on everything but PUBLISH, where the profile has
// none; without them, and in the other profiles, the packet is taken.
func TestUserPropertiesAreRefused(t *testing.T) {
	user := []packet.UserProperty{{Name: []byte("k"), Value: []byte("v")}}
	for name, p := range map[string]func(u []packet.UserProperty) packet.Packet{
		"PUBACK":  func(u []packet.UserProperty) packet.Packet { return &packet.Puback{PacketID: 9, UserProperties: u} },
		"PUBREC":  func(u []packet.UserProperty) packet.Packet { return &packet.Pubrec{PacketID: 9, UserProperties: u} },
		"PUBREL":  func(u []packet.UserProperty) packet.Packet { return &packet.Pubrel{PacketID: 9, UserProperties: u} },
		"PUBCOMP": func(u []packet.UserProperty) packet.Packet { return &packet.Pubcomp{PacketID: 9, UserProperties: u} },
		"AUTH": func(u []packet.UserProperty) packet.Packet {
			return &packet.Auth{ReasonCode: packet.ReAuthenticate, AuthenticationMethod: "x", UserProperties: u}
		},
		"DISCONNECT": func(u []packet.UserProperty) packet.Packet { return &packet.Disconnect{UserProperties: u} },
		"SUBSCRIBE": func(u []packet.UserProperty) packet.Packet {
			return &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "a"}}, UserProperties: u}
		},
		"UNSUBSCRIBE": func(u []packet.UserProperty) packet.Packet {
			return &packet.Unsubscribe{PacketID: 1, Filters: []string{"a"}, UserProperties: u}
		},
	} {
		for _, refuse := range []bool{false, true} {
			for _, u := range [][]packet.UserProperty{nil, user} {
				cfg := benchConfig()
				cfg.RefuseUserProps = refuse
				cfg.AuthMethods = []string{"x"}
				c := connect(packet.V5)
				if name == "AUTH" {
					c.AuthenticationMethod = "x"
				}
				s := online(t, cfg, c, nil)
				refused := false
				for _, a := range step(s, p(u)) {
					switch q := a.Packet.(type) {
					case *packet.Disconnect:
						refused = q.ReasonCode == packet.ImplementationSpecificError
					case *packet.Unsuback:
						refused = q.ReasonCodes[0] == packet.ImplementationSpecificError
					}
					if a.Kind == session.Subscribe {
						refused = a.Request.Codes[0] == packet.ImplementationSpecificError
					}
				}
				if want := refuse && u != nil; refused != want {
					t.Errorf("%s: the profile refuses %v, properties %v: refused %v", name, refuse, u != nil, refused)
				}
			}
		}
	}
}

// TestQueueIsCounted: the bytes of what waits are given back when it is sent,
// given up or acknowledged, whatever a message is made of; else a session would
// overflow, or never.
func TestQueueIsCounted(t *testing.T) {
	cfg := benchConfig()
	cfg.MaxInflight, cfg.QueueMessages, cfg.QueueBytes = 1, 1000, 300
	s := online(t, cfg, connect(packet.V5), nil)
	m := func() *session.Message {
		return &session.Message{Received: epoch, Publish: packet.Publish{
			Topic: bytes.Repeat([]byte("t"), 20), Payload: bytes.Repeat([]byte("p"), 20), QoS: packet.QoS1,
			ResponseTopic: bytes.Repeat([]byte("r"), 20), CorrelationData: bytes.Repeat([]byte("c"), 20), ContentType: bytes.Repeat([]byte("y"), 10),
			UserProperties: []packet.UserProperty{{Name: bytes.Repeat([]byte("n"), 5), Value: bytes.Repeat([]byte("v"), 5)}},
		}}
	}
	if n := m().Size(); n != 100 {
		t.Fatalf("size %d", n)
	}
	give := func() []session.Action {
		return s.Step(session.Input{Kind: session.Deliver, Message: m(), QoS: packet.QoS1}, start, nil)
	}
	first := give()[0].PacketID
	for id := first; id < first+50; id++ { // three wait; one goes for each that comes
		for s.Queued() < 4 {
			give()
		}
		if s.Ended() {
			t.Fatalf("message %d: overflow at three of a hundred bytes each", id)
		}
		step(s, &packet.Puback{PacketID: id})
	}
	give()
	if s.Ended() {
		t.Fatal("overflow at the limit")
	}
	if acts := give(); !s.Ended() {
		t.Fatalf("no overflow beyond the limit: %v", acts)
	}
}

// TestFirstMayBeLarger: a message that is larger than the whole queue waits if
// it is the only one, rather than end the session.
func TestFirstMayBeLarger(t *testing.T) {
	cfg := benchConfig()
	cfg.MaxInflight, cfg.QueueBytes = 1, 10
	s := online(t, cfg, connect(packet.V5), nil)
	deliver(s, "flies")
	if deliver(s, "larger than ten bytes"); s.Ended() {
		t.Fatal("overflow with one message")
	}
	if deliver(s, ""); !s.Ended() {
		t.Fatal("no overflow with two")
	}
}

// TestResumedQueueIsCounted: what a session brings along counts as what came
// to it.
func TestResumedQueueIsCounted(t *testing.T) {
	for _, stored := range []bool{false, true} {
		cfg := benchConfig()
		cfg.MaxInflight, cfg.QueueBytes = 1, 30
		st := &session.State{}
		for i := range 3 { // each of eleven bytes; one of them flies at once
			st.Inflight = append(st.Inflight, session.Outgoing{QoS: packet.QoS1, PacketID: uint16(i + 1), Message: &session.Message{
				Publish: packet.Publish{Topic: []byte("t"), Payload: []byte("ten bytes.")}}})
		}
		c := connect(packet.V5)
		c.CleanStart = false
		s := online(t, cfg, c, &session.Admission{Resumed: true, Stored: stored, State: st})
		if s.Queued() != 3 {
			t.Fatalf("queued %d", s.Queued())
		}
		m := &session.Message{Publish: packet.Publish{Topic: []byte("t"), Payload: []byte("ten bytes."), QoS: packet.QoS1}}
		s.Step(session.Input{Kind: session.Deliver, Message: m, QoS: packet.QoS1, PacketID: 4}, start, nil)
		if s.Ended() == stored { // what is stored is bounded by the store
			t.Errorf("stored %v: ended %v with 33 bytes that wait", stored, s.Ended())
		}
	}
}

// TestExpiredMakeRoomOnce: what has expired while it waited is given up when
// there is no room, with its bytes; what was sent before or lives stays.
func TestExpiredMakeRoomOnce(t *testing.T) {
	cfg := benchConfig()
	cfg.MaxInflight, cfg.QueueMessages, cfg.QueueBytes = 1, 3, 33
	s := online(t, cfg, connect(packet.V5), nil)
	now := epoch
	give := func(seconds uint32) []session.Action {
		m := &session.Message{Received: now, Publish: packet.Publish{Topic: []byte("t"), Payload: []byte("ten bytes."), QoS: packet.QoS1}}
		if seconds != 0 {
			m.MessageExpiryInterval = packet.Some(seconds)
		}
		return s.Step(session.Input{Kind: session.Deliver, Message: m, QoS: packet.QoS1}, instant(now), nil)
	}
	give(0)
	for range 20 {
		for _, seconds := range []uint32{100000, 1, 100000} {
			if s.Queued() < 4 {
				give(seconds)
			}
		}
		now = now.Add(time.Second)
		acts := give(1)
		if s.Ended() || len(acts) != 1 || acts[0].Kind != session.Drop || acts[0].Why != session.DropExpired || s.Queued() != 4 {
			t.Fatalf("one had expired: %v, ended %v, queued %d", acts, s.Ended(), s.Queued())
		}
	}
}

// TestSubscriptionBytes: the bound on the memory of subscriptions counts each
// filter once, gives back what is unsubscribed, refused or revoked, and counts
// what is resumed.
func TestSubscriptionBytes(t *testing.T) {
	weight := topic.Weight("aa")
	cfg := benchConfig()
	cfg.MaxSubscriptionBytes = 20 * weight
	filter := func(i int) string { return fmt.Sprintf("%c%c", 'a'+i/10, 'a'+i%10) }
	var st session.State
	for i := range 20 {
		st.Subscriptions = append(st.Subscriptions, session.Subscription{Subscription: packet.Subscription{Filter: filter(i)}})
	}
	c := connect(packet.V5)
	c.CleanStart = false
	s := online(t, cfg, c, &session.Admission{Resumed: true, State: &st})
	subscribe := func(codes []packet.ReasonCode, filters ...string) []packet.ReasonCode {
		p := &packet.Subscribe{PacketID: 1}
		for _, f := range filters {
			p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: f, QoS: packet.QoS1})
		}
		acts := step(s, p)
		got := slices.Clone(acts[0].Request.Codes)
		s.Step(session.Input{Kind: session.Committed, Token: acts[0].Token, Codes: codes}, start, nil)
		return got
	}
	full := []packet.ReasonCode{packet.QuotaExceeded}
	for range 3 {
		if got := subscribe(nil, "zz", filter(3)); !slices.Equal(got, []packet.ReasonCode{packet.QuotaExceeded, 1}) {
			t.Fatalf("a new one and an old one, when it is full: %v", got)
		}
		acts := step(s, &packet.Unsubscribe{PacketID: 2, Filters: []string{"none", filter(3)}})
		s.Step(session.Input{Kind: session.Committed, Token: acts[0].Token}, start, nil)
		if got := subscribe([]packet.ReasonCode{packet.NotAuthorized}, "zz"); got[0] != 1 {
			t.Fatalf("there is room for one: %v", got)
		}
		// It was refused in the end, so that there is room still.
		if got := subscribe(nil, filter(3)); got[0] != 1 {
			t.Fatalf("the room of the refused one: %v", got)
		}
		if s.Revoke("none") || !s.Revoke(filter(3)) {
			t.Fatal("revoked what was not there, or not what was")
		}
		if got := subscribe(nil, filter(3), "zz"); !slices.Equal(got, []packet.ReasonCode{1, packet.QuotaExceeded}) {
			t.Fatalf("the room of the revoked one: %v", got)
		}
	}
	if got := subscribe(nil, "zz"); !slices.Equal(got, full) {
		t.Fatalf("full in the end: %v", got)
	}
	var names []string
	for _, sub := range s.State().Subscriptions {
		names = append(names, sub.Filter)
	}
	if len(names) != 20 || !slices.IsSorted(names) {
		t.Fatalf("subscriptions %v", names)
	}
}

// TestPartOfARequestFails: each filter has its own end, before and behind those
// that fail.
func TestPartOfARequestFails(t *testing.T) {
	cfg := benchConfig()
	cfg.MaxSubscriptions = 2
	s := online(t, cfg, connect(packet.V5), nil)
	subscribe := func(codes []packet.ReasonCode, filters ...string) []packet.ReasonCode {
		p := &packet.Subscribe{PacketID: 1}
		for _, f := range filters {
			p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: f, QoS: packet.QoS1})
		}
		acts := step(s, p)
		acts = s.Step(session.Input{Kind: session.Committed, Token: acts[0].Token, Codes: codes}, start, nil)
		return acts[0].Packet.(*packet.Suback).ReasonCodes
	}
	got := subscribe([]packet.ReasonCode{0, packet.NotAuthorized, 0, packet.NotAuthorized}, "bad/#/filter", "denied", "b", "c")
	want := []packet.ReasonCode{packet.TopicFilterInvalid, packet.NotAuthorized, 0, packet.QuotaExceeded}
	if !slices.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
	if got := subscribe(nil, "b", "c", "d", "b"); !slices.Equal(got, []packet.ReasonCode{1, 1, packet.QuotaExceeded, 1}) {
		t.Fatalf("%v", got)
	}
	if st := s.State().Subscriptions; len(st) != 2 || st[0].Filter != "b" || st[1].Filter != "c" {
		t.Fatalf("%v", st)
	}
}

// TestBridgeState: the state of a bridge is the only thing below $SYS that a
// client may write, and only where bridges are let in.
func TestBridgeState(t *testing.T) {
	for _, c := range []struct {
		name  string
		open  bool
		taken bool
	}{
		{"$SYS/broker/connection/b/state", true, true},
		{"$SYS/broker/connection/b/state", false, false},
		{"$SYS/broker/uptime", true, false},
		{"a", false, true},
	} {
		cfg := benchConfig()
		cfg.BridgeStates = c.open
		s := online(t, cfg, connect(packet.V5), nil)
		acts := step(s, &packet.Publish{Topic: []byte(c.name)})
		if taken := len(acts) == 1 && acts[0].Kind == session.Route; taken != c.taken {
			t.Errorf("%s, open %v: taken %v", c.name, c.open, taken)
		}
	}
}

// TestExpiryZero: Message Expiry Interval 0 means never in one profile, and at
// once in the others; other intervals mean what they say.
func TestExpiryZero(t *testing.T) {
	for _, never := range []bool{false, true} {
		for _, seconds := range []uint32{0, 1} {
			cfg := benchConfig()
			cfg.ExpiryZeroNever = never
			s := online(t, cfg, connect(packet.V5), nil)
			m := step(s, &packet.Publish{Topic: []byte("t"), MessageExpiryInterval: packet.Some(seconds)})[0].Message
			if got, want := m.Expires().IsZero(), never && seconds == 0; got != want {
				t.Errorf("interval %d, 0 is never %v: never expires %v", seconds, never, got)
			}
		}
	}
}

// TestLimitsAreTaken: what is as long as a limit is taken, and one more is not.
func TestLimitsAreTaken(t *testing.T) {
	for over := range 2 {
		cfg := benchConfig()
		cfg.MaxFieldBytes, cfg.MaxClientID, cfg.MaximumQoS, cfg.MaximumKeepAlive = 8, 12, packet.QoS1, 60
		long := bytes.Repeat([]byte("x"), 8+over)
		for name, p := range map[string]*packet.Publish{
			"response topic":   {Topic: []byte("t"), ResponseTopic: long},
			"correlation data": {Topic: []byte("t"), CorrelationData: long},
			"content type":     {Topic: []byte("t"), ContentType: long},
			"topic alias":      {Topic: []byte("t"), TopicAlias: cfg.TopicAliasMaximum + uint16(over)},
			"QoS":              {Topic: []byte("t"), QoS: packet.QoS1 + packet.QoS(over), PacketID: 1},
		} {
			s := online(t, cfg, connect(packet.V5), nil)
			if step(s, p); s.Ended() != (over == 1) {
				t.Errorf("%s, over the limit by %d: ended %v", name, over, s.Ended())
			}
		}
		for name, change := range map[string]func(*packet.Connect){
			"client id": func(c *packet.Connect) { c.ClientID = string(bytes.Repeat([]byte("x"), 12+over)) },
			"QoS of Will": func(c *packet.Connect) {
				c.Will = &packet.Will{Topic: []byte("w"), QoS: packet.QoS1 + packet.QoS(over)}
			},
			"Will's response topic": func(c *packet.Connect) {
				c.Will = &packet.Will{Topic: []byte("w"), ResponseTopic: long}
			},
		} {
			c := connect(packet.V5)
			change(c)
			s := session.New(cfg, start)
			if acts := step(s, c); s.Ended() != (over == 1) {
				t.Errorf("%s, over the limit by %d: %v", name, over, acts)
			}
		}
		c := connect(packet.V5)
		c.KeepAlive = 60 + uint16(over)
		s := session.New(cfg, start)
		step(s, c)
		acts := s.Step(session.Input{Kind: session.Admitted}, start, nil)
		if set := acts[0].Packet.(*packet.Connack).ServerKeepAlive.Set; set != (over == 1) {
			t.Errorf("keep-alive over the limit by %d: said %v", over, set)
		}
	}
}

// TestAliasesGrow: aliases are set in any order, also above those known.
func TestAliasesGrow(t *testing.T) {
	s := online(t, benchConfig(), connect(packet.V5), nil)
	for _, n := range []uint16{3, 1, 10, 7} {
		step(s, &packet.Publish{Topic: fmt.Appendf(nil, "t%d", n), TopicAlias: n})
	}
	for _, n := range []uint16{10, 1, 7, 3} {
		acts := step(s, &packet.Publish{TopicAlias: n})
		if len(acts) != 1 || string(acts[0].Message.Topic) != fmt.Sprintf("t%d", n) {
			t.Fatalf("alias %d: %v", n, acts)
		}
	}
	if step(s, &packet.Publish{TopicAlias: 2}); !s.Ended() {
		t.Error("an alias without a topic was taken")
	}
}

// TestServerAliases: a topic gets an alias if it is longer than one, and only
// if the packet still fits.
func TestServerAliases(t *testing.T) {
	for _, c := range []struct {
		topic string
		most  uint32 // 0: any
		alias uint16
	}{
		{"abc", 0, 0},
		{"abcd", 0, 1},
		{"abcd", 13, 1}, // 2 header, 6 topic, 1+3 properties, 1 payload
		{"abcd", 12, 0},
	} {
		cfg := benchConfig()
		cfg.ServerAliasMaximum = 5
		con := connect(packet.V5)
		con.TopicAliasMaximum, con.MaximumPacketSize = 5, c.most
		s := online(t, cfg, con, nil)
		for i := range 2 {
			acts := s.Step(session.Input{Kind: session.Deliver, Message: &session.Message{Publish: packet.Publish{Topic: []byte(c.topic), Payload: []byte("p")}}}, start, nil)
			a := acts[0]
			if a.Kind != session.SendMessage || a.Alias != c.alias || a.NoTopic != (i == 1 && c.alias != 0) {
				t.Fatalf("%s within %d: %s", c.topic, c.most, show(a))
			}
			b, err := a.AppendMessage(nil, packet.V5)
			if err != nil {
				t.Fatal(err)
			}
			if c.most != 0 && len(b) > int(c.most) {
				t.Errorf("%s within %d: %d bytes", c.topic, c.most, len(b))
			}
			var p packet.Publish
			if err := p.Decode(packet.V5, b); err != nil {
				t.Fatal(err)
			}
			want := c.topic
			if a.NoTopic {
				want = ""
			}
			if string(p.Topic) != want || p.TopicAlias != c.alias || string(p.Payload) != "p" {
				t.Errorf("%s within %d: sent %q with alias %d", c.topic, c.most, p.Topic, p.TopicAlias)
			}
		}
	}
}

// TestSubscriptionIDsAreSent to clients of MQTT 5, count towards what they
// accept, and are left out for the others.
func TestSubscriptionIDsAreSent(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		for _, most := range []uint32{0, 9, 8} {
			if v == packet.V311 && most != 0 {
				continue
			}
			c := connect(v)
			c.MaximumPacketSize = most
			s := online(t, benchConfig(), c, nil)
			m := &session.Message{Publish: packet.Publish{Topic: []byte("t"), Payload: []byte("p")}}
			a := s.Step(session.Input{Kind: session.Deliver, Message: m, SubscriptionIDs: []uint32{5}}, start, nil)[0]
			if most == 8 {
				if a.Kind != session.Drop || a.Why != session.DropTooLarge {
					t.Fatalf("%s", show(a))
				}
				continue
			}
			if a.Kind != session.SendMessage {
				t.Fatalf("%s", show(a))
			}
			b, err := a.AppendMessage(nil, v)
			if err != nil {
				t.Fatal(err)
			}
			var p packet.Publish
			if err := p.Decode(v, b); err != nil {
				t.Fatal(err)
			}
			if got := len(p.SubscriptionIdentifiers); got != map[packet.Version]int{packet.V5: 1}[v] || string(p.Topic) != "t" {
				t.Errorf("version %d: %d identifiers", v, got)
			}
		}
	}
}

// TestQoS0OfStored: a message of QoS 0 that the driver has stored all the same
// is settled as soon as it is sent or dropped; one that it has not is not.
func TestQoS0OfStored(t *testing.T) {
	for _, stored := range []bool{false, true} {
		for _, id := range []uint16{0, 7} {
			for _, congested := range []bool{false, true} {
				s := online(t, benchConfig(), connect(packet.V5), &session.Admission{Stored: stored})
				m := &session.Message{Publish: packet.Publish{Topic: []byte("t")}}
				acts := s.Step(session.Input{Kind: session.Deliver, Message: m, PacketID: id, Congested: congested}, start, nil)
				settled := len(acts) == 2 && acts[1].Kind == session.Settle && acts[1].PacketID == id
				if want := stored && id != 0; settled != want || len(acts) == 2 != want {
					t.Errorf("stored %v, id %d, congested %v: %v", stored, id, congested, acts)
				}
			}
		}
	}
}

// TestManyUnfinishedMessages: a ring that is full of landed messages is packed,
// and what flies is found in it whatever the order of the ids.
func TestManyUnfinishedMessages(t *testing.T) {
	cfg := benchConfig()
	cfg.MaxInflight = 65000
	s := online(t, cfg, connect(packet.V5), &session.Admission{Stored: true})
	m := &session.Message{Publish: packet.Publish{Topic: []byte("t"), QoS: packet.QoS1}}
	give := func(id uint16) {
		acts := s.Step(session.Input{Kind: session.Deliver, Message: m, QoS: packet.QoS1, PacketID: id}, start, nil)
		if len(acts) != 1 || acts[0].PacketID != id {
			t.Fatalf("%d: %v", id, acts)
		}
	}
	settle := func(id uint16, want bool) {
		t.Helper()
		acts := step(s, &packet.Puback{PacketID: id})
		if got := len(acts) == 1 && acts[0].Kind == session.Settle && acts[0].PacketID == id; got != want {
			t.Fatalf("PUBACK %d: %v", id, acts)
		}
	}
	for _, ids := range [][]uint16{
		{100, 103, 110, 111, 120, 500},          // ascending, with gaps
		{100, 101, 102, 103, 104, 105},          // without gaps
		{65000, 65535, 1, 2, 40},                // over the end of the ids
		{10, 5, 30, 20, 25, 7, 65535, 1, 60000}, // in no order
	} {
		for _, id := range ids {
			give(id)
		}
		settle(ids[0]-1, false)
		settle(3000, false)
		for _, i := range []int{2, 1, len(ids) - 1, 3} {
			settle(ids[i], true)
			settle(ids[i], false)
		}
		if s.Queued() != len(ids)-4 || len(s.State().Inflight) != len(ids)-4 {
			t.Fatalf("%v: %d left, of which %d are resumed", ids, s.Queued(), len(s.State().Inflight))
		}
		for _, i := range []int{0, 4, 5, 6, 7} {
			if i < len(ids)-1 {
				settle(ids[i], true)
			}
		}
		if s.Queued() != 0 {
			t.Fatalf("%v: %d left", ids, s.Queued())
		}
	}
}

// TestIDsAreNotTakenTwice: the session takes ids of its own beside those it has
// resumed, around the end of the ids.
func TestIDsAreNotTakenTwice(t *testing.T) {
	for _, resumed := range [][]uint16{{65534, 65535, 2}, {65533, 1, 65535}, {65535}, {65535, 1}, {3, 1, 65535, 2}} {
		st := &session.State{}
		for _, id := range resumed {
			st.Inflight = append(st.Inflight, session.Outgoing{PacketID: id, QoS: packet.QoS1, Sent: true,
				Message: &session.Message{Publish: packet.Publish{Topic: []byte("t")}}})
		}
		c := connect(packet.V5)
		c.CleanStart = false
		s := online(t, benchConfig(), c, &session.Admission{Resumed: true, State: st})
		used := map[uint16]bool{0: true}
		for _, id := range resumed {
			used[id] = true
		}
		for range 50 {
			id := deliver(s, "x")[0].PacketID
			if used[id] {
				t.Fatalf("resumed %v: %d is taken again", resumed, id)
			}
			used[id] = true
		}
		for id := range used {
			if id != 0 && len(step(s, &packet.Puback{PacketID: id})) != 0 {
				t.Fatalf("resumed %v: PUBACK %d", resumed, id)
			}
		}
		if s.Queued() != 0 {
			t.Errorf("resumed %v: %d left", resumed, s.Queued())
		}
	}
}

// TestAcknowledgementsOfResumedQoS2: a PUBREC for a message of an earlier
// connection that waits is taken, with or without a failure.
func TestAcknowledgementsOfResumedQoS2(t *testing.T) {
	for _, code := range []packet.ReasonCode{packet.Success, packet.UnspecifiedError} {
		cfg := benchConfig()
		cfg.MaxInflight, cfg.QueueBytes, cfg.QueueMessages = 1, 40, 100
		st := &session.State{}
		for id := range uint16(3) {
			st.Inflight = append(st.Inflight, session.Outgoing{PacketID: id + 1, QoS: packet.QoS2, Sent: true,
				Message: &session.Message{Publish: packet.Publish{Topic: []byte("t"), Payload: []byte("ten bytes."), QoS: packet.QoS2}}})
		}
		c := connect(packet.V5)
		c.CleanStart = false
		s := online(t, cfg, c, &session.Admission{Resumed: true, State: st})
		acts := step(s, &packet.Pubrec{PacketID: 2, ReasonCode: code})
		if rel := len(acts) == 1 && acts[0].Kind == session.SendAck && acts[0].Type == packet.PUBREL; rel != (code == 0) {
			t.Fatalf("PUBREC 0x%x: %v", code, acts)
		}
		if code == 0 {
			step(s, &packet.Pubcomp{PacketID: 2})
		}
		if s.Queued() != 2 || s.Room() != 0 {
			t.Errorf("PUBREC 0x%x: queued %d, room %d", code, s.Queued(), s.Room())
		}
		// Eleven bytes wait; two more messages of that size fit, and no third.
		for i := range 3 {
			deliver(s, "ten bytes.")
			if s.Ended() != (i == 2) {
				t.Fatalf("PUBREC 0x%x: message %d: ended %v", code, i, s.Ended())
			}
		}
	}
}

// TestRestoreSkipsWhatIsLost: a message of QoS 1 that is lost is left out, and
// those behind it are not.
func TestRestoreSkipsWhatIsLost(t *testing.T) {
	m := &session.Message{Publish: packet.Publish{Topic: []byte("t"), Payload: []byte("b")}}
	st := &session.State{Inflight: []session.Outgoing{
		{PacketID: 9, QoS: packet.QoS1, Sent: true},
		{PacketID: 3, QoS: packet.QoS2, Sent: true}, // lost too, and completed
		{PacketID: 4, QoS: packet.QoS1, Message: m},
	}}
	c := connect(packet.V5)
	c.CleanStart = false
	s := online(t, benchConfig(), c, &session.Admission{Resumed: true, State: st})
	left := s.State().Inflight
	if len(left) != 2 || left[0].PacketID != 3 || !left[0].Released || left[1].PacketID != 4 {
		t.Fatalf("%+v", left)
	}
	if id := deliver(s, "c")[0].PacketID; id != 10 {
		t.Errorf("the next id is %d, and the client may remember those up to 9", id)
	}
}

// TestQoS2FailsWithItsPubrel: the answer to a PUBREL that did not wait says
// that the message was refused, and answers of other ids do not.
func TestQoS2FailsWithItsPubrel(t *testing.T) {
	s := online(t, benchConfig(), connect(packet.V5), &session.Admission{Stored: true})
	token := map[uint16]uint64{}
	for id := uint16(1); id <= 2; id++ {
		token[id] = step(s, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS2, PacketID: id})[0].Token
	}
	rel := map[uint16]uint64{}
	for id := uint16(1); id <= 2; id++ {
		rel[id] = step(s, &packet.Pubrel{PacketID: id})[0].Token
	}
	commit := func(token uint64, code packet.ReasonCode) []session.Action {
		return s.Step(session.Input{Kind: session.Committed, Token: token, Code: code}, start, nil)
	}
	if acts := commit(token[1], packet.NotAuthorized); len(acts) != 1 || acts[0].Code != packet.NotAuthorized {
		t.Fatalf("%v", acts)
	}
	acts := commit(token[2], packet.Success)
	if len(acts) != 2 || acts[0].Type != packet.PUBREC || acts[1].Type != packet.PUBCOMP || acts[1].PacketID != 1 || acts[1].Code != packet.PacketIdentifierNotFound {
		t.Fatalf("%v", acts)
	}
	if acts := step(s, &packet.Pubrel{PacketID: 2}); len(acts) != 0 {
		t.Fatalf("a PUBREL that is being stored already: %v", acts)
	}
	if acts := commit(rel[2], packet.Success); len(acts) != 2 || acts[0].PacketID != 2 || acts[1].PacketID != 2 || acts[0].Code != packet.Success {
		t.Fatalf("%v", acts)
	}
	if s.Ended() || s.Owed() != 0 || len(s.State().Received) != 0 {
		t.Errorf("ended %v, owed %d, received %v", s.Ended(), s.Owed(), s.State().Received)
	}
}

// TestUnfinishedReceiptsAreShown: only what was acknowledged by PUBREC is left
// to the next connection, also behind what was not.
func TestUnfinishedReceiptsAreShown(t *testing.T) {
	s := online(t, benchConfig(), connect(packet.V5), &session.Admission{Stored: true})
	var tokens []uint64
	for _, id := range []uint16{9, 3} {
		tokens = append(tokens, step(s, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS2, PacketID: id})[0].Token)
	}
	s.Step(session.Input{Kind: session.Committed, Token: tokens[0]}, start, nil)
	if got := s.State().Received; !slices.Equal(got, []uint16{9}) {
		t.Fatalf("%v", got)
	}
	// A token that is not there, one before all and one twice settle nothing.
	for _, token := range []uint64{tokens[0], 0, tokens[1] + 1} {
		if acts := s.Step(session.Input{Kind: session.Committed, Token: token}, start, nil); len(acts) != 0 {
			t.Fatalf("token %d: %v", token, acts)
		}
	}
	if s.Owed() != 1 || s.Settled() {
		t.Errorf("owed %d, settled %v", s.Owed(), s.Settled())
	}
}

// TestEncodedByReceiver: each version, QoS and RETAIN has an encoding of its
// own, which one message keeps apart.
func TestEncodedByReceiver(t *testing.T) {
	scratch := new(session.Message)
	s := online(t, benchConfig(), connect(packet.V5), nil)
	borrowed, _ := received(t, s, &packet.Publish{Topic: []byte("t"), Payload: []byte("p"), QoS: packet.QoS2, PacketID: 1}, scratch)
	for name, m := range map[string]*session.Message{"stable": borrowed.Keep(), "borrowed": borrowed} {
		for range 2 { // made, and made before
			for _, v := range []packet.Version{packet.V311, packet.V5} {
				for qos := packet.QoS0; qos <= packet.QoS2; qos++ {
					for _, retain := range []bool{false, true} {
						e, err := m.Encoded(v, qos, retain)
						if err != nil {
							t.Fatal(err)
						}
						var p packet.Publish
						if err := p.Decode(v, e.AppendTo(nil, 7, false, 0)); err != nil {
							t.Fatalf("%s, version %d: %v", name, v, err)
						}
						if p.QoS != qos || p.Retain != retain || string(p.Payload) != "p" {
							t.Errorf("%s, version %d, QoS %d, retain %v: QoS %d, retain %v", name, v, qos, retain, p.QoS, p.Retain)
						}
					}
				}
			}
		}
	}
}

// TestReceiveMaximum bounds what is not acknowledged, of QoS 1 and 2 only, and
// does not count what an earlier connection had sent.
func TestReceiveMaximum(t *testing.T) {
	cfg := benchConfig()
	cfg.ReceiveMaximum = 2
	c := connect(packet.V5)
	c.CleanStart = false
	s := online(t, cfg, c, &session.Admission{Resumed: true, State: &session.State{Received: []uint16{7, 8}}})
	step(s, &packet.Pubrel{PacketID: 7})
	for id := uint16(1); id <= 2; id++ {
		step(s, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS1, PacketID: id})
	}
	if step(s, &packet.Publish{Topic: []byte("t")}); s.Ended() {
		t.Fatal("QoS 0 has no Receive Maximum")
	}
	if step(s, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS1, PacketID: 3}); !s.Ended() {
		t.Fatal("a third message was taken")
	}
}

// TestManyAcknowledgements: those that are owed still stay owed, in order, when
// others leave.
func TestManyAcknowledgements(t *testing.T) {
	s := online(t, benchConfig(), connect(packet.V5), nil)
	var tokens []uint64
	for id := uint16(1); id <= 40; id++ {
		tokens = append(tokens, step(s, &packet.Publish{Topic: []byte("t"), QoS: packet.QoS1, PacketID: id})[0].Token)
	}
	next := uint16(1)
	for i, k := range []int{0, 2, 1, 3, 39} {
		acts := s.Step(session.Input{Kind: session.Committed, Token: tokens[k]}, start, nil)
		if want := []int{1, 0, 2, 1, 0}[i]; len(acts) != want {
			t.Fatalf("token %d: %v", k, acts)
		}
		for _, a := range acts {
			if a.PacketID != next {
				t.Fatalf("PUBACK %d, want %d", a.PacketID, next)
			}
			next++
		}
	}
	if s.Owed() != 36 {
		t.Errorf("owed %d", s.Owed())
	}
}

// TestGarbledAnswerToAChallenge: the client hears what was wrong, as far as
// CONNACK can say it.
func TestGarbledAnswerToAChallenge(t *testing.T) {
	for _, c := range []struct {
		err  *packet.Error
		want packet.ReasonCode
	}{
		{nil, packet.MalformedPacket},
		{&packet.Error{Code: packet.ProtocolError}, packet.ProtocolError},
		{&packet.Error{Code: packet.BadAuthenticationMethod}, packet.BadAuthenticationMethod},
		{&packet.Error{Code: packet.PacketTooLarge}, packet.PacketTooLarge},
		{&packet.Error{Code: packet.TopicAliasInvalid}, packet.MalformedPacket},
	} {
		cfg := benchConfig()
		cfg.AuthMethods = []string{"x"}
		con := connect(packet.V5)
		con.AuthenticationMethod = "x"
		s := session.New(cfg, start)
		step(s, con)
		s.Step(session.Input{Kind: session.Challenge}, start, nil)
		acts := s.Step(session.Input{Kind: session.Garbled, Err: c.err, Text: "AUTH"}, start, nil)
		if ack, ok := acts[0].Packet.(*packet.Connack); !ok || ack.ReasonCode != c.want {
			t.Errorf("%v: %v", c.err, acts)
		}
	}
}

// TestReauthenticatedUnasked: an answer that nobody asked for, or without a
// proof, changes nothing.
func TestReauthenticatedUnasked(t *testing.T) {
	for _, method := range []string{"", "x"} {
		cfg := benchConfig()
		cfg.AuthMethods = []string{"x"}
		c := connect(packet.V5)
		c.AuthenticationMethod = method
		s := online(t, cfg, c, nil)
		ends := &session.Admission{ExpiresAt: epoch.Add(time.Second)}
		if acts := s.Step(session.Input{Kind: session.Reauthenticated, Admission: ends}, start, nil); len(acts) != 0 || s.Deadline(start) != 0 {
			t.Errorf("method %q: %v", method, acts)
		}
		if method == "" {
			continue
		}
		step(s, &packet.Auth{ReasonCode: packet.ReAuthenticate, AuthenticationMethod: method})
		if acts := s.Step(session.Input{Kind: session.Reauthenticated}, start, nil); len(acts) != 0 {
			t.Errorf("without a proof: %v", acts)
		}
		if acts := s.Step(session.Input{Kind: session.Reauthenticated, Admission: ends}, start, nil); len(acts) != 1 || s.Deadline(start) == 0 {
			t.Errorf("with a proof: %v", acts)
		}
	}
}

// TestGoodByeHasACode in MQTT 5 only.
func TestGoodByeHasACode(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		s := online(t, benchConfig(), connect(v), nil)
		for _, a := range step(s, &packet.Disconnect{}) {
			if a.Kind == session.End && a.Final.Evidence.HasCode != (v == packet.V5) {
				t.Errorf("version %d: %+v", v, a.Final.Evidence)
			}
		}
	}
}
