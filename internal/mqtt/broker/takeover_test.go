package broker_test

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/presence"
	"rollcall/internal/store/mem"
)

// drivers are the ways in which a connection can be served.
var drivers = []struct {
	name, transport string
	loops           int
}{
	{"tcp", "tcp", 2},
	{"tls", "tls", 2},
	{"ws", "ws", 2},
	{"tcp with goroutines", "tcp", -1},
	{"tls with goroutines", "tls", -1},
}

// repeats is how often a race is run; the full size is for a campaign:
// ROLLCALL_TAKEOVERS=10000.
func repeats(t *testing.T, otherwise int) int {
	text := os.Getenv("ROLLCALL_TAKEOVERS")
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("ROLLCALL_TAKEOVERS=%q is not a number", text)
	}
	return n
}

// TestTakeOverLastWord: the Will of a connection that is taken over comes before
// whatever the new connection publishes, to those who listen and as what is
// retained [MQTT-3.1.4-3].
func TestTakeOverLastWord(t *testing.T) {
	for _, d := range drivers {
		for _, behind := range []bool{true, false} {
			name := d.name + ", online after CONNACK"
			if behind {
				name = d.name + ", online behind CONNECT"
			}
			t.Run(name, func(t *testing.T) {
				s := start(t, durable(mem.New(), func(o *settings) { o.broker.Loops = d.loops }))
				const clients = 4
				n := repeats(t, 100) / clients
				wrong := make([]int, clients)
				var wg sync.WaitGroup
				for k := range clients {
					wg.Go(func() { wrong[k] = s.takeOvers(t, d.transport, k, n, behind) })
				}
				wg.Wait()
				total := 0
				for _, w := range wrong {
					total += w
				}
				t.Logf("%d wrong last words at %d take-overs", total, n*clients)
				if total > 0 {
					t.Errorf("%d of %d take-overs left a wrong last word", total, n*clients)
				}
			})
		}
	}
}

// takeOvers has one client take itself over n times and counts how often
// "offline" of the old connection was the last word.
func (s *server) takeOvers(t *testing.T, transport string, k, n int, behind bool) (wrong int) {
	state := fmt.Sprint("state/", k)
	w := s.dial("tcp", packet.V5, packet.Connect{ClientID: fmt.Sprint("watcher", k)})
	subscribe(t, w, packet.QoS0, state)
	reader := s.dial("tcp", packet.V5, packet.Connect{ClientID: fmt.Sprint("reader", k)})
	var old *peer.Conn
	for i := range n + 1 {
		c := s.open(transport, packet.V5)
		hello := encode(t, packet.V5, &packet.Connect{ClientID: fmt.Sprint("c", k), CleanStart: true, ReceiveMaximum: 65535,
			Will: &packet.Will{Topic: []byte(state), Payload: fmt.Appendf(nil, "offline %d", i), Retain: true}})
		online := encode(t, packet.V5, &packet.Publish{Topic: []byte(state), Payload: fmt.Appendf(nil, "online %d", i), Retain: true})
		if behind {
			hello = append(hello, online...)
		}
		if err := c.Write(hello); err != nil {
			t.Errorf("CONNECT: %v", err)
			return wrong
		}
		receive[*packet.Connack](t, c)
		if !behind {
			if err := c.Write(online); err != nil {
				t.Errorf("PUBLISH: %v", err)
				return wrong
			}
		}
		want := []string{fmt.Sprint("online ", i)}
		if i > 0 {
			want = []string{fmt.Sprint("offline ", i-1), want[0]}
		}
		got := make([]string, len(want))
		for j := range want {
			got[j] = string(receive[*packet.Publish](t, w).Payload)
		}
		if got[0] != want[0] || retained(t, reader, state) != want[len(want)-1] {
			wrong++
		}
		if old != nil {
			old.Close()
		}
		old = c
	}
	return wrong
}

// retained returns what is retained for a topic.
func retained(t *testing.T, c *peer.Conn, topic string) string {
	subscribe(t, c, packet.QoS0, topic)
	p := receive[*packet.Publish](t, c)
	send(t, c, &packet.Unsubscribe{PacketID: 2, Filters: []string{topic}})
	receive[*packet.Unsuback](t, c)
	return string(p.Payload)
}

// TestGoodByeBeforeConnect: a client that says DISCONNECT and connects again at
// once has left by itself, on whatever transport the new connection is read
// first: its Will is not published [MQTT-3.14.4-3], and what it published before
// has come.
func TestGoodByeBeforeConnect(t *testing.T) {
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) {
			s := start(t, durable(mem.New(), func(o *settings) { o.broker.Loops = d.loops }))
			w := s.dial("tcp", packet.V5, packet.Connect{ClientID: "watcher"})
			subscribe(t, w, packet.QoS0, "w", "t")
			const clients = 4
			times := repeats(t, 100) / clients
			var wg sync.WaitGroup
			for k := range clients {
				wg.Go(func() {
					for range times {
						c := s.open(d.transport, packet.V5)
						send(t, c, &packet.Connect{ClientID: fmt.Sprint("c", k), CleanStart: true, SessionExpiryInterval: 100, ReceiveMaximum: 65535, Will: lastWill("gone", 0)})
						receive[*packet.Connack](t, c)
						send(t, c, &packet.Publish{Topic: []byte("t")})
						send(t, c, &packet.Disconnect{})
						c.Close()
					}
				})
			}
			wg.Wait()
			for k := range clients {
				for _, h := range s.history(fmt.Sprint("c", k)) {
					if h.Kind == presence.Disconnected && h.Reason != disconnect.ClientInitiatedDisconnect {
						t.Errorf("session %d of c%d ended by %s: %+v", h.Number, k, h.Reason, h.Evidence)
					}
				}
			}
			end := s.dial("tcp", packet.V5, packet.Connect{ClientID: "end"})
			send(t, end, &packet.Publish{Topic: []byte("w"), Payload: []byte("end")})
			said, wills := 0, 0
			for {
				p := receive[*packet.Publish](t, w)
				if string(p.Payload) == "end" {
					break
				}
				if string(p.Topic) == "w" {
					wills++
				} else {
					said++
				}
			}
			if said != clients*times {
				t.Errorf("%d of %d messages before a good-bye came", said, clients*times)
			}
			if wills > 0 {
				t.Errorf("%d Wills came after a good-bye, of %d", wills, clients*times)
			}
		})
	}
}
