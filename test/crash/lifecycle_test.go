package crash

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/audit"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/servertest"
	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

// dial connects over plain TCP with MQTT 5.
func dial(t *testing.T, i app.ReadyInfo, p packet.Connect) (c *peer.Conn, present bool) {
	t.Helper()
	if p.ReceiveMaximum == 0 {
		p.ReceiveMaximum = 65535
	}
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	c, ack, err := peer.Dial(ctx, servertest.Target(i, "tcp"), packet.V5, nil, p)
	if err != nil {
		t.Fatalf("%s: %v", p.ClientID, err)
	}
	t.Cleanup(func() { c.Close() })
	return c, ack.SessionPresent
}

// exchange sends a packet and returns the next that comes.
func exchange(t *testing.T, c *peer.Conn, p packet.Packet) packet.Packet {
	t.Helper()
	if err := c.Send(p); err != nil {
		t.Fatal(err)
	}
	return receive(t, c)
}

func receive(t *testing.T, c *peer.Conn) packet.Packet {
	t.Helper()
	got, err := c.Receive(time.Now().Add(servertest.Patience))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func subscribeTo(t *testing.T, c *peer.Conn, filter string) {
	t.Helper()
	if a, ok := exchange(t, c, &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: filter, QoS: packet.QoS1}}}).(*packet.Suback); !ok || a.ReasonCodes[0].Failed() {
		t.Fatalf("subscribe %s: %+v", filter, a)
	}
}

// tell publishes with QoS 1 from a client of its own.
func tell(t *testing.T, i app.ReadyInfo, topic, text string) {
	t.Helper()
	c, _ := dial(t, i, packet.Connect{ClientID: "teller", CleanStart: true})
	if a, ok := exchange(t, c, &packet.Publish{Topic: []byte(topic), Payload: []byte(text), QoS: packet.QoS1, PacketID: 1}).(*packet.Puback); !ok || a.ReasonCode.Failed() {
		t.Fatalf("publish %s: %+v", topic, a)
	}
	bye(t, c)
}

