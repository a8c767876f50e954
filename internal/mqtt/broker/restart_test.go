package broker_test

import (
	"fmt"
	"os"
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
	var batch *stored.Batch
	p := stored.Publication{Realm: realm, Message: &session.Message{From: "pub", Received: time.Now(), Publish: packet.Publish{Topic: []byte("t"), Payload: []byte("old"), QoS: packet.QoS1}}}
	for i := range n {
		meta := stored.Session{Realm: realm, Name: fmt.Sprint("s", i), Owner: fmt.Sprint("s", i), Epoch: 1, Expiry: stored.NeverExpires, Offline: time.Now()}
		b := store.NewBatch(store.Normal)
		st.StageSession(b, nil, &meta)
		if _, err := store.Commit(t.Context(), e, b); err != nil {
			t.Fatal(err)
		}
		done.Add(1)
		st.Subscribe(meta.Key(), []stored.Subscription{{Subscription: packet.Subscription{Filter: "t", QoS: packet.QoS1}}}, func(err error) {
			if err != nil {
				t.Error(err)
			}
			done.Done()
		})
		p.Targets = append(p.Targets, stored.Target{Session: meta.Name, Epoch: 1, PacketID: 1, QoS: packet.QoS1})
	}
	for i := range waiting {
		for k := range p.Targets {
			p.Targets[k].PacketID = uint16(i + 1)
		}
		batch = st.Begin(st.Partition(realm, "pub"))
		done.Add(1)
		batch.Add(&p, func(_ stored.Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			done.Done()
		})
		batch.Submit()
	}
	done.Wait()
}

// TestResumeBeforePublish: after a restart a message for very many stored
// sessions does not keep a client waiting that resumes its own, nor a publisher
// whose message is for one. The full size: ROLLCALL_SLEEPERS=200000.
func TestResumeBeforePublish(t *testing.T) {
	n := 1500
	if text := os.Getenv("ROLLCALL_SLEEPERS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for waiting := range 2 {
		t.Run(fmt.Sprintf("%d messages wait", waiting), func(t *testing.T) {
			e := mem.New()
			sleepers(t, e, n, waiting)
			s := start(t, durable(e))
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			begun := time.Now()
			send(t, pub, &packet.Publish{Topic: []byte("t"), Payload: []byte("new"), QoS: packet.QoS1, PacketID: 1})
			acknowledged := make(chan time.Duration, 1)
			go func() { // ends with the PUBACK, or the connection
				if _, err := pub.Receive(time.Now().Add(10 * patience)); err == nil {
					acknowledged <- time.Since(begun)
				}
			}()
			var slowest time.Duration
			var clients []*peer.Conn
			overtaken := 0
			for i := range 20 {
				t0 := time.Now()
				clients = append(clients, s.resume(packet.V5, fmt.Sprint("s", i*n/20), true))
				slowest = max(slowest, time.Since(t0))
				if len(acknowledged) == 0 {
					overtaken++
				}
			}
			for _, c := range clients {
				if waiting > 0 {
					take(t, c, "old")
				}
				take(t, c, "new")
			}
			t.Logf("PUBACK after %v; resuming took %v at most; %d came before PUBACK", <-acknowledged, slowest, overtaken)
			if waiting > 0 && overtaken == 0 {
				t.Error("the client that resumed had to wait for a message to all")
			}
		})
	}
}
