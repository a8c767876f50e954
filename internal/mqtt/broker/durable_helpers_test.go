package broker_test

import (
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/pebble"
)

// lasting is an engine that outlives the server which closes it.
type lasting struct{ store.Engine }

// Close implements store.Engine.
func (lasting) Close() error { return nil }

// everyEngine runs a test on memory, on Pebble and on an engine that takes its
// time.
func everyEngine(t *testing.T, f func(t *testing.T, e store.Engine)) {
	for name, open := range map[string]func(t *testing.T) store.Engine{
		"memory": func(*testing.T) store.Engine { return mem.New() },
		"pebble": func(t *testing.T) store.Engine {
			e, err := pebble.Open(pebble.Options{Dir: "/store", FS: vfs.NewMem()})
			if err != nil {
				t.Fatal(err)
			}
			return e
		},
		"delay": func(*testing.T) store.Engine {
			return delay.New(mem.New(), delay.Options{Max: 5 * time.Millisecond, Seed: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t)
			defer func() {
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			}()
			t.Run("server", func(t *testing.T) { f(t, lasting{e}) }) // ends before the engine
		})
	}
}

// durable are settings with everything that MQTT has.
func durable(e store.Engine, edit ...func(*settings)) settings {
	o := settings{keeps: true, engine: e, session: func(c *session.Config) {
		c.MaximumQoS = packet.QoS2
		c.RetainAvailable, c.SharedAvailable, c.SubscriptionIDAvailable = true, true, true
	}}
	for _, f := range edit {
		f(&o)
	}
	return o
}

// with changes the session's settings.
func with(f func(*session.Config)) func(*settings) {
	return func(o *settings) {
		inner := o.session
		o.session = func(c *session.Config) {
			inner(c)
			f(c)
		}
	}
}

const never = 0xFFFFFFFF

// connect connects a client whose session may be there and is to be kept.
func (s *server) connect(v packet.Version, p packet.Connect) (*peer.Conn, *packet.Connack) {
	s.t.Helper()
	c := s.open("tcp", v)
	if p.ReceiveMaximum == 0 {
		p.ReceiveMaximum = 65535
	}
	if p.SessionExpiryInterval == 0 && v == packet.V5 && !p.CleanStart {
		p.SessionExpiryInterval = never
	}
	send(s.t, c, &p)
	return c, receive[*packet.Connack](s.t, c)
}

// resume connects a client whose session is there, or is not, as present says.
func (s *server) resume(v packet.Version, id string, present bool) *peer.Conn {
	s.t.Helper()
	c, ack := s.connect(v, packet.Connect{ClientID: id})
	if ack.ReasonCode != packet.Success || ack.SessionPresent != present {
		s.t.Fatalf("%s: %s, session present %v", id, ack.ReasonCode, ack.SessionPresent)
	}
	return c
}

// put publishes with QoS 1 or 2 and waits until the server has taken it.
func put(t testing.TB, c *peer.Conn, qos packet.QoS, id uint16, topic, payload string) {
	t.Helper()
	send(t, c, &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, PacketID: id})
	if qos == packet.QoS1 {
		if p := receive[*packet.Puback](t, c); p.PacketID != id || p.ReasonCode.Failed() {
			t.Fatalf("PUBACK %+v", p)
		}
		return
	}
	if p := receive[*packet.Pubrec](t, c); p.PacketID != id || p.ReasonCode.Failed() {
		t.Fatalf("PUBREC %+v", p)
	}
	send(t, c, &packet.Pubrel{PacketID: id})
	receive[*packet.Pubcomp](t, c)
}

// take expects a message and acknowledges it to the end.
func take(t testing.TB, c *peer.Conn, payload string) *packet.Publish {
	t.Helper()
	p := receive[*packet.Publish](t, c)
	if string(p.Payload) != payload {
		t.Fatalf("received %q, want %q", p.Payload, payload)
	}
	confirm(t, c, p)
	return p
}

func confirm(t testing.TB, c *peer.Conn, p *packet.Publish) {
	t.Helper()
	switch p.QoS {
	case packet.QoS1:
		send(t, c, &packet.Puback{PacketID: p.PacketID})
	case packet.QoS2:
		send(t, c, &packet.Pubrec{PacketID: p.PacketID})
		receive[*packet.Pubrel](t, c)
		send(t, c, &packet.Pubcomp{PacketID: p.PacketID})
	}
}

// silent expects that nothing has come for the client.
func silent(t testing.TB, c *peer.Conn) {
	t.Helper()
	send(t, c, &packet.Pingreq{})
	receive[*packet.Pingresp](t, c)
}

// quiet is silent where PUBREL may be on its way.
func quiet(t testing.TB, c *peer.Conn) {
	t.Helper()
	send(t, c, &packet.Pingreq{})
	for {
		got, err := c.Receive(deadline())
		switch got.(type) {
		case *packet.Pubrel:
		case *packet.Pingresp:
			return
		default:
			t.Fatalf("received %+v, %v", got, err)
		}
	}
}

// cut breaks a connection and waits until the server has noticed.
func (s *server) cut(c *peer.Conn, id string) {
	s.t.Helper()
	c.Abort()
	s.history(id)
}

// leave says good-bye and waits until the server has noted that.
func (s *server) leave(c *peer.Conn, id string, p *packet.Disconnect) {
	s.t.Helper()
	send(s.t, c, p)
	closed(s.t, c)
	s.history(id)
}

// hears drains messages, acknowledging them, until the payload last, and
// returns the payloads.
func hears(t testing.TB, c *peer.Conn, last string) (got []string) {
	t.Helper()
	for {
		p, err := c.Receive(time.Now().Add(patience))
		if err != nil {
			t.Fatalf("%v after %d messages", err, len(got))
		}
		switch p := p.(type) {
		case *packet.Publish:
			got = append(got, string(p.Payload))
			switch p.QoS {
			case packet.QoS1:
				send(t, c, &packet.Puback{PacketID: p.PacketID})
			case packet.QoS2:
				send(t, c, &packet.Pubrec{PacketID: p.PacketID})
			}
		case *packet.Pubrel:
			send(t, c, &packet.Pubcomp{PacketID: p.PacketID})
		}
		if slices.Contains(got, last) {
			return got
		}
	}
}

func deadline() time.Time { return time.Now().Add(patience) }

// ackOf is the first acknowledgement of a message.
func ackOf(p *packet.Publish) packet.Packet {
	if p.QoS == packet.QoS1 {
		return &packet.Puback{PacketID: p.PacketID}
	}
	return &packet.Pubrec{PacketID: p.PacketID}
}
