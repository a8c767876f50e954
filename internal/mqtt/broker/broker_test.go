package broker_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/presence"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
)

// TestTransports: the same conversation over each, up to an order by the
// server to leave.
func TestTransports(t *testing.T) {
	s := start(t, settings{})
	for transport := range s.targets {
		t.Run(transport, func(t *testing.T) {
			c := s.dial(transport, packet.V5, packet.Connect{ClientID: "c-" + transport})
			subscribe(t, c, packet.QoS1, "a/#")
			payload := make([]byte, 100_000) // many reads, and frames that do not fit one
			for id := uint16(1); id <= 3; id++ {
				send(t, c, &packet.Publish{Topic: []byte("a/b"), QoS: packet.QoS1, PacketID: id, Payload: payload})
				for range 2 {
					p, err := c.Receive(time.Now().Add(patience))
					if err != nil {
						t.Fatal(err)
					}
					switch p := p.(type) {
					case *packet.Publish:
						if len(p.Payload) != len(payload) {
							t.Fatalf("%d bytes", len(p.Payload))
						}
						send(t, c, &packet.Puback{PacketID: p.PacketID})
					case *packet.Puback:
						if p.PacketID != id {
							t.Fatalf("PUBACK %d, want %d", p.PacketID, id)
						}
					}
				}
			}
			if !s.b.End(realm, "c-"+transport, "test") {
				t.Error("there was nobody to end")
			}
			if d := receive[*packet.Disconnect](t, c); d.ReasonCode != packet.AdministrativeAction {
				t.Errorf("DISCONNECT %s", d.ReasonCode)
			}
			closed(t, c)
			if ts := s.history("c-" + transport); ts[1].Reason != disconnect.ServerInitiatedDisconnect {
				t.Errorf("%+v", ts[1])
			}
		})
	}
}

// TestTakeOverStorm: many connections fight for few sessions while commits
// take their time. Whoever is let in hears CONNACK and then DISCONNECT 0x8E,
// and the ledger has exactly those who were let in (P1).
func TestTakeOverStorm(t *testing.T) {
	s := start(t, settings{engine: delay.New(mem.New(), delay.Options{Max: 4 * time.Millisecond, Seed: 7})})
	const sessions, rivals = 3, 24
	transports := []string{"tcp", "tls", "ws"}
	var wg sync.WaitGroup
	var mu sync.Mutex
	admitted := map[string]int{}
	for i := range rivals {
		id := fmt.Sprintf("s%d", i%sessions)
		c := s.open(transports[i/sessions%3], packet.V5)
		wg.Go(func() {
			if c.Send(&packet.Connect{ClientID: id, CleanStart: true, ReceiveMaximum: 65535}) != nil {
				t.Error("cannot send")
				return
			}
			p, err := c.Receive(time.Now().Add(patience))
			ack, ok := p.(*packet.Connack)
			if err != nil || !ok {
				t.Errorf("%v %v instead of CONNACK", p, err)
				return
			}
			if ack.ReasonCode != packet.Success {
				t.Errorf("refused: %s", ack.ReasonCode)
				return
			}
			mu.Lock()
			admitted[id]++
			mu.Unlock()
			if p, err = c.Receive(time.Now().Add(patience)); err != nil {
				t.Errorf("%v instead of DISCONNECT", err)
			} else if d, ok := p.(*packet.Disconnect); !ok || d.ReasonCode != packet.SessionTakenOver && d.ReasonCode != packet.AdministrativeAction {
				t.Errorf("%v instead of DISCONNECT", p)
			}
			closed(t, c)
		})
	}
	total := func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range admitted {
			n += a
		}
		return n
	}
	if !eventually(func() bool { return total() == rivals }) {
		t.Fatalf("%d of %d were let in", total(), rivals)
	}
	for i := range sessions {
		if !s.b.End(realm, fmt.Sprintf("s%d", i), "") {
			t.Error("nobody is left")
		}
	}
	wg.Wait()
	for i := range sessions {
		id := fmt.Sprintf("s%d", i)
		ts := s.history(id)
		if len(ts) != 2*admitted[id] {
			t.Errorf("%s: %d transitions for %d connections", id, len(ts), admitted[id])
		}
		for j, tr := range ts {
			want := presence.Kind(j%2 + 1)
			if tr.Kind != want || tr.Number != uint64(j/2+1) {
				t.Fatalf("%s: transition %d is %s %d", id, j, tr.Kind, tr.Number)
			}
			if tr.Kind == presence.Disconnected && j < len(ts)-1 && tr.Reason != disconnect.SessionTakenOver {
				t.Errorf("%s: %d ended by %s", id, tr.Number, tr.Reason)
			}
		}
	}
}

