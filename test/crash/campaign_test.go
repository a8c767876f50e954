package crash

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/audit"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/servertest"
)

// campaign is a fleet with everything that must survive: stored sessions that
// publish and subscribe, shared subscriptions, retained messages, Wills.
type campaign struct {
	books      *books
	log        *log
	publishers []*device
	subscribed map[*device][]packet.Subscription
	subs       []*device // keys of subscribed, in order
	churner    *device
	churned    map[string]bool // filters of the churner's; those that are not known for sure are not in it
	mortals    []*device       // connect and die, for their Wills
}

func newCampaign() *campaign {
	c := &campaign{books: newBooks(), log: &log{}, subscribed: map[*device][]packet.Subscription{}, churned: map[string]bool{}}
	client := func(id string, v packet.Version, transport string, clean bool, window uint16) *device {
		return &device{id: id, version: v, transport: transport, clean: clean, window: window, books: c.books, log: c.log}
	}
	testate := func(d *device) *device {
		d.will = &packet.Will{Topic: []byte("w/" + d.id), QoS: packet.QoS1}
		return d
	}
	c.publishers = []*device{
		testate(client("p0", packet.V5, "tcp", false, 0)),
		client("p1", packet.V311, "ws", false, 0),
		client("p2", packet.V5, "tls", false, 0),
		testate(client("p3", packet.V5, "tcp", true, 0)),
		client("p4", packet.V311, "tcp", true, 0),
	}
	subscriber := func(d *device, subs ...packet.Subscription) {
		c.subs = append(c.subs, d)
		c.subscribed[d] = append(subs, packet.Subscription{Filter: "end", QoS: packet.QoS2})
	}
	sub := func(filter string, qos packet.QoS) packet.Subscription {
		return packet.Subscription{Filter: filter, QoS: qos}
	}
	subscriber(client("all", packet.V5, "tcp", false, 10), sub("t/#", packet.QoS2))
	subscriber(client("old", packet.V311, "ws", false, 0), sub("t/+/0", packet.QoS1))
	subscriber(client("some", packet.V5, "tls", false, 0), sub("t/p0/#", packet.QoS2), sub("t/+/1", packet.QoS1))
	subscriber(client("one", packet.V5, "tcp", false, 5), sub("$share/g/t/#", packet.QoS2))
	subscriber(client("two", packet.V5, "tcp", false, 0), sub("$share/g/t/#", packet.QoS2))
	subscriber(client("heir", packet.V311, "tcp", false, 0), sub("w/#", packet.QoS1))
	c.churner = client("churner", packet.V5, "tcp", false, 0)
	subscriber(c.churner)
	c.mortals = []*device{
		testate(client("m0", packet.V5, "tcp", false, 0)), testate(client("m1", packet.V311, "tcp", true, 0)), testate(client("m2", packet.V5, "ws", true, 0)),
	}
	return c
}

// interests are what the stored sessions are owed.
func (c *campaign) interests() []interest {
	all := func(stream) packet.QoS { return packet.QoS2 }
	about := func(f func(words []string) packet.QoS) func(stream) packet.QoS {
		return func(s stream) packet.QoS {
			if words := strings.Split(s.topic, "/"); words[0] == "t" {
				return f(words)
			}
			return packet.QoS0
		}
	}
	return []interest{
		{[]string{"all"}, about(func([]string) packet.QoS { return packet.QoS2 })},
		{[]string{"old"}, about(func(w []string) packet.QoS {
			if w[2] == "0" {
				return packet.QoS1
			}
			return packet.QoS0
		})},
		{[]string{"some"}, about(func(w []string) packet.QoS {
			switch {
			case w[1] == "p0":
				return packet.QoS2
			case w[2] == "1":
				return packet.QoS1
			}
			return packet.QoS0
		})},
		{[]string{"one", "two"}, about(func([]string) packet.QoS { return packet.QoS2 })},
		{[]string{"churner"}, func(s stream) packet.QoS {
			if c.churned[s.topic] {
				return all(s)
			}
			return packet.QoS0
		}},
	}
}

// stage is one start of the server.
type stage struct {
	info app.ReadyInfo
	tls  *tls.Config
	dead chan struct{} // closed once the server is
}

func (s *stage) over() bool {
	select {
	case <-s.dead:
		return true
	default:
		return false
	}
}

