package broker_test

import (
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

// watched is an engine that keeps one reader waiting, and at whose closing
// nobody may be left inside.
type watched struct {
	store.Engine
	t       *testing.T
	entered chan struct{} // closed when the reader has come
	leave   chan struct{} // closed when it may go on

	mu     sync.Mutex
	where  string // what the reader's stack contains; "": nobody is kept
	inside int
}

const stay = time.Second // of the reader

// Snapshot implements store.Engine.
func (w *watched) Snapshot() store.Snapshot {
	w.mu.Lock()
	kept := w.where != "" && strings.Contains(string(debug.Stack()), w.where)
	if kept {
		w.where = ""
		w.inside++
	}
	w.mu.Unlock()
	if kept {
		close(w.entered)
		time.AfterFunc(stay, func() { close(w.leave) })
		<-w.leave
		w.mu.Lock()
		w.inside--
		w.mu.Unlock()
	}
	return w.Engine.Snapshot()
}

// Close implements store.Engine.
func (w *watched) Close() error {
	w.mu.Lock()
	inside := w.inside
	w.mu.Unlock()
	if inside > 0 {
		w.t.Error("somebody reads the store although Run has returned")
		<-w.leave
	}
	return w.Engine.Close()
}

func (w *watched) keep(where string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.where = where
}

// TestRunJoins: nobody reads the store once Run has returned.
func TestRunJoins(t *testing.T) {
	for _, c := range []struct {
		name, where string
		do          func(t *testing.T, s *server) // has the reader come
	}{
		{"retained messages", "replayAll", func(t *testing.T, s *server) {
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			send(t, pub, &packet.Publish{Topic: []byte("r"), Payload: make([]byte, 10_000), QoS: packet.QoS1, PacketID: 1, Retain: true})
			receive[*packet.Puback](t, pub)
			subscribe(t, pub, packet.QoS1, "r")
		}},
		{"handing on", "redistribute", func(t *testing.T, s *server) {
			c := s.resume(packet.V5, "c", false)
			subscribe(t, c, packet.QoS1, "$share/g/t")
			send(t, c, &packet.Disconnect{SessionExpiryInterval: packet.Some[uint32](0)})
		}},
		{"feeding", "feedPage", func(t *testing.T, s *server) {
			c, _ := s.connect(packet.V5, packet.Connect{ClientID: "c", ReceiveMaximum: 1})
			subscribe(t, c, packet.QoS1, "t")
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			for range 3 {
				put(t, pub, packet.QoS1, 1, "t", "x")
			}
			take(t, c, "x")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &watched{Engine: mem.New(), t: t, entered: make(chan struct{}), leave: make(chan struct{})}
			s := start(t, durable(w))
			w.keep(c.where)
			c.do(t, s)
			select {
			case <-w.entered: // and then the server ends
			case <-time.After(patience):
				t.Fatal("the store is not read")
			}
		})
	}
}
