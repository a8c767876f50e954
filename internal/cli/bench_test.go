package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rollcall/internal/bench"
	"rollcall/internal/servertest"
)

func TestBenchMeasures(t *testing.T) {
	s := servertest.Start(t, nil)
	code, out, errOut := run("bench", "pairs", s.Info.MQTT[0], "--pairs", "3", "--qos", "1", "--burst", "5", "--messages", "60",
		"--duration", "30s", "--warmup", "0", "--mqtt", "5", "--json", "--size", "100")
	if code != 0 || errOut != "" {
		t.Fatalf("exit %d, %q", code, errOut)
	}
	var r bench.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if r.Scenario != bench.Pairs || r.QoS != 1 || r.InFlight != 5 || !r.Burst || r.Size != 100 || r.Connections != 6 || r.Version != "5" || r.Count < 60 || r.BrokerCPU == nil {
		t.Errorf("%s", out)
	}
	// The default of a flag is that of its own scenario.
	code, out, errOut = run("bench", "fan-out", s.Target("ws"), "--subscribers", "4", "--messages", "40", "--duration", "30s", "--quiet")
	if code != 0 || errOut != "" || !strings.Contains(out, "1 in flight") || !strings.Contains(out, "5 connections") || !strings.Contains(out, "broker CPU") {
		t.Errorf("exit %d, %q, %q", code, out, errOut)
	}
	code, out, errOut = run("bench", "connect", s.Target("tls"), "--cafile", s.Info.CA, "--connections", "20", "--subscriptions", "2", "--no-find")
	if code != 0 || !strings.Contains(errOut, "20 connections") || !strings.Contains(out, "throughput") || strings.Contains(out, "broker CPU") {
		t.Errorf("exit %d, %q, %q", code, out, errOut)
	}
}

func TestBenchRefusals(t *testing.T) {
	nobody := filepath.Join(t.TempDir(), "nothing")
	if err := os.WriteFile(nobody, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"nothing"}, 2, `no scenario "nothing"`},
		{[]string{"pairs", "a", "b"}, 2, `unexpected argument "b"`},
		{[]string{"pairs", "--qos", "3"}, 2, "none of 0, 1 and 2"},
		{[]string{"pairs", "--inflight", "0"}, 2, "--inflight: 0 is not positive"},
		{[]string{"pairs", "--inflight", "2", "--burst", "2"}, 2, "exclude each other"},
		{[]string{"pairs", "--duration", "0"}, 2, "--duration: 0s is not positive"},
		{[]string{"pairs", "--size", "3"}, 2, "payload size: 3 is not between 16"},
		{[]string{"pairs", "ftp://x"}, 2, "none of mqtt"},
		{[]string{"pairs", "--mqtt", "3"}, 2, "neither 3.1.1 nor 5"},
		{[]string{"pairs", "--cert", nobody}, 2, "belong together"},
		{[]string{"pairs", "--cafile", nobody}, 1, "holds no certificate"},
		{[]string{"sleeping", "--qos", "0"}, 2, "not stored"},
		{[]string{"sleeping", "--messages", "0"}, 2, "--messages: 0 is not positive"},
		{[]string{"pairs", "127.0.0.1:1"}, 1, "connection refused"},
	} {
		code, out, errOut := run(append([]string{"bench"}, c.args...)...)
		if code != c.code || out != "" || !strings.Contains(errOut, c.want) {
			t.Errorf("%v: exit %d, %q, %q; want %d and %q", c.args, code, out, errOut, c.code, c.want)
		}
	}
}
