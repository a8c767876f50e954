package acceptance

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// A stock mosquitto bridges to us both ways: its Will goes to
// $SYS/broker/connection/…/state, and so does, retained, whether it is there.
func TestMosquittoBridge(t *testing.T) {
	w := servertest.Start(t, nil)
	dir := t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // mosquitto knows no port 0
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	conf := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nconnection site\naddress %s\ntopic # both 1\nremote_clientid bridge-1\n", port, w.Info.MQTT[0])
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mosquitto", "-c", file, "-v")

	if path, err := exec.LookPath("/usr/sbin/mosquitto"); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	go func() { // ends with the process
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.Contains(lines.Text(), "bridge") || strings.Contains(lines.Text(), "CONNACK") {
				t.Log(lines.Text())
			}
		}
	}()

	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	here, _, err := peer.Dial(ctx, "mqtt://"+w.Info.MQTT[0], packet.V5, nil, packet.Connect{ClientID: "here", CleanStart: true, ReceiveMaximum: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if err := here.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "$SYS/broker/connection/#"}, {Filter: "from/there"}}}); err != nil {
		t.Fatal(err)
	}
	wait := func(topic string) string {
		t.Helper()
		for {
			p, err := here.Receive(time.Now().Add(servertest.Patience))
			if err != nil {
				t.Fatalf("%s: %v", topic, err)
			}
			if m, ok := p.(*packet.Publish); ok && strings.HasPrefix(string(m.Topic), topic) {
				return string(m.Payload)
			}
		}
	}
	if state := wait("$SYS/broker/connection/"); state != "1" {
		t.Errorf("the bridge says %q, want 1", state)
	}
	there, _, err := peer.Dial(ctx, fmt.Sprintf("mqtt://127.0.0.1:%d", port), packet.V311, nil, packet.Connect{ClientID: "there", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := there.Send(&packet.Publish{Topic: []byte("from/there"), Payload: []byte("hello")}); err != nil {
		t.Fatal(err)
	}
	if got := wait("from/there"); got != "hello" {
		t.Errorf("got %q over the bridge", got)
	}
	cmd.Process.Kill()
	if state := wait("$SYS/broker/connection/"); state != "0" {
		t.Errorf("the bridge's Will says %q, want 0", state)
	}
}
