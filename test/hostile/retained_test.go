package hostile

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// retainedSize is set to the number of retained topics: 500000 is the full size.
const retainedSize = "ROLLCALL_HOSTILE_RETAINED"

// TestRetainedForThoseWhoNeverAcknowledge subscribes many clients to everything
// that is retained, with QoS 1; none acknowledges anything. Retained messages are
// published meanwhile and acknowledged, and what waits for those clients is not
// kept in memory.
func TestRetainedForThoseWhoNeverAcknowledge(t *testing.T) {
	topics := 10_000
	if text := os.Getenv(retainedSize); text != "" {
		var err error
		if topics, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	const subscribers, window, publishes = 200, 100, 200
	p := start(t)
	began := time.Now()
	retain(t, p.Info, topics)
	stored := time.Since(began)

	pub, _ := client(t, p.Info, packet.Connect{ClientID: "pub", CleanStart: true, KeepAlive: 600})
	by := newBystander(t, p.Info)
	quiet := retainAgain(t, pub, publishes)

	// The server sends each so many messages, and no more: none is acknowledged.
	var each sync.WaitGroup
	began = time.Now()
	var subs []*peer.Conn
	for i := range subscribers {
		c, _ := client(t, p.Info, packet.Connect{ClientID: fmt.Sprint("s", i), CleanStart: true, KeepAlive: 600, ReceiveMaximum: window})
		if err := c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "r/#", QoS: packet.QoS1}}}); err != nil {
			t.Fatal(err)
		}
		subs = append(subs, c)
	}
	for _, c := range subs {
		each.Go(func() {
			for n := 0; n < window; {
				got, err := c.Receive(time.Now().Add(servertest.Patience))
				if err != nil {
					t.Errorf("after %d messages: %v", n, err)
					return
				}
				if _, ok := got.(*packet.Publish); ok {
					n++
				}
			}
		})
	}
	meanwhile := retainAgain(t, pub, publishes)
	each.Wait()
	sent := time.Since(began)
	after := retainAgain(t, pub, publishes)
	worst := status(t, p.Info.PID, "VmHWM:")
	by.end(t)
	t.Logf("%d topics retained in %v; %d clients had %d messages each after %v; PUBACK of a retained message p50 %v and p99 %v in quiet, "+
		"p50 %v and p99 %v while they are sent, p50 %v and p99 %v while they wait for ever", topics, stored, subscribers, window, sent,
		quantile(quiet, 0.5), quantile(quiet, 0.99), quantile(meanwhile, 0.5), quantile(meanwhile, 0.99), quantile(after, 0.5), quantile(after, 0.99))
	// 128 KiB each; and a heap grows before it is collected.
	if bound := by.rested*3/2 + subscribers<<17; worst > bound {
		t.Errorf("the server had %d MiB in quiet and %d at the worst moment; the bound is %d", by.rested>>20, worst>>20, bound>>20)
	}
}

// retain has that many topics retained.
func retain(t *testing.T, i app.ReadyInfo, topics int) {
	t.Helper()
	const publishers = 8
	var all sync.WaitGroup
	defer all.Wait()
	for n := range publishers {
		c, ack := client(t, i, packet.Connect{ClientID: fmt.Sprint("r", n), CleanStart: true, KeepAlive: 600})
		window := 100
		if m := ack.ReceiveMaximum; m != 0 {
			window = min(window, int(m))
		}
		all.Go(func() {
			defer c.Disconnect() //nolint:errcheck // what counts is acknowledged
			flying := 0
			await := func(most int) bool {
				for ; flying > most; flying-- {
					got, err := c.Receive(time.Now().Add(servertest.Patience))
					if ack, ok := got.(*packet.Puback); err != nil || !ok || ack.ReasonCode.Failed() {
						t.Errorf("a retained message: %+v %v", got, err)
						return false
					}
				}
				return true
			}
			for k := n; k < topics; k += publishers {
				err := c.Send(&packet.Publish{Topic: fmt.Appendf(nil, "r/%d/%d/state", k%1000, k), Payload: []byte(`{"online":true,"since":1700000000,"firmware":"1.2.3"}`),
					QoS: packet.QoS1, Retain: true, PacketID: uint16(k/publishers%60000 + 1)})
				if err != nil {
					t.Error(err)
					return
				}
				if flying++; !await(window) {
					return
				}
			}
			await(0)
		})
	}
}

// retainAgain has messages retained one after the other, to which nobody has
// subscribed, and returns how long each took to be acknowledged.
func retainAgain(t *testing.T, c *peer.Conn, n int) (took []time.Duration) {
	t.Helper()
	for i := range n {
		began := time.Now()
		if err := c.Send(&packet.Publish{Topic: fmt.Appendf(nil, "other/%d", i), Payload: []byte("x"), QoS: packet.QoS1, Retain: true, PacketID: 1}); err != nil {
			t.Fatal(err)
		}
		if ack, ok := next(t, c).(*packet.Puback); !ok || ack.ReasonCode.Failed() {
			t.Fatalf("PUBACK %d: %+v", i, ack)
		}
		took = append(took, time.Since(began))
	}
	return took
}