// bye says good-bye and waits until the server has heard it.
func bye(t *testing.T, c *peer.Conn) {
	t.Helper()
	if err := c.Send(&packet.Disconnect{}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Receive(time.Now().Add(servertest.Patience)); err != io.EOF {
		t.Fatalf("after DISCONNECT: %v %v", got, err)
	}
}

// expect receives a message of QoS 1 and acknowledges it.
func expect(t *testing.T, c *peer.Conn, text string) {
	t.Helper()
	p, ok := receive(t, c).(*packet.Publish)
	if !ok || string(p.Payload) != text {
		t.Fatalf("got %+v, want %q", p, text)
	}
	if err := c.Send(&packet.Puback{PacketID: p.PacketID}); err != nil {
		t.Fatal(err)
	}
}

// nothing sees that nothing is on its way to a client.
func nothing(t *testing.T, c *peer.Conn) {
	t.Helper()
	if got := exchange(t, c, &packet.Pingreq{}); got.Type() != packet.PINGRESP {
		t.Errorf("got %+v, want nothing", got)
	}
}

// dropped waits until so many sessions have ended for the reason.
func dropped(t *testing.T, i app.ReadyInfo, reason string, n float64) {
	t.Helper()
	servertest.AwaitMetrics(t, i, "sessions end as "+reason, func(m map[string]float64) bool {
		return m[`rollcall_mqtt_dropped_sessions_total{reason="`+reason+`"}`] == n
	})
}

// TestSessionExpiry: a session ends when its interval has passed, counted from
// the end of the connection, or from the start after a crash; and no sooner.
func TestSessionExpiry(t *testing.T) {
	dir := t.TempDir()
	data, args := filepath.Join(dir, "data"), arguments(t, dir)
	p := servertest.StartProcess(t, data, args...)
	defer func() { p.Kill() }()
	leave := func(name string, expiry uint32) {
		c, present := dial(t, p.Info, packet.Connect{ClientID: name, SessionExpiryInterval: expiry})
		if present {
			t.Errorf("%s has a session already", name)
		}
		subscribeTo(t, c, "x/"+name)
		bye(t, c)
	}
	find := func(name string, want bool) {
		t.Helper()
		c, present := dial(t, p.Info, packet.Connect{ClientID: name, SessionExpiryInterval: 3600})
		if present != want {
			t.Errorf("%s: session present is %v", name, present)
		}
		if want {
			expect(t, c, "for "+name)
		}
		nothing(t, c)
		bye(t, c)
	}
	leave("short", 1)
	leave("long", 3600)
	dropped(t, p.Info, "SessionExpiry", 1)
	tell(t, p.Info, "x/short", "for short")
	tell(t, p.Info, "x/long", "for long")
	find("short", false)
	find("long", true)

	// Across a restart: one that has been left, one whose client was there.
	leave("left", 2)
	leave("kept", 3600)
	open, _ := dial(t, p.Info, packet.Connect{ClientID: "open", SessionExpiryInterval: 1})
	subscribeTo(t, open, "x/open")
	stays, _ := dial(t, p.Info, packet.Connect{ClientID: "stays", SessionExpiryInterval: 3600})
	subscribeTo(t, stays, "x/stays")
	p.Kill()
	p = servertest.StartProcess(t, data, args...)
	for _, name := range []string{"kept", "stays", "left", "open"} {
		tell(t, p.Info, "x/"+name, "for "+name)
	}
	dropped(t, p.Info, "SessionExpiry", 2)
	find("left", false)
	find("open", false)
	find("kept", true)
	find("stays", true)

	// A good-bye that makes the interval 0 ends it at once, also on disk.
	c, _ := dial(t, p.Info, packet.Connect{ClientID: "kept", SessionExpiryInterval: 3600})
	if err := c.Send(&packet.Disconnect{SessionExpiryInterval: packet.Some(uint32(0))}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Receive(time.Now().Add(servertest.Patience)); err != io.EOF {
		t.Fatalf("after DISCONNECT: %v %v", got, err)
	}
	_, present := dial(t, p.Info, packet.Connect{ClientID: "kept", SessionExpiryInterval: 3600})
	if present {
		t.Error("the session outlived a good-bye with interval 0")
	}
}

// TestCleanStart: Clean Start discards subscriptions and messages, and a crash
// does not bring them back.
func TestCleanStart(t *testing.T) {
	dir := t.TempDir()
	data, args := filepath.Join(dir, "data"), arguments(t, dir)
	p := servertest.StartProcess(t, data, args...)
	defer func() { p.Kill() }()
	c, _ := dial(t, p.Info, packet.Connect{ClientID: "c", SessionExpiryInterval: 3600})
	subscribeTo(t, c, "x")
	bye(t, c)
	tell(t, p.Info, "x", "old")
	c, present := dial(t, p.Info, packet.Connect{ClientID: "c", SessionExpiryInterval: 3600, CleanStart: true})
	if present {
		t.Error("session present after Clean Start")
	}
	nothing(t, c)
	tell(t, p.Info, "x", "new")
	nothing(t, c)
	subscribeTo(t, c, "y")
	p.Kill()
	p = servertest.StartProcess(t, data, args...)
	tell(t, p.Info, "x", "newer")
	tell(t, p.Info, "y", "this")
	c, present = dial(t, p.Info, packet.Connect{ClientID: "c", SessionExpiryInterval: 3600})
	if !present {
		t.Error("the new session is gone")
	}
	expect(t, c, "this")
	nothing(t, c)
}

// TestDelayedWill: Wills with a delay survive kill -9, are published when it is
// over or the session ends before, and not if the client comes back in time.
func TestDelayedWill(t *testing.T) {
	dir := t.TempDir()
	data, args := filepath.Join(dir, "data"), arguments(t, dir)
	p := servertest.StartProcess(t, data, args...)
	defer func() { p.Kill() }()
	heir, _ := dial(t, p.Info, packet.Connect{ClientID: "heir", SessionExpiryInterval: 3600})
	subscribeTo(t, heir, "w/#")
	live := func(name string, delay, expiry uint32, clean bool) *peer.Conn {
		t.Helper()
		c, _ := dial(t, p.Info, packet.Connect{ClientID: name, SessionExpiryInterval: expiry, CleanStart: clean,
			Will: &packet.Will{Topic: []byte("w/" + name), Payload: []byte(name), QoS: packet.QoS1, DelayInterval: delay}})
		return c
	}
	live("late", 2, 3600, false)
	live("capped", 3600, 1, false) // the session ends before [MQTT-3.1.3-9]
	live("back", 3, 3600, false)
	live("cleaned", 3600, 3600, false)
	p.Kill()
	p = servertest.StartProcess(t, data, args...)
	live("back", 3, 3600, false)
	live("cleaned", 3600, 3600, true)
	heir, _ = dial(t, p.Info, packet.Connect{ClientID: "heir", SessionExpiryInterval: 3600})
	began := time.Now()
	expect(t, heir, "cleaned")
	expect(t, heir, "capped")
	expect(t, heir, "late")
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("the delayed Wills came %s after the start", took)
	}

	// A second crash before its time: what waited waits on; that of the session
	// which has been cleaned is that of the new connection.
	c := live("twice", 2, 3600, false)
	if err := c.Abort(); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	p = servertest.StartProcess(t, data, args...)
	live("back", 0, 3600, false)
	cleaned := live("cleaned", 0, 3600, false)
	bye(t, cleaned)
	heir, _ = dial(t, p.Info, packet.Connect{ClientID: "heir", SessionExpiryInterval: 3600})
	tell(t, p.Info, "w/end", "end")
	for wanted := map[string]bool{"end": true, "twice": true}; len(wanted) > 0; { // and nothing of back and cleaned
		m := receive(t, heir).(*packet.Publish)
		if err := heir.Send(&packet.Puback{PacketID: m.PacketID}); err != nil {
			t.Fatal(err)
		}
		text := string(m.Payload)
		if m.Dup { // of before the crash, which came before the acknowledgement was on disk
			continue
		}
		if !wanted[text] {
			t.Fatalf("got %s, want %v", text, wanted)
		}
		delete(wanted, text)
	}
	nothing(t, heir)
}

// TestManySessions: a server with many stored sessions starts at once, and
// reads of a session only when its client comes.
func TestManySessions(t *testing.T) {
	n := atLeast(t, "ROLLCALL_STORED_SESSIONS", 20_000)
	dir := t.TempDir()
	data, args := filepath.Join(dir, "data"), arguments(t, dir)
	p := servertest.StartProcess(t, data, args...)
	defer func() { p.Kill() }()
	p.Kill()
	name := func(k int) string { return fmt.Sprintf("stored-%07d", k) }
	began := time.Now()
	fillSessions(t, filepath.Join(data, "store"), n, name)
	filled := time.Since(began)
	p = servertest.StartProcess(t, data, args...)
	some := []int{0, n / 3, n / 2, n - 1}
	for _, k := range some {
		tell(t, p.Info, "to/"+name(k), name(k))
	}
	if err := visit(t.Context(), p.Info, "visitor"); err != nil { // as clients make them
		t.Fatal(err)
	}
	tell(t, p.Info, "to/visitor", "visitor")
	p.Kill()
	p = servertest.StartProcess(t, data, args...)
	ready := p.Ready
	u, err := servertest.Observe(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d sessions written in %s; ready in %s after kill -9, with %d MiB resident: %d bytes per session",
		n, filled.Round(time.Millisecond), ready.Round(time.Millisecond), u.Resident>>20, u.Resident/int64(n))
	if ready > 5*time.Second {
		t.Errorf("the start took %s", ready)
	}
	back := func(name string) {
		t.Helper()
		began := time.Now()
		c, present := dial(t, p.Info, packet.Connect{ClientID: name, SessionExpiryInterval: 0xFFFFFFFF})
		if !present {
			t.Errorf("%s has no session", name)
		}
		expect(t, c, name)
		t.Logf("%s was back with its message in %s", name, time.Since(began).Round(10*time.Microsecond))
		bye(t, c)
	}
	for _, k := range some {
		back(name(k))
	}
	back("visitor")
}

// fillSessions writes sessions with a subscription each into the store of a
// server that does not run.
func fillSessions(t *testing.T, dir string, n int, name func(int) string) {
	t.Helper()
	e, err := pebble.Open(pebble.Options{Dir: dir, LowWater: 64 << 20, Reserve: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	st, err := stored.Open(stored.Options{Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	const ahead = 1000
	outcomes := make(chan error, ahead)
	flying := 0
	settle := func() {
		flying--
		if err := <-outcomes; err != nil {
			t.Fatal(err)
		}
	}
	for k := range n {
		s := stored.Session{Realm: "default", Name: name(k), Owner: name(k), Epoch: 1, Expiry: stored.NeverExpires, Offline: time.Now()}
		b := store.NewBatch(store.Normal)
		st.StageSession(b, nil, &s)
		e.Submit(b, func(r store.Result) { outcomes <- r.Err })
		st.Subscribe(s.Key(), []stored.Subscription{{Subscription: packet.Subscription{Filter: "to/" + s.Name, QoS: packet.QoS1}}},
			func(err error) { outcomes <- err })
		for flying += 2; flying > ahead-2; {
			settle()
		}
	}
	for flying > 0 {
		settle()
	}
}

// visit makes a session with a subscription and leaves it.
func visit(ctx context.Context, i app.ReadyInfo, name string) error {
	c, err := peer.Open(ctx, servertest.Target(i, "tcp"), packet.V5, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	var b []byte
	for _, p := range []packet.Packet{
		&packet.Connect{ClientID: name, SessionExpiryInterval: 0xFFFFFFFF, ReceiveMaximum: 100},
		&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "to/" + name, QoS: packet.QoS1}}},
	} {
		if b, err = p.AppendTo(b, packet.V5); err != nil {
			return err
		}
	}
	if err := c.Write(b); err != nil {
		return err
	}
	for _, want := range []packet.Type{packet.CONNACK, packet.SUBACK} {
		got, err := c.Receive(time.Now().Add(servertest.Patience))
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", want, err)
		}
		if got.Type() != want {
			return fmt.Errorf("%s instead of %s", got.Type(), want)
		}
	}
	return c.Disconnect()
}

// TestConnectStorm: thousands connect in the same moment (P1, P2, P3, P5).
func TestConnectStorm(t *testing.T) {
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) {
			n := atLeast(t, "ROLLCALL_STORM", 2000)
			dir := t.TempDir()
			p := servertest.StartProcess(t, filepath.Join(dir, "data"), argumentsFor(t, dir, d.loops, "")...)
			defer p.Kill()
			rc := servertest.NewReceiver(t)
			if err := servertest.Subscribe(t.Context(), p.Info, "one", rc.URL, map[string]any{
				"destination": map[string]any{"maxEventsPerBatch": 1000, "preferredBatchSizeInKilobytes": 1024}}); err != nil {
				t.Fatal(err)
			}
			l := &log{}
			conns := make([]*peer.Conn, n)
			for k := range conns {
				c, err := peer.Open(t.Context(), servertest.Target(p.Info, "tcp"), packet.V5, nil)
				if err != nil {
					t.Fatal(err)
				}
				conns[k] = c
			}
			ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
			defer cancel()
			start := make(chan struct{})
			var wg sync.WaitGroup
			for k, c := range conns {
				wg.Go(func() {
					<-start
					s := l.begin(fmt.Sprintf("storm-%05d", k))
					ack, err := c.Connect(ctx, &packet.Connect{ClientID: s.Session, CleanStart: true, ReceiveMaximum: 10})
					if err != nil || ack.ReasonCode.Failed() {
						t.Errorf("%s: %v %+v", s.Session, err, ack)
						return
					}
					s.Acked = time.Now()
					if k%2 == 0 {
						s.Goodbye = c.Disconnect() == nil
					} else {
						_ = c.Abort()
					}
					s.Closed = time.Now()
				})
			}
			began := time.Now()
			close(start)
			wg.Wait()
			t.Logf("%d connects at once took %s", n, time.Since(began).Round(time.Millisecond))
			quiet(t, p.Info)
			rep := judge(t, audit.Input{Deliveries: rc.Deliveries(), Sightings: l.sightings(), Subscriptions: []string{"ONE"}})
			if rep.Events != 2*n {
				t.Errorf("%d events, want %d", rep.Events, 2*n)
			}
		})
	}
}
