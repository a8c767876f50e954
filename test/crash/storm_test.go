// Package crash tests what survives: kill -9, storms, a full disk. Everything
// is judged from the outside, by the auditor. ROLLCALL_CRASH_ROUNDS,
// ROLLCALL_SESSIONS and ROLLCALL_TAKEOVERS make the tests longer; make crash
// runs them in full.
package crash

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/audit"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	servertest.CleanUp()
	os.Exit(code)
}

// atLeast is a count that the environment can raise.
func atLeast(t testing.TB, name string, n int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return n
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < 1 {
		t.Fatalf("%s is %q, not a count", name, text)
	}
	return v
}

// scaled are settings whose times are scaled down, so that retries fit a test.
const scaled = `
delivery:
  schedule: [20ms, 50ms, 100ms]
  retryFloor: 5ms
  busyFloor: 10ms
  timeoutFloor: 10ms
  retryAfterCap: 1s
  responseTimeout: 3s
  cursorInterval: 50ms
  probation: {enabled: false}
log: {level: warn}
storage: {lowWater: 67108864, reserve: 16777216}
`

// drivers are the two ways in which plain TCP is served.
var drivers = []struct {
	name  string
	loops int
}{{"loops", 0}, {"goroutines", -1}}

// arguments of a server on free ports with the scaled settings.
func arguments(t testing.TB, dir string) []string { return argumentsFor(t, dir, 0, "") }

// argumentsFor are those of a server with so many event loops and further
// settings of its broker.
func argumentsFor(t testing.TB, dir string, loops int, mqtt string) []string {
	t.Helper()
	file := filepath.Join(dir, fmt.Sprintf("rollcall%d.yaml", loops))
	text := fmt.Sprintf("mqtt: {connectTimeout: 5s, loops: %d%s}\n%s", loops, mqtt, scaled)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--config", file, "--mqtt", "127.0.0.1:0", "--mqtts", "127.0.0.1:0", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"}
}

// log collects what devices saw.
type log struct {
	mu   sync.Mutex
	seen []*audit.Sighting
}

func (l *log) begin(session string) *audit.Sighting {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &audit.Sighting{Session: session, Sent: time.Now()}
	l.seen = append(l.seen, s)
	return s
}

func (l *log) sightings() []audit.Sighting {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]audit.Sighting, len(l.seen))
	for i, s := range l.seen {
		all[i] = *s
	}
	return all
}

// life lets one device connect and then do something: say good-bye, drop dead,
// or stay until it is taken over or the server dies.
func (l *log) life(ctx context.Context, i app.ReadyInfo, tc *tls.Config, session string, r *rand.Rand) {
	s := l.begin(session)
	transport := []string{"tcp", "tcp", "tcp", "ws", "tls"}[r.IntN(5)]
	v := []packet.Version{packet.V311, packet.V5}[r.IntN(2)]
	c, _, err := peer.Dial(ctx, servertest.Target(i, transport), v, tc, packet.Connect{ClientID: session, CleanStart: true, ReceiveMaximum: 10})
	if err != nil {
		return // refused, or the server is gone: nothing was acknowledged
	}
	s.Acked = time.Now()
	defer func() { s.Closed = time.Now() }()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	switch r.IntN(4) {
	case 0:
		s.Goodbye = true // it may arrive whatever comes of it here
		_ = c.Disconnect()
	case 1:
		_ = c.Abort() // it may be dead already
	case 2:
		_ = c.Send(&packet.Publish{Topic: []byte("storm/" + session), Payload: []byte("x")})
		c.Close()
	default: // stay a while
		_, _ = c.Receive(time.Now().Add(time.Duration(r.IntN(300)) * time.Millisecond))
		c.Close()
	}
}

// storm lets devices come and go until ctx ends. Sessions are few, so that
// take-overs are many.
func (l *log) storm(ctx context.Context, t testing.TB, i app.ReadyInfo, seed uint64, workers, sessions int) {
	tc := servertest.TLS(t, i)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for ctx.Err() == nil {
				l.life(ctx, i, tc, fmt.Sprintf("dev-%02d", r.IntN(sessions)), r)
			}
		})
	}
	wg.Wait()
}

// quiet waits until nobody is connected and everything is delivered.
func quiet(t testing.TB, i app.ReadyInfo) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var why string
	for {
		if why = busy(ctx, i); why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it does not become quiet: %s", why)
		}
	}
}

