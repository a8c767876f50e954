package hostile

import (
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"rollcall/internal/servertest"
)

// TestUnfinishedConnects: clients that begin a CONNECT of a million bytes and do
// not end it hold little in all, whether they send much of it or little:
// ROLLCALL_HOSTILE_UNFINISHED of them, 200 by default.
func TestUnfinishedConnects(t *testing.T) {
	n := 200
	if m, err := strconv.Atoi(os.Getenv("ROLLCALL_HOSTILE_UNFINISHED")); err == nil {
		n = m
	}
	begun := append([]byte{0x10, 0xc0, 0x84, 0x3d}, "\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a"...)
	begun = append(begun, make([]byte, 960_000)...)
	for name, size := range map[string]int{"most of it": len(begun), "60 kB of it": 60_000} {
		t.Run(name, func(t *testing.T) {
			p := start(t)
			by := newBystander(t, p.Info)
			defer by.end(t)
			before := memory(t, p.PID())
			var wg sync.WaitGroup
			most := 0
			for range n {
				c, err := net.Dial("tcp", p.Info.MQTT[0])
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if err := c.SetWriteDeadline(time.Now().Add(servertest.Patience)); err != nil {
					t.Fatal(err)
				}
				wg.Go(func() { _, _ = c.Write(begun[:size]) }) // it fails when the server has closed
				most = max(most, memory(t, p.PID())-before)
			}
			wg.Wait()
			most = max(most, memory(t, p.PID())-before)
			t.Logf("%d clients: %d MiB at the worst moment", n, most>>20)
			if most > 256<<20 { // the budget is 64 MiB, and memory doubles before it is collected
				t.Errorf("%d MiB were held", most>>20)
			}
		})
	}
}
