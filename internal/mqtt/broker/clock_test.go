package broker_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"rollcall/internal/clock/clocktest"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/transport"
)

const tenYears = 10 * 365 * 24 * time.Hour

var jumps = []time.Duration{time.Hour, -time.Hour, tenYears, -tenYears}

// handClock begins late enough for ten years earlier to be a time that a clock
// may show.
func handClock() *clocktest.Hand {
	return clocktest.NewHand(time.Date(2037, 1, 1, 0, 0, 0, 0, time.UTC))
}

func (s *server) isOpen(id string) bool {
	s.t.Helper()
	st, err := s.ledger.Show(realm, id)
	if err != nil {
		s.t.Fatal(err)
	}
	return st.Open()
}

// ping has a client ping, and waits until the server has no part in it any more:
// time that passes by hand would pass in the middle of it.
func (s *server) ping(c *peer.Conn) {
	s.t.Helper()
	send(s.t, c, &packet.Pingreq{})
	receive[*packet.Pingresp](s.t, c)
	s.idle()
}

func (s *server) idle() {
	s.t.Helper()
	if !eventually(func() bool { return s.b.Idle("") }) {
		s.t.Fatal("a write does not end")
	}
}

// A wall clock that is set, either way and however far, ends no session, and a
// silent client is found when its time has passed.
func TestWallClockJumpEndsNobody(t *testing.T) {
	for _, transport := range []string{"tcp", "tls", "ws"} {
		for _, jump := range jumps {
			t.Run(transport+" "+jump.String(), func(t *testing.T) {
				hand := handClock()
				s := start(t, settings{broker: broker.Options{Clock: hand}})
				silent := s.dial(transport, packet.V5, packet.Connect{ClientID: "silent", KeepAlive: 60})
				other := s.dial(transport, packet.V5, packet.Connect{ClientID: "other", KeepAlive: 600})
				s.idle()
				hand.SetWall(jump)
				hand.Advance(30 * time.Second)
				if !s.isOpen("silent") {
					t.Fatalf("%+v", s.history("silent")[1])
				}
				s.ping(silent)
				hand.SetWall(-jump)
				hand.Advance(30 * time.Second)
				s.ping(silent)
				hand.SetWall(jump)
				for range 89 {
					hand.Advance(time.Second)
				}
				s.ping(other)
				if !s.isOpen("silent") {
					t.Fatal("ended before its time")
				}
				hand.Advance(2 * time.Second)
				if !eventually(func() bool { hand.Advance(time.Millisecond); return !s.isOpen("silent") }) {
					t.Fatal("the silent client was not found")
				}
				if ts := s.history("silent"); !strings.Contains(ts[1].Evidence.Detail, "no packet for 1m30s") {
					t.Errorf("evidence %q", ts[1].Evidence.Detail)
				}
				s.ping(other)
			})
		}
	}
}

// What waits for its time waits as long as it should, whatever the wall clock
// is set to: a Will that is delayed, and the expiry of a session.
func TestWallClockJumpMovesNoDeadline(t *testing.T) {
	for _, jump := range jumps {
		t.Run(jump.String(), func(t *testing.T) {
			hand := handClock()
			s := start(t, settings{broker: broker.Options{Clock: hand}})
			watcher := s.dial("tcp", packet.V5, packet.Connect{ClientID: "watcher"})
			subscribe(t, watcher, packet.QoS0, "will")
			connect := packet.Connect{ClientID: "c", SessionExpiryInterval: 100,
				Will: &packet.Will{Topic: []byte("will"), Payload: []byte("gone"), DelayInterval: 20}}
			c := s.open("tcp", packet.V5)
			send(t, c, &connect)
			receive[*packet.Connack](t, c)
			c.Abort()
			if !eventually(func() bool { return !s.isOpen("c") }) {
				t.Fatal("the connection did not end")
			}

			hand.SetWall(jump)
			hand.Advance(19 * time.Second)
			s.b.WorkOffDue()
			if n := s.metric("rollcall_mqtt_messages_published_total"); n != 0 {
				t.Fatal("the Will was published before its time")
			}
			hand.Advance(time.Second)
			s.b.WorkOffDue()
			if p := receive[*packet.Publish](t, watcher); string(p.Payload) != "gone" {
				t.Fatalf("got %q", p.Payload)
			}
			hand.Advance(79 * time.Second)
			s.b.WorkOffDue()
			again := s.open("tcp", packet.V5)
			connect.Will = nil
			send(t, again, &connect)
			if ack := receive[*packet.Connack](t, again); !ack.SessionPresent {
				t.Fatal("the session was gone before its time")
			}
			again.Abort()
			if !eventually(func() bool { return !s.isOpen("c") }) {
				t.Fatal("the connection did not end")
			}
			hand.Advance(101 * time.Second)
			s.b.WorkOffDue()
			if !eventually(func() bool { return s.metric("rollcall_mqtt_dropped_sessions_total") > 0 }) {
				t.Fatal("the session did not expire")
			}
		})
	}
}