func busy(ctx context.Context, i app.ReadyInfo) string {
	var sessions struct{ Value []struct{ Session string } }
	if err := get(ctx, i, "/rollcall/v1/sessions?connected=true&limit=1", &sessions); err != nil {
		return err.Error()
	}
	if len(sessions.Value) > 0 {
		return sessions.Value[0].Session + " is connected"
	}
	var subs struct {
		Value []struct {
			Name    string
			Backlog uint64
		}
	}
	if err := get(ctx, i, "/rollcall/v1/eventSubscriptions", &subs); err != nil {
		return err.Error()
	}
	for _, s := range subs.Value {
		if s.Backlog > 0 {
			return fmt.Sprintf("%s has a backlog of %d", s.Name, s.Backlog)
		}
	}
	return ""
}

func get(ctx context.Context, i app.ReadyInfo, path string, out any) error {
	status, text, err := servertest.Call(ctx, i, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%d %s", status, text)
	}
	return json.Unmarshal(text, out)
}

// judge runs the auditor.
func judge(t testing.TB, in audit.Input) audit.Report {
	t.Helper()
	in.Slack = 2 * time.Millisecond // one machine, one clock
	r := audit.Check(in)
	t.Logf("%d deliveries, %d events, %d sessions, %d connection attempts; reasons %v; %d violations",
		r.Deliveries, r.Events, r.Sessions, r.Sightings, r.Reasons, len(r.Violations))
	for n, v := range r.Violations {
		if n == 20 {
			t.Error("…")
			break
		}
		t.Error(v)
	}
	return r
}

// TestCrashCampaign kills the server again and again at random moments, while
// devices storm and the receiver fails 30 % of the time.
func TestCrashCampaign(t *testing.T) {
	rounds := atLeast(t, "ROLLCALL_CRASH_ROUNDS", 12)
	dir := t.TempDir()
	data, args := filepath.Join(dir, "data"), arguments(t, dir)
	rc := servertest.NewReceiver(t)
	l := &log{}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var slowest time.Duration
	for round := range rounds {
		p := servertest.StartProcess(t, data, args...)
		slowest = max(slowest, p.Ready)
		if round == 0 {
			for _, sub := range []string{"one", "two"} {
				if err := servertest.Subscribe(t.Context(), p.Info, sub, rc.URL, nil); err != nil {
					t.Fatal(err)
				}
			}
			rc.Fail(0.3)
		}
		life := time.Duration(50+r.IntN(450)) * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), life)
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			<-ctx.Done()
			p.Kill()
		}()
		// The storm outlives the server by a moment, so that devices meet its
		// death at every point of a conversation.
		after, stop := context.WithTimeout(t.Context(), life+30*time.Millisecond)
		l.storm(after, t, p.Info, uint64(round), 8, 12)
		stop()
		<-killed
		cancel()
	}
	rc.Fail(0)
	p := servertest.StartProcess(t, data, args...)
	defer p.Kill()
	quiet(t, p.Info)
	rep := judge(t, audit.Input{Deliveries: rc.Deliveries(), Sightings: l.sightings(), Subscriptions: []string{"ONE", "TWO"}})
	t.Logf("%d rounds; slowest start %s", rounds, slowest)
	if rep.Reasons["ServerError"] == 0 || rep.Reasons["SessionTakenOver"] == 0 {
		t.Errorf("the campaign met no crash or no take-over: %v", rep.Reasons)
	}
}

