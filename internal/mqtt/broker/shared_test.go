package broker_test

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

const share = "$share/g/t"

// TestRedistribute: what members of a shared subscription have not acknowledged
// goes to the others when their session ends, whether it was stored or not.
func TestRedistribute(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		s := start(t, durable(e))
		pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
		for _, kind := range []string{"clean", "stored", "stored, offline", "expired"} {
			heir, _ := s.connect(packet.V5, packet.Connect{ClientID: "heir", SessionExpiryInterval: 1, CleanStart: true})
			subscribe(t, heir, packet.QoS1, share)
			// Alone at first, so that everything is the other's.
			send(t, heir, &packet.Unsubscribe{PacketID: 2, Filters: []string{share}})
			receive[*packet.Unsuback](t, heir)
			p := packet.Connect{ClientID: "c", CleanStart: true}
			switch kind {
			case "stored", "stored, offline":
				p.SessionExpiryInterval = 100
			case "expired":
				p.SessionExpiryInterval = 1
			}
			c, _ := s.connect(packet.V5, p)
			subscribe(t, c, packet.QoS1, share)
			const n = 15 // more than fly at once
			for i := range n {
				put(t, pub, packet.QoS1, 1, "t", fmt.Sprint(i))
			}
			take(t, c, "0")
			windowIsFull(t, c, 9)
			subscribe(t, heir, packet.QoS1, share)
			switch kind {
			case "clean":
				c.Abort()
			case "stored":
				send(t, c, &packet.Disconnect{SessionExpiryInterval: packet.Some[uint32](0)})
				s.history("c")
			case "expired":
				s.cut(c, "c")
			case "stored, offline":
				s.cut(c, "c")
				c, _ = s.connect(packet.V5, packet.Connect{ClientID: "c", CleanStart: true, SessionExpiryInterval: 1})
				c.Close()
			}
			seen := make(map[string]bool)
			for len(seen) < n-1 {
				p := receive[*packet.Publish](t, heir)
				seen[string(p.Payload)] = true
				send(t, heir, &packet.Puback{PacketID: p.PacketID})
			}
			if seen["0"] {
				t.Errorf("%s: what was acknowledged came again", kind)
			}
			silent(t, heir)
			s.leave(heir, "heir", &packet.Disconnect{SessionExpiryInterval: packet.Some[uint32](0)})
		}
	})
}

// windowIsFull expects n messages at least, and leaves them unacknowledged.
func windowIsFull(t *testing.T, c *peer.Conn, n int) {
	t.Helper()
	send(t, c, &packet.Pingreq{})
	for i := 0; ; i++ {
		got, err := c.Receive(deadline())
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := got.(*packet.Pingresp); ok {
			if i < n {
				t.Fatalf("%d messages, want %d", i, n)
			}
			return
		}
	}
}

// TestSharedOverlapping: a stored session with a shared and two other
// subscriptions that match gets a message once for the two, with both
// identifiers, and once for the shared one.
func TestSharedOverlapping(t *testing.T) {
	everyEngine(t, func(t *testing.T, e store.Engine) {
		s := start(t, durable(e))
		c := s.resume(packet.V5, "c", false)
		for i, f := range []string{"t", "#", share} {
			send(t, c, &packet.Subscribe{PacketID: 1, SubscriptionIdentifier: uint32(i + 1), Subscriptions: []packet.Subscription{{Filter: f, QoS: packet.QoS(i % 2)}}})
			receive[*packet.Suback](t, c)
		}
		pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
		for _, offline := range []bool{false, true} {
			if offline {
				s.cut(c, "c")
			}
			put(t, pub, packet.QoS1, 1, "t", "x")
			if offline {
				c = s.resume(packet.V5, "c", true)
			}
			got := map[string]packet.QoS{}
			want := 2
			if offline { // the shared one has QoS 0, of which nothing waits
				want = 1
			}
			for range want {
				p := receive[*packet.Publish](t, c)
				slices.Sort(p.SubscriptionIdentifiers)
				got[fmt.Sprint(p.SubscriptionIdentifiers)] = p.QoS
				if p.QoS > 0 {
					send(t, c, &packet.Puback{PacketID: p.PacketID})
				}
			}
			if q, ok := got["[1 2]"]; !ok || q != packet.QoS1 {
				t.Fatalf("%v", got)
			}
			silent(t, c)
		}
	})
}

// TestSharedWhileSubscribing: members subscribe again, come and go while
// messages are handed out: nothing is lost between them, nothing locks up.
func TestSharedWhileSubscribing(t *testing.T) {
	s := start(t, durable(mem.New()))
	const members, n = 4, 600
	var mu sync.Mutex
	seen := make(map[int]int)
	all := make(chan struct{})
	var wg, ready sync.WaitGroup
	ready.Add(members)
	for i := range members {
		c := s.resume(packet.V5, fmt.Sprint("m", i), false)
		wg.Go(func() {
			resubscribe := func() {
				if c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: share, QoS: packet.QoS1}}}) != nil {
					t.Error("cannot subscribe")
				}
			}
			resubscribe()
			subscribed := sync.OnceFunc(ready.Done)
			for k := 0; ; {
				got, err := c.Receive(deadline())
				if err != nil {
					return // closed at the end
				}
				switch p := got.(type) {
				case *packet.Suback:
					subscribed()
					if k++; k < 1000 {
						resubscribe()
					}
				case *packet.Publish:
					if c.Send(&packet.Puback{PacketID: p.PacketID}) != nil {
						return
					}
					no, _ := strconv.Atoi(string(p.Payload))
					mu.Lock()
					if seen[no]++; len(seen) == n {
						select {
						case <-all:
						default:
							close(all)
						}
					}
					mu.Unlock()
				}
			}
		})
		defer c.Close()
	}
	ready.Wait()
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	for i := 0; i < n; { // many at once, so that routing meets subscribing
		const burst = 20
		for k := range burst {
			send(t, pub, &packet.Publish{Topic: []byte("t"), Payload: fmt.Append(nil, i+k), QoS: packet.QoS1, PacketID: uint16(k + 1)})
		}
		for range burst {
			receive[*packet.Puback](t, pub)
		}
		i += burst
	}
	<-all
	s.b.Shutdown()
	wg.Wait()
	for no, times := range seen {
		if times != 1 {
			t.Errorf("message %d came %d times", no, times)
		}
	}
}

// TestSharedNamesAreForgotten: filters of shared subscriptions that a client
// has given up cost nothing.
func TestSharedNamesAreForgotten(t *testing.T) {
	s := start(t, durable(mem.New()))
	for _, stored := range []bool{false, true} {
		p := packet.Connect{ClientID: "c", CleanStart: true}
		if stored {
			p.SessionExpiryInterval = 100
		}
		c, _ := s.connect(packet.V5, p)
		for i := range 300 {
			f := fmt.Sprintf("$share/g%d/t", i)
			subscribe(t, c, packet.QoS1, f)
			send(t, c, &packet.Unsubscribe{PacketID: 2, Filters: []string{f}})
			if ack := receive[*packet.Unsuback](t, c); ack.ReasonCodes[0] != packet.Success {
				t.Fatal(ack.ReasonCodes)
			}
		}
		if n := s.metric("rollcall_mqtt_subscriptions"); n != 0 {
			t.Errorf("%v subscriptions are left", n)
		}
		s.leave(c, "c", &packet.Disconnect{})
	}
}
