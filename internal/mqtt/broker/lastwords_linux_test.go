package broker_test

import (
	"fmt"
	"sync"
	"testing"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/presence"
	"rollcall/internal/store/mem"
)

// TestLastWords: a client that says DISCONNECT and connects again at once is
// not taken over, whichever loop reads first: it left by itself, and its Will
// is not published. What the system hands over after the new CONNECT comes too
// late; that is rare, and without the care that is tested here one in six.
func TestLastWords(t *testing.T) {
	for _, transport := range []string{"tcp", "tls"} {
		t.Run(transport, func(t *testing.T) {
			s := start(t, durable(mem.New(), func(o *settings) { o.broker.Loops = 2 })) // whose promise it is
			w := s.dial("tcp", packet.V5, packet.Connect{ClientID: "watcher"})
			subscribe(t, w, packet.QoS1, "w")
			const clients, times = 4, 50
			var wg sync.WaitGroup
			for k := range clients {
				wg.Go(func() {
					for range times {
						c := s.dial(transport, packet.V5, packet.Connect{ClientID: fmt.Sprint("c", k), SessionExpiryInterval: 100, Will: lastWill("gone", 0)})
						send(t, c, &packet.Publish{Topic: []byte("t")}, &packet.Disconnect{})
						c.Close()
					}
				})
			}
			wg.Wait()
			late := 0
			for k := range clients {
				ended := 0
				for _, h := range s.history(fmt.Sprint("c", k)) {
					if h.Kind != presence.Disconnected {
						continue
					}
					ended++
					switch h.Reason {
					case disconnect.ClientInitiatedDisconnect:
					case disconnect.SessionTakenOver:
						late++
					default:
						t.Fatalf("session %d of c%d ended by %s: %+v", h.Number, k, h.Reason, h.Evidence)
					}
				}
				if ended < times-1 {
					t.Errorf("c%d came %d times, and left %d times", k, times, ended)
				}
			}
			if late > clients*times/25 {
				t.Errorf("%d of %d were taken over", late, clients*times)
			}
			end := s.dial("tcp", packet.V5, packet.Connect{ClientID: "end"})
			send(t, end, &packet.Publish{Topic: []byte("w"), Payload: []byte("end")})
			wills := 0
			for string(receive[*packet.Publish](t, w).Payload) != "end" {
				wills++
			}
			if wills > late {
				t.Errorf("%d Wills came, and %d clients were taken over", wills, late)
			}
		})
	}
}