// TestKillOpenSessions kills a server that holds many sessions: all are closed
// after the restart.
func TestKillOpenSessions(t *testing.T) {
	n := atLeast(t, "ROLLCALL_SESSIONS", 1000)
	dir := t.TempDir()
	data, args := filepath.Join(dir, "data"), arguments(t, dir)
	rc := servertest.NewReceiver(t)
	p := servertest.StartProcess(t, data, args...)
	if err := servertest.Subscribe(t.Context(), p.Info, "one", rc.URL, map[string]any{
		"destination": map[string]any{"maxEventsPerBatch": 1000, "preferredBatchSizeInKilobytes": 1024}}); err != nil {
		t.Fatal(err)
	}
	l := &log{}
	conns := make([]*peer.Conn, n)
	var wg sync.WaitGroup
	next := make(chan int)
	for range 64 {
		wg.Go(func() {
			for k := range next {
				s := l.begin(fmt.Sprintf("open-%05d", k))
				c, _, err := peer.Dial(t.Context(), servertest.Target(p.Info, "tcp"), packet.V5, nil, packet.Connect{ClientID: s.Session, CleanStart: true, ReceiveMaximum: 10})
				if err != nil {
					t.Errorf("%s: %v", s.Session, err)
					continue
				}
				s.Acked = time.Now()
				conns[k] = c
			}
		})
	}
	began := time.Now()
	for k := range n {
		next <- k
	}
	close(next)
	wg.Wait()
	t.Logf("%d sessions connected in %s", n, time.Since(began))
	p.Kill()
	died := time.Now()
	for k, s := range l.seen {
		s.Closed = died
		if conns[k] != nil {
			conns[k].Close()
		}
	}
	p = servertest.StartProcess(t, data, args...)
	defer p.Kill()
	ready := p.Ready
	ctx := t.Context()
	for {
		var sessions struct{ Value []struct{ Session string } }
		if err := get(ctx, p.Info, "/rollcall/v1/sessions?connected=true&limit=1", &sessions); err != nil {
			t.Fatal(err)
		}
		if len(sessions.Value) == 0 {
			break
		}
	}
	t.Logf("ready in %s, all closed %s after the start", ready, time.Since(p.Started))
	quiet(t, p.Info)
	rep := judge(t, audit.Input{Deliveries: rc.Deliveries(), Sightings: l.sightings(), Subscriptions: []string{"ONE"}})
	if rep.Reasons["ServerError"] != n {
		t.Errorf("%d sessions were closed as ServerError, want %d", rep.Reasons["ServerError"], n)
	}
}

// TestTakeOverStorm: two clients fight for one session name.
func TestTakeOverStorm(t *testing.T) {
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) { takeOverStorm(t, d.loops) })
	}
}

func takeOverStorm(t *testing.T, loops int) {
	n := atLeast(t, "ROLLCALL_TAKEOVERS", 1000)
	dir := t.TempDir()
	p := servertest.StartProcess(t, filepath.Join(dir, "data"), argumentsFor(t, dir, loops, "")...)
	defer p.Kill()
	rc := servertest.NewReceiver(t)
	if err := servertest.Subscribe(t.Context(), p.Info, "one", rc.URL, nil); err != nil {
		t.Fatal(err)
	}
	l := &log{}
	// A connect, then n take-overs, by two clients that each connect again
	// when they have lost the session.
	tickets := make(chan struct{}, n+1)
	for range n + 1 {
		tickets <- struct{}{}
	}
	close(tickets)
	var wg sync.WaitGroup
	var last sync.Mutex
	for range 2 {
		wg.Go(func() {
			for range tickets {
				s := l.begin("contested")
				c, _, err := peer.Dial(t.Context(), servertest.Target(p.Info, "tcp"), packet.V5, nil, packet.Connect{ClientID: "contested", CleanStart: true, ReceiveMaximum: 10})
				if err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				s.Acked = time.Now()
				last.Lock()
				left := len(tickets)
				last.Unlock()
				if left == 0 {
					// Perhaps the last: nobody may come any more.
					got, err := c.Receive(time.Now().Add(time.Second))
					if d, ok := got.(*packet.Disconnect); err != nil || !ok || d.ReasonCode != packet.SessionTakenOver {
						s.Goodbye = c.Disconnect() == nil
						s.Closed = time.Now()
						continue
					}
				} else if got, err := c.Receive(time.Now().Add(servertest.Patience)); err != nil {
					t.Errorf("waiting to be taken over: %v", err)
				} else if d, ok := got.(*packet.Disconnect); !ok || d.ReasonCode != packet.SessionTakenOver {
					t.Errorf("got %+v", got)
				}
				c.Close()
				s.Closed, s.Reason = time.Now(), "SessionTakenOver"
			}
		})
	}
	wg.Wait()
	quiet(t, p.Info)
	want := 2 * (n + 1)
	rep := judge(t, audit.Input{Deliveries: rc.Deliveries(), Sightings: l.sightings(), Subscriptions: []string{"ONE"}})
	if rep.Events != want {
		t.Errorf("%d events, want %d", rep.Events, want)
	}
}
