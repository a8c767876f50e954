package broker_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
)

// sips is a client's connection that reads a few hundred bytes at once.
type sips struct{ net.Conn }

func (s sips) Read(p []byte) (int, error) { return s.Conn.Read(p[:min(len(p), 300)]) }

// sipper is a client on a system that takes few bytes from the server before
// they are read, in segments as small as an Ethernet's: else loopback takes
// megabytes.
type sipper struct {
	t    *testing.T
	nc   net.Conn
	in   []byte
	read int
}

func (s *server) sip(t *testing.T, transport string) *sipper {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		failed := raw.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1400),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<10))
		})
		return errors.Join(failed, err)
	}}
	_, addr, _ := strings.Cut(s.targets[transport], "://")
	nc, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc = sips{nc}
	if transport == "tls" {
		config := s.config.Clone()
		config.ServerName = "127.0.0.1"
		nc = tls.Client(nc, config)
	}
	return &sipper{t: t, nc: nc}
}

func (s *sipper) send(p packet.Packet) {
	s.t.Helper()
	if _, err := s.nc.Write(encode(s.t, packet.V5, p)); err != nil {
		s.t.Fatal(err)
	}
}

// next returns the next packet. What is in it is the caller's until the next
// call.
func (s *sipper) next() packet.Packet {
	s.t.Helper()
	if err := s.nc.SetDeadline(deadline()); err != nil {
		s.t.Fatal(err)
	}
	for {
		n, err := packet.Frame(s.in, 0)
		if err != nil {
			s.t.Fatalf("%v after %d bytes", err, s.read)
		}
		if n > 0 {
			p, err := packet.Decode(packet.V5, bytes.Clone(s.in[:n]))
			if err != nil {
				s.t.Fatalf("%v after %d bytes", err, s.read)
			}
			s.in = s.in[:copy(s.in, s.in[n:])]
			return p
		}
		var sip [300]byte
		n, err = s.nc.Read(sip[:])
		if err != nil {
			s.t.Fatalf("%v after %d bytes", err, s.read)
		}
		s.in = append(s.in, sip[:n]...)
		s.read += n
	}
}

// TestSipping: clients that read steadily, and always more slowly than they are
// sent to, take no more memory than OutputBytes allow however long that goes on.
// What they get is whole and in order.
func TestSipping(t *testing.T) {
	const outputBytes, message, burst, total = 1 << 20, 1000, 64, 12 << 20
	for _, transport := range []string{"tcp", "tls"} {
		t.Run(transport, func(t *testing.T) {
			s := start(t, settings{broker: broker.Options{OutputBytes: outputBytes}})
			pub := s.dial("tcp", packet.V5, packet.Connect{ClientID: "pub"})
			c := s.sip(t, transport)
			c.send(&packet.Connect{ClientID: "c", CleanStart: true, ReceiveMaximum: 65535})
			if ack, ok := c.next().(*packet.Connack); !ok || ack.ReasonCode != packet.Success {
				t.Fatalf("CONNACK %+v", ack)
			}
			c.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "t"}}})
			if _, ok := c.next().(*packet.Suback); !ok {
				t.Fatal("no SUBACK")
			}
			fill := bytes.Repeat([]byte("x"), message)
			published, most, largest := 0, 0, 0
			publish := func() {
				for range burst {
					send(t, pub, &packet.Publish{Topic: []byte("t"), Payload: append(fmt.Appendf(nil, "%d ", published), fill...)})
					published++
				}
				send(t, pub, &packet.Pingreq{})
				receive[*packet.Pingresp](t, pub) // all have been handed out, or dropped
				waiting, memory := s.b.Held(realm, "c")
				most, largest = max(most, waiting), max(largest, memory)
			}
			last := -1
			for drops := 0.0; drops == 0; { // until its buffers are full
				publish()
				drops = s.metric("rollcall_mqtt_messages_dropped_total", "congested")
			}
			for begun := c.read; c.read < begun+total; {
				publish()
				for till := c.read + burst*message/2; c.read < till; {
					p, ok := c.next().(*packet.Publish)
					if !ok {
						t.Fatalf("received %+v", p)
					}
					number, rest, _ := strings.Cut(string(p.Payload), " ")
					n, err := strconv.Atoi(number)
					if err != nil || n <= last || rest != string(fill) {
						t.Fatalf("received %.40q, after message %d", p.Payload, last)
					}
					last = n
				}
			}
			t.Logf("%d bytes were read and %d messages published; at most %d bytes waited, in %d", c.read, published, most, largest)
			// What a write under way has taken is not counted against the limit.
			if most < outputBytes/2 || most > outputBytes+outputBytes/4 {
				t.Errorf("%d bytes waited at most", most)
			}
			if largest > 4*outputBytes {
				t.Errorf("they took %d bytes", largest)
			}
		})
	}
}
