package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

// mosquitto starts the distribution's MQTT broker on a free port. It is nil
// where there is none. It keeps nothing on disk: what it does for a connect is
// less than what we do.
func (b *bench) mosquitto(ctx context.Context) (*process, string, error) {
	file, err := exec.LookPath("mosquitto")
	if err != nil {
		if file = "/usr/sbin/mosquitto"; !exists(file) {
			b.say("  mosquitto is not installed and left out")
			return nil, "", nil
		}
	}
	address, err := freePort()
	if err != nil {
		return nil, "", err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, "", err
	}
	conf := b.data() + ".mosquitto.conf"
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type error\n", port)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, "", err
	}
	p, err := start(exec.Command(file, "-c", conf), conf+".log")
	if err != nil {
		return nil, "", err
	}
	err = answers(ctx, p, address)
	if err != nil {
		p.kill()
		return nil, "", err
	}
	return p, "mqtt://" + address, nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// freePort is an address that was free a moment ago, for programs that can't
// choose one.
func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// connectsPeer is connects with mosquitto.
func (b *bench) connectsPeer(ctx context.Context) error {
	p, target, err := b.mosquitto(ctx)
	if p == nil || err != nil {
		return err
	}
	defer p.kill()
	f, n := fleet{target: target, prefix: "connect"}, b.scaled(6000)
	for rep := range b.reps + 1 {
		m, err := p.measureConnects(ctx, &f, rep*n, n, nil, func() error { return rest(ctx, 300*time.Millisecond) })
		if err != nil {
			return err
		}
		if rep > 0 {
			b.addConnects("mosquitto, tcp, not durable", m, false)
		}
	}
	return nil
}

// wrk is what the program of that name reaches against url, in requests per
// second; 0 where it is not installed.
func (b *bench) wrk(ctx context.Context, url string, body []byte, connections int, d time.Duration) (float64, error) {
	file, err := exec.LookPath("wrk")
	if errors.Is(err, exec.ErrNotFound) {
		b.say("  wrk is not installed and left out")
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	script := b.data() + ".lua"
	quoted, err := json.Marshal(string(body)) // Lua reads these bytes as JSON does
	if err != nil {
		return 0, err
	}
	text := "wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/cloudevents+json; charset=utf-8'\nwrk.body = " + string(quoted) + "\n"
	if err := os.WriteFile(script, []byte(text), 0o644); err != nil {
		return 0, err
	}
	seconds := max(1, int(d.Seconds()))
	cmd := exec.CommandContext(ctx, file, "-t1", "-c"+strconv.Itoa(connections), "-d"+strconv.Itoa(seconds)+"s", "-s", script, url)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	got := wrkRate.FindSubmatch(out)
	if got == nil || bytes.Contains(out, []byte("Non-2xx")) {
		return 0, fmt.Errorf("wrk printed\n%s", out)
	}
	return strconv.ParseFloat(string(got[1]), 64)
}

var wrkRate = regexp.MustCompile(`Requests/sec:\s*([0-9.]+)`)
