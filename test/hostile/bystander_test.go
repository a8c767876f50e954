package hostile

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// bystanderTarget is set for a process of its own, so that what it measures is
// the server's doing and not that of the attackers beside it.
const bystanderTarget = "HOSTILE_BYSTANDER_TARGET"

// quietMessages is how many messages a bystander measures before an attack.
const quietMessages = 300

// times are what a bystander measured: how long each of its messages took to
// come back to it.
type times struct {
	Quiet, Attacked []time.Duration
	Err             string
}

// standBy is the bystander's process: it prints a line when it has measured
// the quiet, and what it measured once its input ends.
func standBy(target string) int {
	var ts times
	c, err := connectBystander(target)
	if err == nil {
		err = ts.measure(c)
	}
	if err != nil {
		ts.Err = err.Error()
	}
	if json.NewEncoder(os.Stdout).Encode(ts) != nil {
		return 1
	}
	return 0
}

func connectBystander(target string) (*peer.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), servertest.Patience)
	defer cancel()
	c, _, err := peer.Dial(ctx, target, packet.V5, nil, packet.Connect{ClientID: "bystander", CleanStart: true, KeepAlive: 30, ReceiveMaximum: 10})
	if err != nil {
		return nil, err
	}
	err = c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "by/stander"}}})
	if err == nil {
		_, err = c.Receive(time.Now().Add(servertest.Patience))
	}
	return c, err
}

func (ts *times) measure(c *peer.Conn) error {
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is the message
	}()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return c.Disconnect()
		case <-tick.C:
		}
		began := time.Now()
		if err := c.Send(&packet.Publish{Topic: []byte("by/stander"), Payload: []byte("x")}); err != nil {
			return err
		}
		if _, err := c.Receive(time.Now().Add(servertest.Patience)); err != nil {
			return err
		}
		took := time.Since(began)
		if len(ts.Quiet) < quietMessages {
			if ts.Quiet = append(ts.Quiet, took); len(ts.Quiet) == quietMessages {
				fmt.Println("quiet")
			}
			continue
		}
		ts.Attacked = append(ts.Attacked, took)
	}
}

// bystander is a client that must not notice anything. What it measures is
// logged, not judged; that it is not disconnected is judged.
type bystander struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	server int // process id
	rested int // bytes that the server had resident in quiet
}

func newBystander(t *testing.T, i app.ReadyInfo) *bystander {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := servertest.Ahead(exe)
	b := &bystander{cmd: exec.Command(command[0], command[1:]...)}
	b.cmd.Env = append(os.Environ(), bystanderTarget+"="+servertest.Target(i, "tcp"))
	b.cmd.Stderr = os.Stderr
	if b.in, err = b.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	b.out = bufio.NewReader(out)
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := b.out.ReadString('\n'); err != nil || line != "quiet\n" {
		t.Fatalf("the bystander: %q %v", line, err)
	}
	b.server, b.rested = i.PID, memory(t, i.PID)
	// From here on VmHWM is the worst moment of the attack (proc_pid_clear_refs(5)).
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", b.server), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// tableFile names a file that gets a row for each attack: the test, MiB resident
// in quiet and at the worst moment, and the bystander's figures.
const tableFile = "ROLLCALL_HOSTILE_TABLE"

// end sees that the bystander was not disconnected.
func (b *bystander) end(t *testing.T) {
	t.Helper()
	worst := status(t, b.server, "VmHWM:")
	b.in.Close()
	var ts times
	if err := json.NewDecoder(b.out).Decode(&ts); err != nil {
		t.Errorf("the bystander: %v", err)
	}
	if err := b.cmd.Wait(); err != nil || ts.Err != "" {
		t.Errorf("the bystander was disturbed after %d messages: %s %v", len(ts.Attacked), ts.Err, err)
	}
	t.Logf("bystander: p50 %s and p99 %s in quiet, p50 %s and p99 %s under attack (%d messages); the server had %d MiB, %d at the worst moment",
		quantile(ts.Quiet, 0.5), quantile(ts.Quiet, 0.99), quantile(ts.Attacked, 0.5), quantile(ts.Attacked, 0.99), len(ts.Attacked), b.rested>>20, worst>>20)
	name := os.Getenv(tableFile)
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	ms := func(d []time.Duration, q float64) float64 { return quantile(d, q).Seconds() * 1000 }
	_, err = fmt.Fprintf(f, "| %s | %d | %d | %.2f | %.2f | %.2f | %.2f | %d |\n", strings.TrimPrefix(t.Name(), "Test"), b.rested>>20, worst>>20,
		ms(ts.Quiet, 0.5), ms(ts.Attacked, 0.5), ms(ts.Quiet, 0.99), ms(ts.Attacked, 0.99), len(ts.Attacked))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// quantile of durations, which it sorts.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(float64(len(d))*q))]
}
