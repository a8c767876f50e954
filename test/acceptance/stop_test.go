package acceptance

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// TestSecondSignalEndsAtOnce: who asks twice does not want to wait for a
// webhook that hangs.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	rc := servertest.NewReceiver(t)
	asked, answer := make(chan struct{}, 100), make(chan struct{})
	defer close(answer)
	rc.Answer(func(*http.Request, []byte) int {
		asked <- struct{}{}
		<-answer
		return http.StatusOK
	})
	p := servertest.StartProcess(t, filepath.Join(t.TempDir(), "data"),
		"--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0", "--mqtts", "", "--https", "")
	defer p.Kill()
	if err := servertest.Subscribe(t.Context(), p.Info, "hangs", rc.URL, nil); err != nil {
		t.Fatal(err)
	}
	c, _, err := peer.Dial(t.Context(), servertest.Target(p.Info, "tcp"), packet.V5, nil, packet.Connect{ClientID: "device", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-asked
	if err := syscall.Kill(p.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := farewell(t, c); got != packet.ServerShuttingDown { // so it is
		t.Fatalf("told %s", got)
	}
	// The first signal may still be on its way through the process: ask until
	// it has gone.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for gone := false; !gone; {
		_ = syscall.Kill(p.PID(), syscall.SIGTERM) // it may have gone
		select {
		case <-tick.C:
		case <-p.Exited():
			gone = true
		}
	}
	var exit *exec.ExitError
	if err := p.Stop(t.Context()); !errors.As(err, &exit) {
		t.Fatalf("after the second signal: %v, want to be ended by it\n%s", err, p.Output())
	}
	if st := exit.Sys().(syscall.WaitStatus); !st.Signaled() || st.Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v, want by SIGTERM", st)
	}
}

// TestSessionNames: whatever a session is called, the command line finds it.
func TestSessionNames(t *testing.T) {
	p := servertest.StartProcess(t, filepath.Join(t.TempDir(), "data"),
		"--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0", "--mqtts", "", "--https", "")
	defer p.Kill()
	cli := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), servertest.Binary(t), args...)
		cmd.Env = append(os.Environ(), "ROLLCALL_URL="+p.Info.HTTP[0], "ROLLCALL_TOKEN="+p.Info.Token)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, name := range []string{"plain", "a/b", "a//b/", "50%", "%2F", ".", "..", "a/../b", "a b", "ä€😀", "a?b=c#d", "a+b", "history", "a:b.c"} {
		c, _, err := peer.Dial(t.Context(), servertest.Target(p.Info, "tcp"), packet.V5, nil, packet.Connect{ClientID: name, CleanStart: true})
		if err != nil {
			t.Errorf("%q cannot connect: %v", name, err)
			continue
		}
		if out, err := cli("session", "show", "--json", "--", name); err != nil {
			t.Errorf("session show %q: %v\n%s", name, err, out)
		}
		if out, err := cli("session", "history", "--", name); err != nil || !strings.Contains(out, "onnected") {
			t.Errorf("session history %q: %v\n%s", name, err, out)
		}
		if out, err := cli("session", "end", "--", name); err != nil {
			t.Errorf("session end %q: %v\n%s", name, err, out)
		}
		c.Close()
	}
}
