package broker_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
)

// BenchmarkDeliver publishes bursts to subscribers over TCP and waits until
// the last has all of a burst. One operation is one message.
func BenchmarkDeliver(b *testing.B) {
	for _, qos := range []packet.QoS{packet.QoS0, packet.QoS1} {
		for _, subscribers := range []int{1, 20} {
			b.Run(fmt.Sprintf("qos%d/to%d", qos, subscribers), func(b *testing.B) {
				s := start(b, settings{})
				got := make(chan struct{}, subscribers)
				const burst = 64
				for i := range subscribers {
					c := s.dial("tcp", packet.V311, packet.Connect{ClientID: fmt.Sprint("s", i)})
					subscribe(b, c, packet.QoS0, "a/b")
					size := len(encode(b, packet.V311, &packet.Publish{Topic: []byte("a/b"), Payload: make([]byte, 100)}))
					go func() { // ends when the connection is closed
						buf := make([]byte, 64<<10)
						for n := 0; ; {
							m, err := c.Net().Read(buf)
							if err != nil {
								return
							}
							for n += m; n >= burst*size; n -= burst * size {
								got <- struct{}{}
							}
						}
					}()
				}
				pub := s.dial("tcp", packet.V311, packet.Connect{ClientID: "pub"})
				var ps []packet.Packet
				for i := range burst {
					p := &packet.Publish{Topic: []byte("a/b"), Payload: make([]byte, 100), QoS: qos}
					if qos == packet.QoS1 {
						p.PacketID = uint16(i + 1)
					}
					ps = append(ps, p)
				}
				frames := encode(b, packet.V311, ps...)
				acks := make([]byte, 4*burst*int(qos))
				b.ReportAllocs()
				b.ResetTimer()
				for i := 0; i < b.N; i += burst {
					if err := pub.Write(frames); err != nil {
						b.Fatal(err)
					}
					if _, err := readFull(pub.Net(), acks); err != nil {
						b.Fatal(err)
					}
					for range subscribers {
						<-got
					}
				}
			})
		}
	}
}

func readFull(nc net.Conn, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = nc.Read(buf[n:])
		n += m
	}
	return n, err
}

// BenchmarkIdle reports what an idle connection with one subscription costs: heap
// and stacks, and resident memory of the process, both including the client's
// end, which is a bare net.Conn, and the ledger in memory. Run it with -benchtime 1x.
func BenchmarkIdle(b *testing.B) {
	const n = 5000
	memory := func() (inUse, resident float64) {
		debug.FreeOSMemory()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		text, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			b.Skip("no /proc")
		}
		pages, err := strconv.Atoi(strings.Fields(string(text))[1])
		if err != nil {
			b.Fatal(err)
		}
		return float64(m.HeapAlloc + m.StackInuse), float64(pages * os.Getpagesize())
	}
	for _, transport := range []string{"tcp", "tls", "ws"} {
		b.Run(transport, func(b *testing.B) {
			for b.Loop() {
				s := start(b, settings{})
				heap, rss := memory()
				conns := make([]net.Conn, n) // no more of the clients than that
				for i := range conns {
					c, _, err := peer.Dial(b.Context(), s.targets[transport], packet.V5, s.config, packet.Connect{
						ClientID: fmt.Sprintf("device-%06d", i), CleanStart: true, KeepAlive: 600, ReceiveMaximum: 65535})
					if err != nil {
						b.Fatal(err)
					}
					subscribe(b, c, packet.QoS1, fmt.Sprintf("device/%06d/#", i))
					conns[i] = c.Net()
				}
				heap1, rss1 := memory()
				b.ReportMetric((heap1-heap)/n, "B/conn")
				b.ReportMetric((rss1-rss)/n, "RSS/conn")
				for _, c := range conns {
					c.Close()
				}
			}
		})
	}
}
