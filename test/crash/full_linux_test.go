package crash

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/audit"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// TestDiskFull fills a small file system under a server (P7): new work is
// refused with the right codes, disconnects and deletes go on, nothing that was
// accepted is lost, and service resumes when space returns.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=320m,mode=0700"); err != nil {
		t.Skipf("this machine does not let tests mount file systems: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	data := filepath.Join(disk, "data")
	args := arguments(t, dir)
	p := servertest.StartProcess(t, data, args...)
	defer func() { p.Kill() }()
	rc := servertest.NewReceiver(t)
	if err := servertest.Subscribe(t.Context(), p.Info, "one", rc.URL, nil); err != nil {
		t.Fatal(err)
	}
	l := &log{}
	connect := func(name string, v packet.Version) (*peer.Conn, *audit.Sighting, error) {
		s := l.begin(name)
		c, _, err := peer.Dial(t.Context(), servertest.Target(p.Info, "tcp"), v, nil, packet.Connect{ClientID: name, CleanStart: true, ReceiveMaximum: 10})
		if err == nil {
			s.Acked = time.Now()
		}
		return c, s, err
	}
	putClient := func(name string) (int, []byte) {
		status, text, err := servertest.Call(t.Context(), p.Info, http.MethodPut, servertest.ARM(p.Info, "/clients/"+name), map[string]any{"properties": map[string]any{}})
		if err != nil {
			t.Fatal(err)
		}
		return status, text
	}
	putClient("kept")
	type open struct {
		c *peer.Conn
		s *audit.Sighting
	}
	var before []open
	for i := range 20 {
		c, s, err := connect(fmt.Sprintf("before-%d", i), packet.V5)
		if err != nil {
			t.Fatal(err)
		}
		before = append(before, open{c, s})
	}

	filler := fill(t, disk, 40<<20) // between low water (64 MiB) and reserve (16 MiB), with room for the store's own files
	awaitFull(t, p.Info, true)

	var refused *peer.Refused
	if _, _, err := connect("new5", packet.V5); !errors.As(err, &refused) || refused.Connack.ReasonCode != packet.QuotaExceeded {
		t.Errorf("MQTT 5 connect on a full disk: %v", err)
	}
	if _, _, err := connect("new3", packet.V311); !errors.As(err, &refused) || refused.Connack.ReasonCode != packet.ServerUnavailable {
		t.Errorf("MQTT 3.1.1 connect on a full disk: %v", err)
	}
	if _, _, err := connect("before-0", packet.V5); !errors.As(err, &refused) {
		t.Errorf("take-over on a full disk: %v", err)
	}
	if status, text := putClient("another"); status != http.StatusInsufficientStorage {
		t.Errorf("PUT on a full disk: %d %s", status, text)
	}
	if status, text, err := servertest.Call(t.Context(), p.Info, http.MethodDelete, servertest.ARM(p.Info, "/clients/kept"), nil); err != nil || status != http.StatusOK {
		t.Errorf("DELETE on a full disk: %d %s %v", status, text, err)
	}
	if res, err := http.Get(p.Info.HTTP[0] + "/readyz"); err != nil || res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz on a full disk: %v %v", res, err)
	} else {
		res.Body.Close()
	}
	for _, o := range before[:10] { // the reserve keeps disconnects possible
		o.s.Goodbye = o.c.Disconnect() == nil
		o.s.Closed = time.Now()
	}
	for i := range 10 {
		rc.Ended(t, fmt.Sprintf("before-%d", i), 1)
	}

	// kill -9 on a full disk loses nothing either.
	p.Kill()
	for _, o := range before[10:] {
		o.s.Closed = time.Now()
		o.c.Close()
	}
	p = servertest.StartProcess(t, data, args...)
	for i := 10; i < 20; i++ {
		if e := rc.Ended(t, fmt.Sprintf("before-%d", i), 1); e.Reason != "ServerError" {
			t.Errorf("before-%d ended with %s", i, e.Reason)
		}
	}
	awaitFull(t, p.Info, true)

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	awaitFull(t, p.Info, false)
	c, s, err := connect("after", packet.V5)
	if err != nil {
		t.Fatalf("connect after space returned: %v", err)
	}
	s.Goodbye = c.Disconnect() == nil
	s.Closed = time.Now()
	if status, text := putClient("another"); status >= 300 {
		t.Errorf("PUT after space returned: %d %s", status, text)
	}
	rc.Ended(t, "after", 1)
	quiet(t, p.Info)
	judge(t, audit.Input{Deliveries: rc.Deliveries(), Sightings: l.sightings(), Subscriptions: []string{"ONE"}})
}

// fill writes a file until leave bytes are free.
func fill(t *testing.T, dir string, leave uint64) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 256<<10)
	for {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		if st.Bavail*uint64(st.Bsize) <= leave {
			return f.Name()
		}
		if _, err := f.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitFull waits until the server says that it is full, or not.
func awaitFull(t *testing.T, i app.ReadyInfo, want bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var st app.Status
		if err := get(ctx, i, "/rollcall/v1/status", &st); err != nil {
			t.Fatal(err)
		}
		if st.Storage.Full == want {
			return
		}
		<-tick.C
	}
}
