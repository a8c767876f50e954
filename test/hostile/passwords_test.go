package hostile

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// guessers is how many clients guess passwords at once:
// ROLLCALL_HOSTILE_PASSWORDS, 300 by default.
func guessers() int {
	if n, err := strconv.Atoi(os.Getenv("ROLLCALL_HOSTILE_PASSWORDS")); err == nil {
		return n
	}
	return 300
}

// TestPasswordsWait: while clients from as many addresses have their wrong
// passwords hashed, again and again, others come without one and a stored
// session is fed. That both go on is judged; how fast is logged.
func TestPasswordsWait(t *testing.T) {
	p := start(t)
	by := newBystander(t, p.Info)
	defer by.end(t)
	quietConnect, quietFeed := connects(t, p.Info, 100), feed(t, p.Info, 20_000)
	before := memory(t, p.PID())

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var refused atomic.Int64
	underWay := make(chan struct{}) // closed when some have been refused
	for i := range guessers() {
		wg.Go(func() {
			guess(ctx, p.Info, i, func() {
				if refused.Add(1) == 50 {
					close(underWay)
				}
			})
		})
	}
	select {
	case <-underWay:
	case <-time.After(servertest.Patience):
		t.Fatal("nobody is refused")
	}
	connect, fed := connects(t, p.Info, 100), feed(t, p.Info, 20_000)
	t.Logf("%d guessers, %d refused: anonymous connect p50 %v p99 %v, quiet %v %v; stored session %.0f messages/s, quiet %.0f; memory +%d MiB",
		guessers(), refused.Load(), connect[len(connect)/2], connect[len(connect)*99/100], quietConnect[len(quietConnect)/2], quietConnect[len(quietConnect)*99/100],
		fed, quietFeed, (memory(t, p.PID())-before)>>20)
	cancel()
	wg.Wait()
}

// guess connects with a wrong password from an address of its own until ctx
// ends.
func guess(ctx context.Context, i app.ReadyInfo, n int, refused func()) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}}
	connect, err := (&packet.Connect{ClientID: fmt.Sprint("guesser-", n), UserName: packet.Some(fmt.Sprint("name-", n)), Password: []byte("x"), CleanStart: true}).AppendTo(nil, packet.V311)
	if err != nil {
		panic(err)
	}
	for ctx.Err() == nil {
		nc, err := d.DialContext(ctx, "tcp", i.MQTT[0])
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { nc.Close() })
		if _, err := nc.Write(connect); err == nil {
			_, _ = io.ReadAll(nc)
			refused()
		}
		stop()
		nc.Close()
		select { // as clients do, so that the attack is on the server, not on the machine
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// connects returns how long n anonymous connects took, sorted.
func connects(t *testing.T, i app.ReadyInfo, n int) (took []time.Duration) {
	t.Helper()
	for k := range n {
		ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
		began := time.Now()
		c, _, err := peer.Dial(ctx, servertest.Target(i, "tcp"), packet.V5, nil, packet.Connect{ClientID: fmt.Sprint("honest-", k), CleanStart: true})
		cancel()
		if err != nil {
			t.Fatalf("an anonymous client is kept out: %v", err)
		}
		took = append(took, time.Since(began))
		if err := c.Disconnect(); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	slices.Sort(took)
	return took
}

// feed stores n messages for a session that is away and returns how many a
// second it is given when it comes back.
func feed(t *testing.T, i app.ReadyInfo, n int) float64 {
	t.Helper()
	dial := func(p packet.Connect) *peer.Conn {
		ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
		defer cancel()
		p.ReceiveMaximum = 65535
		c, _, err := peer.Dial(ctx, servertest.Target(i, "tcp"), packet.V5, nil, p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	receive := func(c *peer.Conn) packet.Packet {
		p, err := c.Receive(time.Now().Add(servertest.Patience))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	from := dial(packet.Connect{ClientID: "from", CleanStart: true})
	keeper := dial(packet.Connect{ClientID: "keeper", CleanStart: true, SessionExpiryInterval: 600})
	if err := keeper.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "fed", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	receive(keeper)
	keeper.Disconnect()
	keeper.Close()
	spent, done := time.Duration(0), 0
	for ; done < n; done += feedBatch {
		for k := range feedBatch {
			if err := from.Send(&packet.Publish{Topic: []byte("fed"), QoS: 1, PacketID: uint16(k + 1), Payload: []byte("message")}); err != nil {
				t.Fatal(err)
			}
		}
		for range feedBatch {
			receive(from)
		}
		began := time.Now()
		keeper = dial(packet.Connect{ClientID: "keeper", SessionExpiryInterval: 600})
		for range feedBatch {
			m, ok := receive(keeper).(*packet.Publish)
			if !ok {
				t.Fatal("something else than a message came")
			}
			if err := keeper.Send(&packet.Puback{PacketID: m.PacketID}); err != nil {
				t.Fatal(err)
			}
		}
		spent += time.Since(began)
		if err := keeper.Send(&packet.Pingreq{}); err != nil {
			t.Fatal(err)
		}
		receive(keeper) // all is acknowledged
		keeper.Disconnect()
		keeper.Close()
	}
	return float64(done) / spent.Seconds()
}

// feedBatch is below the default of mqtt.queueMessages.
const feedBatch = 900
