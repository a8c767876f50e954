package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	load "rollcall/internal/bench"
	"rollcall/internal/cli"
)

func TestTable(t *testing.T) {
	v := &versus{rounds: 3, peers: []string{"rollcall", "mosquitto", "nats", "mochi"}}
	tab := newTable("a machine", "0.1 0.2 0.3", v)
	cpu := func(v float64) *load.Report { return &load.Report{BrokerCPU: &v, PerSecond: 1000 / v} }
	r := &row{name: "pairs", about: "100 pairs"}
	l := tab.begin(r)
	for i, v := range []float64{2, 1, 3} {
		l.cell("rollcall").add(r, cpu(v), "")
		l.cell("mosquitto").add(r, cpu(4*v), "")
		flawed := cpu(16)
		flawed.Failures = []string{"3 messages were lost"}
		l.cell("mochi").add(r, flawed, "")
		if i == 0 {
			l.cell("nats").add(r, nil, "refused: QoS 2")
		}
	}
	r = &row{name: "p99", about: "p99", measured: p99}
	l = tab.begin(r)
	l.cell("rollcall").add(r, &load.Report{Times: &load.Distribution{P99: 210}}, "")
	got := tab.markdown()
	for _, want := range []string{
		"|  | rollcall | mosquitto | nats | mochi |\n|---|---|---|---|---|\n",
		"| 100 pairs | 2 (0.25×) [1–3] | 8 [4–12] | – | 16 (2×) [16–16] |\n",
		"| p99 | 210 | – | – | – |\n",
		"- pairs, nats: refused: QoS 2\n",
		"- pairs, mochi: 3 messages were lost\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Count(got, "were lost") != 1 {
		t.Errorf("a note is repeated:\n%s", got)
	}
	file := filepath.Join(t.TempDir(), "table.json")
	if err := tab.write(file); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), `"absent": "refused: QoS 2"`) {
		t.Errorf("%v: %s", err, text)
	}
}

// TestRowsAreUnderstood sees that rollcall bench knows every row's flags: it
// gets as far as connecting.
func TestRowsAreUnderstood(t *testing.T) {
	names := map[string]bool{}
	for _, r := range rows {
		if names[r.name] {
			t.Errorf("two rows are called %s", r.name)
		}
		names[r.name] = true
		args := append(append([]string{"bench"}, r.args...), r.quick...)
		if r.timed {
			args = append(args, "--duration", "10ms")
		}
		var errOut strings.Builder
		code := cli.Main(append(args, "127.0.0.1:1", "--no-find", "--quiet"), strings.NewReader(""), io.Discard, &errOut)
		if code != 1 || !strings.Contains(errOut.String(), "connection refused") {
			t.Errorf("%s: exit %d, %s", r.name, code, errOut.String())
		}
	}
}

func TestVersusMistakes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-only", "pairs-qos0,nothing"}, `there is no "nothing"`},
		{[]string{"-peers", "emqx"}, `there is no "emqx"`},
		{[]string{"-peers", ","}, "name at least one"},
		{[]string{"-rounds", "0"}, "not between 1 and 100"},
		{[]string{"-duration", "0s"}, "positive"},
		{[]string{"more"}, "unexpected argument"},
	} {
		if _, err := parseVersus(c.args); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
	v, err := parseVersus([]string{"--only", "idle, connect", "--peers", "mochi", "--rounds", "5", "--quick"})
	if err != nil || strings.Join(v.only, " ") != "idle connect" || len(v.peers) != 1 || v.rounds != 5 || !v.quick {
		t.Errorf("%+v, %v", v, err)
	}
}
