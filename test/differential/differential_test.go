// Package differential holds random conversations with two brokers, ours and
// mosquitto, and compares what they say to whom. All conversations are legal,
// so that a difference is a mistake of one of the two, or a freedom that the
// standard leaves; see known_test.go.
package differential

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/config"
	"rollcall/internal/servertest"
)

// long is set to a duration for which to go on with new seeds.
const long = "ROLLCALL_DIFFERENTIAL"

// seeds are how many conversations the normal run has.
const seeds = 120

// TestSameAsMosquitto runs conversations against both drivers of plain TCP.
func TestSameAsMosquitto(t *testing.T) {
	theirs := mosquitto(t)
	ours := []string{
		rollcall(t, 0),
		rollcall(t, -1),
	}
	end, base := time.Time{}, uint64(0)
	if text := os.Getenv(long); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		end, base = time.Now().Add(d), uint64(time.Now().Unix())<<20
		t.Logf("seeds from %d", base)
	}
	var next, steps, messages atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if end.IsZero() && n > seeds || !end.IsZero() && time.Now().After(end) || t.Failed() {
					return
				}
				seed := base + uint64(n)
				c := generate(seed, !end.IsZero())
				p := pair{theirs, ours[n%2]}
				found, stat := p.hold(c, fmt.Sprintf("d%d", seed))
				steps.Add(int64(stat.steps))
				messages.Add(int64(stat.messages))
				if found == nil {
					continue
				}
				c, found = p.shrink(c, found, fmt.Sprintf("d%d", seed))
				t.Errorf("seed %d, target %d differs:\n%s%s", seed, n%2, c, found)
			}
		})
	}
	wg.Wait()
	t.Logf("%d conversations, %d steps, %d messages received", min(next.Load(), max(seeds, next.Load()-4)), steps.Load(), messages.Load())
	if messages.Load() == 0 {
		t.Error("nothing was compared")
	}
}

// rollcall starts ours in this process, on a disk of memory if there is one: what
// is compared does not depend on how long a disk takes.
func rollcall(t *testing.T, loops int) string {
	t.Helper()
	return servertest.Start(t, func(c *config.Config) {
		c.MQTT.Loops = loops
		if !exists("/dev/shm") {
			return
		}
		dir, err := os.MkdirTemp("/dev/shm", "rollcall-differential-")
		if err != nil {
			return // then the other disk will do
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		c.Data = filepath.Join(dir, "data")
		c.Storage.LowWater, c.Storage.Reserve = 48<<20, 16<<20
	}).Target("tcp")
}

// pair are the targets of both brokers.
type pair struct{ theirs, ours string }

// finding is a difference.
type finding struct {
	at   int // index of the step
	what string
}

// String implements fmt.Stringer.
func (f *finding) String() string { return fmt.Sprintf("at step %d: %s", f.at, f.what) }

type statistics struct{ steps, messages int }

// hold holds the conversation with both brokers, step by step, and returns the
// first difference, or nil.
func (p pair) hold(c conversation, prefix string) (*finding, statistics) {
	var stat statistics
	var m model
	y := newMemory()
	theirs, ours := &talk{target: p.theirs, prefix: prefix + "/"}, &talk{target: p.ours, prefix: prefix + "/"}
	defer theirs.end()
	defer ours.end()
	for i := range c {
		s := &c[i]
		if !m.legal(s) { // something before was taken out
			continue
		}
		y.prepare(&m, s)
		m.take(s)
		want, err := theirs.do(s, nil)
		if err != nil {
			return &finding{i, "mosquitto: " + err.Error()}, stat
		}
		got, err := ours.do(s, func(o *outcome) bool { return y.compare(s, want, sorted(o)) == "" })
		if err != nil {
			return &finding{i, "rollcall: " + err.Error()}, stat
		}
		stat.steps++
		stat.messages += got.count()
		if y.compare(s, want, got) != "" { // perhaps theirs is the slower one
			err := theirs.more(want, func(o *outcome) bool { return y.compare(s, o, got) == "" }, time.Now().Add(settleTime))
			if err != nil {
				return &finding{i, "mosquitto: " + err.Error()}, stat
			}
		}
		if what := y.compare(s, want, got); what != "" {
			return &finding{i, what}, stat
		}
	}
	return nil, stat
}

func sorted(o *outcome) *outcome {
	slices.Sort(o.answers)
	return o
}

// shrinkTime bounds the search for a shorter conversation.
const shrinkTime = 40 * time.Second

// shrink leaves out steps, and parts of steps, that are not needed for a
// difference.
func (p pair) shrink(c conversation, f *finding, prefix string) (conversation, *finding) {
	end := time.Now().Add(shrinkTime)
	c = slices.Clone(c[:f.at+1])
	tries := 0
	try := func(shorter conversation) bool {
		if time.Now().After(end) {
			return false
		}
		tries++
		g, _ := p.hold(shorter, fmt.Sprintf("%s-%d", prefix, tries))
		if g == nil {
			return false
		}
		c, f = slices.Clone(shorter[:g.at+1]), g
		return true
	}
	for again := true; again; {
		again = false
		for i := len(c) - 1; i >= 0; i-- {
			if i < len(c) && try(slices.Delete(slices.Clone(c), i, i+1)) {
				again = true
			}
		}
		for i := range c {
			again = (i < len(c) && p.trim(c, i, try)) || again
		}
	}
	return c, f
}

// trim leaves out messages and filters of one step.
func (p pair) trim(c conversation, i int, try func(conversation) bool) (done bool) {
	for j := len(c[i].messages) - 1; j >= 0 && len(c[i].messages) > 1; j-- {
		d := slices.Clone(c)
		d[i].messages = slices.Delete(slices.Clone(d[i].messages), j, j+1)
		if try(d) {
			return true
		}
	}
	for j := len(c[i].subs) - 1; j >= 0 && len(c[i].subs) > 1; j-- {
		d := slices.Clone(c)
		d[i].subs = slices.Delete(slices.Clone(d[i].subs), j, j+1)
		if try(d) {
			return true
		}
	}
	if c[i].will != nil {
		d := slices.Clone(c)
		d[i].will = nil
		return try(d)
	}
	return false
}

// mosquitto starts one on a free port and returns where it is.
func mosquitto(t *testing.T) string {
	t.Helper()
	binary, err := exec.LookPath("mosquitto")
	if err != nil {
		if binary = "/usr/sbin/mosquitto"; !exists(binary) {
			t.Fatal("mosquitto is not installed; scripts/setup test does that")
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr)
	ln.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nallow_duplicate_messages false\nmax_inflight_messages 100\n"+
		"max_queued_messages 1000\npersistence false\nlog_dest stderr\nlog_type error\n", addr.Port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", file)
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		out.Close()
	})
	for end := time.Now().Add(patience); ; {
		nc, err := net.Dial("tcp", addr.String())
		if err == nil {
			nc.Close()
			break
		}
		if time.Now().After(end) {
			log, _ := os.Open(filepath.Join(dir, "log"))
			text, _ := io.ReadAll(log)
			t.Fatalf("mosquitto does not start: %v\n%s", err, text)
		}
	}
	return "mqtt://" + addr.String()
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