// custody is a ledger that decides claims when the test says so.
type custody struct {
	mu     sync.Mutex
	claims []heldClaim
	came   chan struct{}
}

type heldClaim struct {
	broker.Claim
	done func(broker.Hold, error)
}

func (c *custody) Amend(_, _ string, stage func(*store.Batch, bool) bool, done func(error)) {
	stage(store.NewBatch(store.Normal), false)
	done(nil)
}

func (c *custody) Claim(cl broker.Claim, done func(broker.Hold, error)) {
	cl.Stage(store.NewBatch(store.Normal), 1)
	c.mu.Lock()
	c.claims = append(c.claims, heldClaim{cl, done})
	c.mu.Unlock()
	c.came <- struct{}{}
}

func (c *custody) next(t *testing.T) heldClaim {
	t.Helper()
	select {
	case <-c.came:
	case <-time.After(patience):
		t.Fatal("no claim came")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.claims[0]
	c.claims = c.claims[1:]
	return cl
}

// tenure records how it was released, once.
type tenure struct{ released chan disconnect.Reason }

func newTenure() tenure { return tenure{make(chan disconnect.Reason, 1)} }

func (h tenure) Release(r disconnect.Reason, _ disconnect.Evidence, _ broker.Stage) {
	select {
	case h.released <- r:
	default: // the first counts
	}
}

func (h tenure) reason(t *testing.T) disconnect.Reason {
	t.Helper()
	select {
	case r := <-h.released:
		return r
	case <-time.After(patience):
		t.Fatal("the hold is not released")
		return 0
	}
}

func newCustody() *custody { return &custody{came: make(chan struct{}, 16)} }

// TestRevokedWhileAdmissionIsPending: the registry changes its mind while the
// claim commits. The client hears CONNACK 0x87, the ledger the reason.
func TestRevokedWhileAdmissionIsPending(t *testing.T) {
	cu := newCustody()
	s := start(t, settings{broker: broker.Options{Presence: cu}})
	var mu sync.Mutex
	var standing error
	s.gate.set(func(_ context.Context, c broker.Credentials) (broker.Identity, error) {
		return broker.Identity{AuthenticationName: c.ClientID, Standing: func() error {
			mu.Lock()
			defer mu.Unlock()
			return standing
		}}, nil
	})
	c := s.open("tcp", packet.V5)
	send(t, c, &packet.Connect{ClientID: "x", CleanStart: true, ReceiveMaximum: 65535})
	cl := cu.next(t)
	mu.Lock()
	standing = fmt.Errorf("the client was disabled")
	mu.Unlock()
	s.b.Reconsider()
	h := newTenure()
	cl.done(h, nil)
	if ack := receive[*packet.Connack](t, c); ack.ReasonCode != packet.NotAuthorized {
		t.Errorf("CONNACK %s", ack.ReasonCode)
	}
	closed(t, c)
	if r := h.reason(t); r != disconnect.ClientAuthenticationError {
		t.Errorf("released for %s", r)
	}
	// And before it is claimed at all: refused, and nothing is claimed.
	c = s.open("tcp", packet.V5)
	send(t, c, &packet.Connect{ClientID: "x", CleanStart: true, ReceiveMaximum: 65535})
	if ack := receive[*packet.Connack](t, c); ack.ReasonCode != packet.NotAuthorized {
		t.Errorf("CONNACK %s", ack.ReasonCode)
	}
	closed(t, c)
	if len(cu.came) != 0 {
		t.Error("a claim came")
	}
}

// TestShutdownWhileConnecting: whoever is in the middle of connecting gets an
// answer and no session, or one that ends.
func TestShutdownWhileConnecting(t *testing.T) {
	cu := newCustody()
	s := start(t, settings{broker: broker.Options{Presence: cu}})
	judging, judge := make(chan struct{}), make(chan struct{})
	s.gate.set(func(_ context.Context, c broker.Credentials) (broker.Identity, error) {
		if c.ClientID == "judged" {
			close(judging)
			<-judge
		}
		return broker.Identity{AuthenticationName: c.ClientID}, nil
	})
	silent := s.open("tcp", packet.V5)
	judged, claiming := s.open("tcp", packet.V5), s.open("tls", packet.V5)
	send(t, judged, &packet.Connect{ClientID: "judged", CleanStart: true, ReceiveMaximum: 65535})
	send(t, claiming, &packet.Connect{ClientID: "claiming", CleanStart: true, ReceiveMaximum: 65535})
	<-judging
	cl := cu.next(t)
	s.b.Shutdown()
	close(judge)
	h := newTenure()
	cl.done(h, nil)
	closed(t, silent)
	for _, c := range []*peer.Conn{judged, claiming} {
		if ack := receive[*packet.Connack](t, c); ack.ReasonCode != packet.ServerUnavailable {
			t.Errorf("CONNACK %s", ack.ReasonCode)
		}
		closed(t, c)
	}
	if r := h.reason(t); r != disconnect.ServerInitiatedDisconnect {
		t.Errorf("released for %s", r)
	}
	if len(cu.came) != 0 {
		t.Error("a client was claimed for after the shutdown")
	}
}

// TestNothingIsActedOnWhileFrozen: what arrives after Freeze waits for
// Unfreeze, and is lost with Evict. A kick meanwhile is honoured.
func TestNothingIsActedOnWhileFrozen(t *testing.T) {
	cu := newCustody()
	s := start(t, settings{broker: broker.Options{Presence: cu}})
	connect := func(id string, p packet.Connect) (*peer.Conn, broker.Connection, tenure) {
		c := s.open("tcp", packet.V5)
		p.ClientID, p.CleanStart, p.ReceiveMaximum = id, true, 65535
		send(t, c, &p)
		cl, h := cu.next(t), newTenure()
		cl.done(h, nil)
		receive[*packet.Connack](t, c)
		return c, cl.Conn, h
	}
	watcher, _, _ := connect("watcher", packet.Connect{})
	subscribe(t, watcher, packet.QoS0, "t")
	c, link, h := connect("c", packet.Connect{Will: &packet.Will{Topic: []byte("t"), Payload: []byte("will")}})
	say := func(text string) { send(t, c, &packet.Publish{Topic: []byte("t"), Payload: []byte(text)}) }
	heard := func(want string) {
		t.Helper()
		if p := receive[*packet.Publish](t, watcher); string(p.Payload) != want {
			t.Fatalf("heard %q, want %q", p.Payload, want)
		}
	}
	say("1")
	heard("1")
	link.Freeze()
	say("2")
	send(t, watcher, &packet.Pingreq{}) // long enough for "2" to have come, if it did
	receive[*packet.Pingresp](t, watcher)
	link.Unfreeze()
	heard("2")
	link.Freeze()
	say("3")
	link.Evict(disconnect.Evidence{Kind: disconnect.Newcomer, Detail: "test"})
	if d := receive[*packet.Disconnect](t, c); d.ReasonCode != packet.SessionTakenOver {
		t.Errorf("DISCONNECT %s", d.ReasonCode)
	}
	closed(t, c)
	heard("will") // and not "3"
	if r := h.reason(t); r != disconnect.SessionTakenOver {
		t.Errorf("released for %s", r)
	}

	// Kicked while frozen; the take-over fails.
	c, link, h = connect("c", packet.Connect{})
	link.Freeze()
	if !s.b.End(realm, "c", "") {
		t.Error("there was nobody to end")
	}
	if d := receive[*packet.Disconnect](t, c); d.ReasonCode != packet.AdministrativeAction {
		t.Errorf("DISCONNECT %s", d.ReasonCode)
	}
	link.Unfreeze()
	closed(t, c)
	if r := h.reason(t); r != disconnect.ServerInitiatedDisconnect {
		t.Errorf("released for %s", r)
	}

	// Dies while frozen; then the take-over stands.
	c, link, h = connect("c", packet.Connect{})
	link.Freeze()
	c.Abort()
	if r := h.reason(t); r != disconnect.ConnectionLost {
		t.Errorf("released for %s", r)
	}
	link.Evict(disconnect.Evidence{})
}

// TestSlowReader: a client that reads nothing costs others nothing. QoS 0 to it
// is dropped and counted; QoS 1 overflows its queue and ends its session.
func TestSlowReader(t *testing.T) {
	s := start(t, settings{
		broker:  broker.Options{OutputBytes: 32 << 10},
		session: func(c *session.Config) { c.QueueMessages = 20 },
	})
	lazy := s.dial("tcp", packet.V5, packet.Connect{ClientID: "lazy"})
	subscribe(t, lazy, packet.QoS1, "t/#")
	eager := s.dial("tcp", packet.V5, packet.Connect{ClientID: "eager"})
	subscribe(t, eager, packet.QoS1, "t/#")
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	payload := make([]byte, 64<<10)
	dropped := func() float64 { return s.metric("rollcall_mqtt_messages_dropped_total", "congested") }
	for n := 0; dropped() == 0; n++ {
		if n > 2000 {
			t.Fatal("nothing is dropped")
		}
		send(t, pub, &packet.Publish{Topic: []byte("t/0"), Payload: payload})
		receive[*packet.Publish](t, eager)
	}
	for n := uint16(1); ; n++ {
		if n > 1000 {
			t.Fatal("the queue does not overflow")
		}
		send(t, pub, &packet.Publish{Topic: []byte("t/1"), QoS: packet.QoS1, PacketID: n, Payload: payload})
		receive[*packet.Puback](t, pub)
		p := receive[*packet.Publish](t, eager)
		send(t, eager, &packet.Puback{PacketID: p.PacketID})
		if st, err := s.ledger.Show(realm, "lazy"); err == nil && !st.Open() {
			break
		}
	}
	ts := s.history("lazy")
	if ts[1].Reason != disconnect.SessionOverflow || ts[1].Evidence.Kind != disconnect.Limit {
		t.Errorf("%+v", ts[1])
	}
	lazy.Close()
}

// TestFloodWithoutReading: a peer that asks and never reads the answers is not
// read from any more, and then counts as lost.
func TestFloodWithoutReading(t *testing.T) {
	s := start(t, settings{broker: broker.Options{OutputBytes: 4 << 10, WriteTimeout: 300 * time.Millisecond}})
	for _, transport := range []string{"tcp", "tls", "ws"} {
		id := "flood-" + transport
		c := s.dial(transport, packet.V5, packet.Connect{ClientID: id})
		pings := []byte(strings.Repeat("\xc0\x00", 32<<10))
		// The two systems take millions of answers before the server cannot write.
		if err := c.Net().SetWriteDeadline(time.Now().Add(4 * patience)); err != nil {
			t.Fatal(err)
		}
		var err error
		for n := 0; err == nil; n++ {
			if n > 20_000 {
				t.Fatal("the server goes on reading")
			}
			err = c.Write(pings)
		}
		if isTimeout(err) {
			t.Fatal("the server neither reads nor closes")
		}
		if ts := s.history(id); ts[1].Reason != disconnect.ConnectionLost || !strings.Contains(ts[1].Evidence.Detail, "acknowledged no bytes") {
			t.Errorf("%s: %+v", transport, ts[1])
		}
	}
}

// TestWillFollowsWhatWasPublished: whatever ends a connection, its Will comes
// after its messages.
func TestWillFollowsWhatWasPublished(t *testing.T) {
	s := start(t, settings{})
	w := s.dial("tcp", packet.V311, packet.Connect{ClientID: "watcher"})
	subscribe(t, w, packet.QoS1, "status")
	for name, finish := range map[string]func(c *peer.Conn){
		"reset":      func(c *peer.Conn) { c.Close() },
		"violation":  func(c *peer.Conn) { _ = c.Write([]byte{0, 0}) },
		"with will":  func(c *peer.Conn) { send(t, c, &packet.Disconnect{ReasonCode: packet.DisconnectWithWillMessage}) },
		"take-over":  func(*peer.Conn) { s.dial("tls", packet.V5, packet.Connect{ClientID: "dev"}) },
		"by command": func(*peer.Conn) { s.b.End(realm, "dev", "") },
	} {
		c := s.dial("tcp", packet.V5, packet.Connect{ClientID: "dev",
			Will: &packet.Will{Topic: []byte("status"), Payload: []byte("gone"), QoS: packet.QoS1}})
		for i := range 50 {
			send(t, c, &packet.Publish{Topic: []byte("status"), Payload: fmt.Append(nil, i)})
		}
		send(t, c, &packet.Pingreq{})
		receive[*packet.Pingresp](t, c) // all is routed, perhaps not delivered
		finish(c)
		for i := range 50 {
			if p := receive[*packet.Publish](t, w); string(p.Payload) != fmt.Sprint(i) {
				t.Fatalf("%s: %q, want %d", name, p.Payload, i)
			}
		}
		p := receive[*packet.Publish](t, w)
		if string(p.Payload) != "gone" {
			t.Fatalf("%s: %q instead of the Will", name, p.Payload)
		}
		send(t, w, &packet.Puback{PacketID: p.PacketID})
	}
}

// TestFaultsStayInTheirConnection: a panic in what one client's connection
// runs ends that connection and no other.
func TestFaultsStayInTheirConnection(t *testing.T) {
	s := start(t, settings{})
	s.gate.set(func(_ context.Context, c broker.Credentials) (broker.Identity, error) {
		if c.ClientID == "bad" {
			panic("test")
		}
		return broker.Identity{AuthenticationName: c.ClientID, Standing: func() error { return nil }}, nil
	})
	good := s.dial("tcp", packet.V5, packet.Connect{ClientID: "good"})
	bad := s.open("tcp", packet.V5)
	send(t, bad, &packet.Connect{ClientID: "bad", CleanStart: true, ReceiveMaximum: 65535})
	if ack := receive[*packet.Connack](t, bad); ack.ReasonCode != packet.ServerUnavailable {
		t.Errorf("CONNACK %s", ack.ReasonCode)
	}
	closed(t, bad)
	send(t, good, &packet.Pingreq{})
	receive[*packet.Pingresp](t, good)
	if n := s.metric("rollcall_mqtt_connection_faults_total"); n != 1 {
		t.Errorf("%v faults", n)
	}
}

// TestKeepAlive: silence, and half a packet, which is no packet.
func TestKeepAlive(t *testing.T) {
	s := start(t, settings{session: func(c *session.Config) { c.ConnectTimeout = 200 * time.Millisecond }})
	c := s.dial("tcp", packet.V5, packet.Connect{ClientID: "quiet", KeepAlive: 1})
	half := s.dial("tcp", packet.V311, packet.Connect{ClientID: "half", KeepAlive: 1})
	if err := half.Write([]byte{0x30, 100, 0}); err != nil {
		t.Fatal(err)
	}
	never, part := s.open("tcp", packet.V5), s.open("tcp", packet.V5)
	if err := part.Write([]byte{0x10, 100, 0}); err != nil {
		t.Fatal(err)
	}
	closed(t, never)
	closed(t, part)
	if d := receive[*packet.Disconnect](t, c); d.ReasonCode != packet.KeepAliveTimeout {
		t.Errorf("DISCONNECT %s", d.ReasonCode)
	}
	closed(t, half)
	for _, id := range []string{"quiet", "half"} {
		if ts := s.history(id); ts[1].Reason != disconnect.ClientError || ts[1].Evidence.Kind != disconnect.Timer {
			t.Errorf("%s: %+v", id, ts[1])
		}
	}
}

// TestHalfClose: a client that closes its side after DISCONNECT, or without.
func TestHalfClose(t *testing.T) {
	s := start(t, settings{})
	for text, reason := range map[string]disconnect.Reason{
		hello311 + "c000" + "e000": disconnect.ClientInitiatedDisconnect,
		hello311:                   disconnect.ConnectionLost,
	} {
		nc, err := net.Dial("tcp", strings.TrimPrefix(s.targets["tcp"], "mqtt://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write(unhex(t, text)); err != nil {
			t.Fatal(err)
		}
		if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadAll(nc); err != nil {
			t.Error(err)
		}
		nc.Close()
		ts := s.history("c")
		if last := ts[len(ts)-1]; last.Reason != reason {
			t.Errorf("%s: %s", text, last.Reason)
		}
	}
}