// produce lets a publisher come and go, with so many messages.
func (s *stage) produce(ctx context.Context, d *device, r *rand.Rand, messages int) {
	defer d.over()
	const window = 20
	for !s.over() {
		if d.connect(ctx, s.info, s.tls) != nil {
			continue
		}
		var err error
		for n := r.IntN(60); n > 0 && messages > 0 && err == nil && !s.over(); n-- {
			messages--
			qos := packet.QoS(1 + r.IntN(2))
			if r.IntN(8) == 0 {
				err = d.publish(fmt.Sprintf("r/%s/%d", d.id, qos), qos, true)
			} else {
				err = d.publish(fmt.Sprintf("t/%s/%d", d.id, r.IntN(2)), qos, false)
			}
			if err == nil {
				err = d.attend(s.dead, func() bool { return len(d.flows) < window })
			}
		}
		if err == nil && (messages == 0 || r.IntN(2) == 0) { // nothing is on its way
			err = d.attend(s.dead, func() bool { return len(d.flows) == 0 })
		}
		if err == nil && messages == 0 { // until the server dies
			_ = d.attend(nil, func() bool { return false })
		}
		d.leave(random(r))
	}
}

// consume lets a subscriber come and go.
func (s *stage) consume(ctx context.Context, d *device, r *rand.Rand) {
	defer d.over()
	for !s.over() {
		if d.connect(ctx, s.info, s.tls) != nil {
			continue
		}
		d.linger(ctx, time.Duration(r.IntN(200))*time.Millisecond)
		d.leave(random(r))
	}
}

// linger takes packets for a while, or until the connection is over.
func (d *device) linger(ctx context.Context, while time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, while)
	defer cancel()
	_ = d.attend(ctx.Done(), func() bool { return false })
}

// churn lets the churner subscribe to new filters and leave old ones.
func (s *stage) churn(ctx context.Context, c *campaign, r *rand.Rand, round int) {
	d := c.churner
	defer d.over()
	for n := 0; !s.over(); n++ {
		if d.connect(ctx, s.info, s.tls) != nil {
			continue
		}
		filter := fmt.Sprintf("c/%d/%d", round, n)
		err := d.subscribe(s.dead, packet.Subscription{Filter: filter, QoS: packet.QoS2})
		if err == nil {
			c.churned[filter] = true
		}
		if err == nil && r.IntN(2) == 0 {
			delete(c.churned, filter) // not known, until the answer comes
			if _, err = d.ask(s.dead, &packet.Unsubscribe{PacketID: d.free(), Filters: []string{filter}}, packet.UNSUBACK); err == nil {
				c.churned[filter] = false
			}
		}
		d.linger(ctx, time.Duration(r.IntN(30))*time.Millisecond)
		d.leave(random(r))
	}
}