// A client that reads slowly, without a pause, takes bytes all the time,
// although the system has no room for more for minutes; and it is not silent
// while what it sends is not read because of that. One that does not read is
// lost.
func TestSlowReaderIsNotLost(t *testing.T) {
	for _, transport := range []string{"tcp", "tls", "ws"} {
		t.Run(transport, func(t *testing.T) {
			hand := handClock()
			s := start(t, settings{broker: broker.Options{Clock: hand, WriteTimeout: 30 * time.Second, OutputBytes: 64 << 10},
				session: func(c *session.Config) { c.QueueBytes, c.MaxInflight = 64<<20, 30 }})
			slow := s.dial(transport, packet.V5, packet.Connect{ClientID: "slow", KeepAlive: 120})
			raw := small(t, slow)
			subscribe(t, slow, packet.QoS1, "big")
			from := s.dial("tcp", packet.V5, packet.Connect{ClientID: "from"})
			for i := range 25 {
				send(t, from, &packet.Publish{Topic: []byte("big"), QoS: packet.QoS1, PacketID: uint16(i + 1), Payload: make([]byte, 990_000)})
				receive[*packet.Puback](t, from)
			}
			if !eventually(func() bool { return s.b.Idle("from") }) {
				t.Fatal("the publisher's acknowledgements are not written")
			}
			buf := make([]byte, 128<<10)
			for range 20 {
				if err := slow.Send(&packet.Pingreq{}); err != nil {
					t.Fatalf("%v: %s", err, s.history("slow")[1].Evidence.Detail)
				}
				for n := 0; n < 512<<10; {
					m, err := raw.Read(buf)
					if err != nil {
						t.Fatalf("%v: %s", err, s.history("slow")[1].Evidence.Detail)
					}
					n += m
				}
				hand.Advance(5 * time.Second)
				hand.Advance(5 * time.Second)
			}
			if !s.isOpen("slow") {
				t.Fatalf("ended: %s", s.history("slow")[1].Evidence.Detail)
			}
			if !eventually(func() bool { hand.Advance(5 * time.Second); return !s.isOpen("slow") }) {
				t.Fatal("a client that does not read was not found")
			}
			if ts := s.history("slow"); !strings.Contains(ts[1].Evidence.Detail, "acknowledged no bytes for 30s") {
				t.Errorf("evidence %q", ts[1].Evidence.Detail)
			}
		})
	}
}

// small gives a client a small receive buffer, since the system tells the peer
// of room in a large one late, and returns the connection that has it.
func small(t *testing.T, c *peer.Conn) net.Conn {
	t.Helper()
	tcp, ok := transport.Base(c.Net()).(*net.TCPConn)
	if !ok {
		t.Fatalf("no TCP connection below %T", c.Net())
	}
	if err := tcp.SetReadBuffer(128 << 10); err != nil {
		t.Fatal(err)
	}
	return tcp
}

// A connection that has ended is closed soon, also if its client does not close
// its side and an earlier deadline of it comes in between.
func TestLingeringEndsDespiteEarlierDeadline(t *testing.T) {
	for _, transport := range []string{"tcp", "tls", "ws"} {
		t.Run(transport, func(t *testing.T) {
			hand := handClock()
			s := start(t, settings{broker: broker.Options{Clock: hand}})
			for range 10 {
				c := s.open(transport, packet.V5)
				hand.Advance(9500 * time.Millisecond) // CONNECT must come within 10 s
				send(t, c, &packet.Pingreq{})         // instead of it
				closed(t, c)
				hand.Advance(700 * time.Millisecond)
				if !eventuallyWithin(10*time.Second, func() bool { hand.Advance(200 * time.Millisecond); return s.b.Connections() == 0 }) {
					t.Fatal("the connection stays open")
				}
			}
		})
	}
}
