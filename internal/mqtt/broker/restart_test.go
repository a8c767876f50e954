package broker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/pebble"
)

// sleepers stores n sessions s0, s1 … that are subscribed to t and have waiting
// messages each, as an earlier run has left them.
func sleepers(t *testing.T, e store.Engine, n, waiting int) {
	t.Helper()
	st, err := stored.Open(stored.Options{Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	outcome := func(err error) {
		if err != nil {
			t.Error(err)
		}
		done.Done()
	}
	p := stored.Publication{Realm: realm, Message: &session.Message{From: "pub", Received: time.Now(), Publish: packet.Publish{Topic: []byte("t"), Payload: []byte("old"), QoS: packet.QoS1}}}
	for i := range n {
		meta := stored.Session{Realm: realm, Name: fmt.Sprint("s", i), Owner: fmt.Sprint("s", i), Epoch: 1, Expiry: stored.NeverExpires, Offline: time.Now()}
		b := store.NewBatch(store.Normal)
		st.StageSession(b, nil, &meta)
		done.Add(2)
		e.Submit(b, func(r store.Result) { outcome(r.Err) })
		st.Subscribe(meta.Key(), []stored.Subscription{{Subscription: packet.Subscription{Filter: "t", QoS: packet.QoS1}}}, outcome)
		if i%1000 == 999 {
			done.Wait()
		}
		p.Targets = append(p.Targets, stored.Target{Session: meta.Name, Epoch: 1, PacketID: 1, QoS: packet.QoS1})
	}
	targets := p.Targets
	for i := range waiting {
		for rest := targets; len(rest) > 0; {
			p.Targets, rest = rest[:min(4096, len(rest))], rest[min(4096, len(rest)):]
			for k := range p.Targets {
				p.Targets[k].PacketID = uint16(i + 1)
			}
			batch := st.Begin(st.Partition(realm, "pub"))
			done.Add(1)
			batch.Add(&p, func(_ stored.Receipt, err error) { outcome(err) })
			batch.Submit()
			done.Wait()
		}
	}
	done.Wait()
}

// surveyed is an engine that notes the order in which the queues of sleepers are
// first read, and holds the first of these until release is closed.
type surveyed struct {
	store.Engine
	first   chan struct{} // closed when the first is read
	release chan struct{}

	mu    sync.Mutex
	order map[string]int
}

var sleeper = regexp.MustCompile(realm + "\x00\x01(s[0-9]+)\x00\x01")

func (e *surveyed) Snapshot() store.Snapshot { return &surveyedView{e.Engine.Snapshot(), e} }

type surveyedView struct {
	store.Snapshot
	e *surveyed
}

func (v *surveyedView) Iter(lower, upper []byte) store.Iterator {
	return &surveyedQueues{Iterator: v.Snapshot.Iter(lower, upper), e: v.e}
}

type surveyedQueues struct {
	store.Iterator
	e     *surveyed
	walks bool
	seeks bool // it has begun so; who looks for empty queues reads from the first key on
}

func (it *surveyedQueues) Next() bool {
	it.walks = it.walks || !it.seeks
	return it.note(it.Iterator.Next())
}

func (it *surveyedQueues) SeekGE(key []byte) bool {
	it.seeks = !it.walks
	return it.note(it.Iterator.SeekGE(key))
}

func (it *surveyedQueues) note(ok bool) bool {
	if ok && it.seeks && store.Table(it.Key()[1]) == store.TableQueue {
		if m := sleeper.FindSubmatch(it.Key()); m != nil {
			it.e.note(string(m[1]))
		}
	}
	return ok
}

func (e *surveyed) note(name string) {
	e.mu.Lock()
	n := len(e.order)
	_, known := e.order[name]
	if !known {
		e.order[name] = n
	}
	e.mu.Unlock()
	if n == 0 && !known {
		close(e.first)
	}
	<-e.release
}

// TestResumeGoesFirst: after a restart, clients that resume while a message for
// very many stored sessions reads their queues are served after the few that a
// step reads, whichever they are.
func TestResumeGoesFirst(t *testing.T) {
	const sessions, resuming, step = 1500, 20, 128
	e := &surveyed{Engine: mem.New(), first: make(chan struct{}), release: make(chan struct{}), order: map[string]int{}}
	sleepers(t, e.Engine, sessions, 1)
	s := start(t, durable(e))
	pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
	send(t, pub, &packet.Publish{Topic: []byte("t"), Payload: []byte("new"), QoS: packet.QoS1, PacketID: 1})
	<-e.first
	var clients []*peer.Conn
	var names []string
	for i := range resuming {
		names = append(names, fmt.Sprint("s", sessions-1-i*7))
		c, err := peer.Open(t.Context(), s.targets["tcp"], packet.V5, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		send(t, c, &packet.Connect{ClientID: names[i], KeepAlive: 60, SessionExpiryInterval: stored.NeverExpires})
		clients = append(clients, c)
	}
	waiting := eventually(func() bool { return s.b.LoaderJobs() > resuming })
	close(e.release)
	if !waiting {
		t.Fatalf("%d jobs wait", s.b.LoaderJobs())
	}
	for _, c := range clients {
		if ack := receive[*packet.Connack](t, c); !ack.SessionPresent {
			t.Fatalf("%+v", ack)
		}
	}
	receive[*packet.Puback](t, pub)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range names {
		if n := e.order[name]; n > 3*step+resuming { // what stands beside them counts, too
			t.Errorf("%s was resumed after the queues of %d sessions had been read", name, n)
		}
	}
}

// TestResumeBeforePublish is an experiment: after a restart one message goes to
// very many stored sessions, on a disk, while clients resume theirs. The full
// size: ROLLCALL_SLEEPERS=200000.
func TestResumeBeforePublish(t *testing.T) {
	n, resuming := 1500, 20
	if text := os.Getenv("ROLLCALL_SLEEPERS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
		resuming = 200
	}
	for waiting := range 2 {
		t.Run(fmt.Sprintf("%d messages wait", waiting), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			open := func() store.Engine {
				e, err := pebble.Open(pebble.Options{Dir: dir})
				if err != nil {
					t.Fatal(err)
				}
				return e
			}
			e := open()
			sleepers(t, e, n, waiting)
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			s := start(t, durable(open()))
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			begun := time.Now()
			send(t, pub, &packet.Publish{Topic: []byte("t"), Payload: []byte("new"), QoS: packet.QoS1, PacketID: 1})
			acknowledged := make(chan time.Duration, 1)
			go func() { // ends with the PUBACK, or the connection
				if _, err := pub.Receive(time.Now().Add(10 * patience)); err == nil {
					acknowledged <- time.Since(begun)
				}
			}()
			var took []time.Duration
			var clients []*peer.Conn
			for i := range resuming {
				t0 := time.Now()
				clients = append(clients, s.resume(packet.V5, fmt.Sprint("s", i*n/resuming), true))
				if len(acknowledged) == 0 { // the others had nothing to wait for
					took = append(took, time.Since(t0))
				}
			}
			for _, c := range clients {
				if waiting > 0 {
					take(t, c, "old")
				}
				take(t, c, "new")
			}
			t.Logf("%d sessions: PUBACK after %v; %d of %d resumed before", n, <-acknowledged, len(took), resuming)
			if len(took) > 0 {
				slices.Sort(took)
				t.Logf("that took p50 %v, p99 %v, at most %v", took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
			}
		})
	}
}