// TestCrashCampaignMessages kills the server again and again at random moments
// while messages of QoS 1 and 2 go to sessions that outlive it (P2): none that
// was acknowledged is lost, none of QoS 2 comes twice, order is kept, retained
// messages are the last ones, Wills of whoever died are published, sessions
// and subscriptions are there. Presence is audited meanwhile (P1, P3, P5).
func TestCrashCampaignMessages(t *testing.T) {
	rounds := atLeast(t, "ROLLCALL_CRASH_ROUNDS", 8)
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	const room = ", queueMessages: 65000, queueBytes: 1073741824"
	settings := [][]string{argumentsFor(t, dir, 0, room), argumentsFor(t, dir, -1, room)}
	rc := servertest.NewReceiver(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := newCampaign()
	start := func(round int) (*servertest.Process, *stage) {
		p := servertest.StartProcess(t, data, settings[round%2]...)
		return p, &stage{info: p.Info, tls: servertest.TLS(t, p.Info), dead: make(chan struct{})}
	}
	for round := range rounds {
		p, s := start(round)
		if round == 0 {
			if err := servertest.Subscribe(t.Context(), p.Info, "one", rc.URL, nil); err != nil {
				t.Fatal(err)
			}
			rc.Fail(0.3)
			c.settle(t, s)
		}
		c.checkRetained(t, s)
		r := rand.New(rand.NewPCG(seed, uint64(round)))
		life := time.Duration(50+r.IntN(500)) * time.Millisecond
		timer := time.AfterFunc(life, func() {
			p.Kill()
			close(s.dead)
		})
		var wg sync.WaitGroup
		for n, d := range c.publishers {
			wg.Go(func() { s.produce(t.Context(), d, rand.New(rand.NewPCG(seed+uint64(n), uint64(round))), 150) })
		}
		for n, d := range append(c.subs[:len(c.subs)-1:len(c.subs)-1], c.mortals...) {
			r := rand.New(rand.NewPCG(seed+100+uint64(n), uint64(round)))
			if r.IntN(4) > 0 { // else it sleeps through
				wg.Go(func() { s.consume(t.Context(), d, r) })
			}
		}
		wg.Go(func() { s.churn(t.Context(), c, r, round) })
		wg.Wait()
		<-s.dead
		timer.Stop()
	}
	rc.Fail(0)
	p, s := start(rounds)
	defer func() {
		p.Kill()
		if t.Failed() {
			t.Log(p.Output())
		}
	}()
	c.finish(t, s)
	c.checkRetained(t, s)
	found, n := c.books.judge(c.interests())
	t.Logf("%d rounds: %d messages accepted and %d not known to be; %d deliveries due, %d came, %d of them repeats; %d Wills",
		rounds, n.accepted, n.unsure, n.due, n.came, n.repeats, n.wills)
	for i, text := range found {
		if i == 20 {
			t.Errorf("… %d in all", len(found))
			break
		}
		t.Error(text)
	}
	if n.due == 0 || n.wills == 0 || n.repeats == 0 {
		t.Error("the campaign checked nothing")
	}
	quiet(t, p.Info)
	judge(t, audit.Input{Deliveries: rc.Deliveries(), Sightings: c.log.sightings(), Subscriptions: []string{"ONE"}})
}

// settle has the subscribers subscribed before anything is published.
func (c *campaign) settle(t *testing.T, s *stage) {
	t.Helper()
	for _, d := range c.subs {
		if err := d.connect(t.Context(), s.info, s.tls); err != nil {
			t.Fatal(err)
		}
		if err := d.subscribe(nil, c.subscribed[d]...); err != nil {
			t.Fatal(err)
		}
		d.leave(politely)
	}
}

// checkRetained sees that what is retained is the last accepted message of each
// topic or a later one.
func (c *campaign) checkRetained(t *testing.T, s *stage) {
	t.Helper()
	least := map[stream]int{}
	c.books.mu.Lock()
	for st, list := range c.books.sent {
		for _, e := range list {
			if strings.HasPrefix(st.topic, "r/") && e.accepted.Load() {
				least[st] = e.n
			}
		}
	}
	delete(c.books.got, "late")
	c.books.mu.Unlock()
	d := &device{id: "late", version: packet.V5, transport: "tcp", clean: true, books: c.books, log: c.log}
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	if err := d.connect(ctx, s.info, s.tls); err != nil {
		t.Fatal(err)
	}
	if err := d.subscribe(ctx.Done(), packet.Subscription{Filter: "r/#", QoS: packet.QoS2}); err != nil {
		t.Fatal(err)
	}
	got := func(st stream) int {
		c.books.mu.Lock()
		defer c.books.mu.Unlock()
		if all := c.books.got["late"][st]; len(all) > 0 {
			return all[len(all)-1]
		}
		return 0
	}
	_ = d.attend(ctx.Done(), func() bool {
		for st := range least {
			if got(st) == 0 {
				return false
			}
		}
		return true
	})
	for st, n := range least {
		if have := got(st); have < n {
			t.Errorf("retained: %s is message %d, and %d was accepted", st.topic, have, n)
		}
	}
	d.leave(politely)
}

// finish has the publishers send what is left, then an end to everybody, and
// the subscribers receive until it comes.
func (c *campaign) finish(t *testing.T, s *stage) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	complete := func(d *device) {
		if err := d.connect(ctx, s.info, s.tls); err != nil {
			t.Errorf("%s: %v", d.id, err)
			return
		}
		if err := d.attend(ctx.Done(), func() bool { return len(d.flows) == 0 }); err != nil || len(d.flows) > 0 {
			t.Errorf("%s: %d messages are not acknowledged: %v", d.id, len(d.flows), err)
		}
	}
	for _, d := range c.publishers {
		complete(d)
		d.leave(politely)
	}
	last := &device{id: "last", version: packet.V5, transport: "tcp", clean: true, books: c.books, log: c.log}
	complete(last)
	for filter := range c.churned {
		if err := last.publish(filter, packet.QoS2, false); err != nil {
			t.Error(err)
		}
		_ = last.attend(ctx.Done(), func() bool { return len(last.flows) == 0 })
	}
	// Wills are published in the background after the start.
	heir := c.subs[5]
	complete(heir)
	patience, stop := context.WithTimeout(ctx, 10*time.Second)
	_ = heir.attend(patience.Done(), func() bool { return c.books.owed() == 0 })
	stop()
	heir.leave(politely)
	if err := last.publish("end", packet.QoS2, false); err != nil {
		t.Error(err)
	}
	_ = last.attend(ctx.Done(), func() bool { return len(last.flows) == 0 })
	last.leave(politely)
	end := stream{"last", "end", packet.QoS2}
	for _, d := range c.subs {
		complete(d)
		if _ = d.attend(ctx.Done(), func() bool { return c.books.has(d.id, end, 1) }); !c.books.has(d.id, end, 1) {
			t.Errorf("%s does not get to the end", d.id)
		}
		d.leave(politely)
	}
	for filter, subscribed := range c.churned {
		if !subscribed && c.books.has("churner", stream{"last", filter, packet.QoS2}, 1) {
			t.Errorf("the churner got %s, which it is not subscribed to", filter)
		}
	}
}
