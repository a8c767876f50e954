package broker_test

import (
	"fmt"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
)

func lastWill(payload string, delay uint32) *packet.Will {
	return &packet.Will{Topic: []byte("w"), Payload: []byte(payload), QoS: packet.QoS1, DelayInterval: delay}
}

// TestDelayedWill: it comes when the session ends, if that is before its delay
// is over; not at all if the client is back before; and never twice.
func TestDelayedWill(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		s := start(t, durable(e))
		w := s.dial("tcp", packet.V5, packet.Connect{ClientID: "watcher"})
		subscribe(t, w, packet.QoS1, "w")
		// Cancelled by coming back.
		c, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", Will: lastWill("1", 3600)})
		s.cut(c, "c")
		c, _ = s.connect(packet.V5, packet.Connect{ClientID: "c", Will: lastWill("2", 3600)})
		silent(t, w)
		// Taken over: the session goes on, and the delay is cancelled.
		c2, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", Will: lastWill("3", 3600)})
		receive[*packet.Disconnect](t, c)
		closed(t, c)
		silent(t, w)
		// Taken over with Clean Start: the session ends, and the Will comes, once.
		c, _ = s.connect(packet.V5, packet.Connect{ClientID: "c", CleanStart: true, SessionExpiryInterval: 100, Will: lastWill("4", 3600)})
		receive[*packet.Disconnect](t, c2)
		closed(t, c2)
		take(t, w, "3")
		silent(t, w)
		// Clean Start after the connection had broken.
		s.cut(c, "c")
		c, _ = s.connect(packet.V5, packet.Connect{ClientID: "c", CleanStart: true, SessionExpiryInterval: 1, Will: lastWill("5", 3600)})
		take(t, w, "4")
		// The session expires first.
		s.cut(c, "c")
		take(t, w, "5")
		// The delay is over first.
		c, _ = s.connect(packet.V5, packet.Connect{ClientID: "c", SessionExpiryInterval: 100, Will: lastWill("6", 1)})
		s.cut(c, "c")
		take(t, w, "6")
		// The session ends with DISCONNECT, and not normally.
		c, _ = s.connect(packet.V5, packet.Connect{ClientID: "c", SessionExpiryInterval: 100, Will: lastWill("7", 3600)})
		s.leave(c, "c", &packet.Disconnect{ReasonCode: packet.DisconnectWithWillMessage, SessionExpiryInterval: packet.Some[uint32](0)})
		take(t, w, "7")
		silent(t, w)
	})
}

// TestWillOverflow: a session that overflows while its Will waits ends, and so
// does the delay.
func TestWillOverflow(t *testing.T) {
	s := start(t, durable(mem.New()))
	w := s.dial("tcp", packet.V5, packet.Connect{ClientID: "watcher"})
	subscribe(t, w, packet.QoS1, "w")
	c, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", Will: lastWill("gone", 3600)})
	subscribe(t, c, packet.QoS1, "t")
	s.cut(c, "c")
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	for range sessionConfig().QueueMessages + 1 {
		put(t, pub, packet.QoS1, 1, "t", "x")
	}
	take(t, w, "gone")
}

// TestWillOnceOnSlowDisk: the one who publishes a Will and the one who looks
// for what is due do not both publish it, however long it takes to note that.
func TestWillOnceOnSlowDisk(t *testing.T) {
	s := start(t, durable(delay.New(mem.New(), delay.Options{Max: 700 * time.Millisecond, Seed: 3})))
	w := s.dial("tcp", packet.V5, packet.Connect{ClientID: "watcher"})
	subscribe(t, w, packet.QoS1, "w")
	const n = 6
	for i := range n {
		c := s.dial("tcp", packet.V5, packet.Connect{ClientID: fmt.Sprint("c", i), Will: lastWill(fmt.Sprint(i), 0)})
		c.Abort()
	}
	seen := make(map[string]bool)
	for range n {
		p := receive[*packet.Publish](t, w)
		if seen[string(p.Payload)] {
			t.Fatalf("%s again", p.Payload)
		}
		seen[string(p.Payload)] = true
		send(t, w, &packet.Puback{PacketID: p.PacketID})
	}
	for i := range n { // another look at what is due has been taken by then
		c, _ := s.connect(packet.V5, packet.Connect{ClientID: fmt.Sprint("c", i)})
		silent(t, c)
	}
	silent(t, w)
}

// TestWillAtTakeOver: a Will without delay is published when its connection is
// taken over, although the session goes on.
func TestWillAtTakeOver(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		s := start(t, durable(e))
		w := s.resume(packet.V5, "watcher", false)
		subscribe(t, w, packet.QoS1, "w")
		old, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", Will: lastWill("0", 0)})
		for i := range 10 {
			c, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", Will: lastWill(fmt.Sprint(i+1), 0)})
			receive[*packet.Disconnect](t, old)
			closed(t, old)
			take(t, w, fmt.Sprint(i))
			old = c
		}
		silent(t, w)
	})
}
