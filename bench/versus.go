package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	load "rollcall/internal/bench"
)

// versus measures brokers side by side: in each round of each row every
// contender has its turn, a fresh process with fresh data, under the load of
// `rollcall bench` as a process of its own. What it prints are medians of the
// rounds, and ratios to mosquitto of the same minute.
type versus struct {
	*bench
	generator string
	peerBin   string
	rounds    int
	quick     bool
	duration  time.Duration
	only      []string
	peers     []string
	markdown  string
	cert, key string
}

// measured is what a row is about.
type measured int

const (
	brokerCPU   measured = iota // µs for each of what the row counts
	brokerBytes                 // KiB for each connection
	p99                         // µs
)

// row is one line of the table.
type row struct {
	name, about string
	transport   string
	measured    measured
	args        []string // of rollcall bench
	quick       []string // further ones with -quick; the last one wins
	timed       bool     // runs for a time
}

var rows = []row{
	{"pairs-qos0", "100 pairs, QoS 0, one in flight", "tcp", brokerCPU, []string{"pairs"}, nil, true},
	{"pairs-qos1", "100 pairs, QoS 1, one in flight", "tcp", brokerCPU, []string{"pairs", "--qos", "1"}, nil, true},
	{"pairs-qos2", "100 pairs, QoS 2, one in flight", "tcp", brokerCPU, []string{"pairs", "--qos", "2"}, nil, true},
	{"burst-qos0", "100 pairs, QoS 0, bursts of 32", "tcp", brokerCPU, []string{"pairs", "--burst", "32"}, nil, true},
	{"flight-qos1", "100 pairs, QoS 1, 16 in flight", "tcp", brokerCPU, []string{"pairs", "--qos", "1", "--inflight", "16"}, nil, true},
	{"kib-qos0", "100 pairs, QoS 0, 1 KiB, 64 in flight", "tcp", brokerCPU, []string{"pairs", "--size", "1024", "--inflight", "64"}, nil, true},
	{"fanin-qos0", "200 publishers to one subscriber, QoS 0", "tcp", brokerCPU, []string{"fan-in", "--publishers", "200"}, nil, true},
	{"fanin-qos1", "200 publishers to one subscriber, QoS 1", "tcp", brokerCPU, []string{"fan-in", "--publishers", "200", "--qos", "1"}, nil, true},
	{"fanout-qos0", "one publisher to 1,000 subscribers, QoS 0, per delivery", "tcp", brokerCPU, []string{"fan-out"}, nil, true},
	{"fanout-qos1", "one publisher to 1,000 subscribers, QoS 1, per delivery", "tcp", brokerCPU, []string{"fan-out", "--qos", "1"}, nil, true},
	{"fanout-qos0-8", "the same, QoS 0, 8 messages in flight", "tcp", brokerCPU, []string{"fan-out", "--inflight", "8"}, nil, true},
	{"fanout-qos1-8", "the same, QoS 1, 8 messages in flight", "tcp", brokerCPU, []string{"fan-out", "--qos", "1", "--inflight", "8"}, nil, true},
	{"shared-qos0", "100 publishers to a shared group of 4, QoS 0", "tcp", brokerCPU, []string{"shared"}, nil, true},
	{"tls-qos0", "100 pairs over TLS, QoS 0, one in flight", "tls", brokerCPU, []string{"pairs"}, nil, true},
	{"ws-qos1", "100 pairs over WebSocket, QoS 1, one in flight", "ws", brokerCPU, []string{"pairs", "--qos", "1"}, nil, true},
	{"connect", "connect and disconnect", "tcp", brokerCPU, []string{"connect"}, fewConnects, false},
	{"connect-1", "connect, 1 subscription, disconnect", "tcp", brokerCPU, []string{"connect", "--subscriptions", "1"}, fewConnects, false},
	{"connect-10", "connect, 10 subscriptions, disconnect", "tcp", brokerCPU, []string{"connect", "--subscriptions", "10"}, fewConnects, false},
	{"connect-tls", "connect over TLS, full handshake, disconnect", "tls", brokerCPU, []string{"connect", "--connections", "3000"}, fewConnects, false},
	{"idle", "resident KiB per idle connection, of 10,000", "tcp", brokerBytes, []string{"idle"}, fewIdle, false},
	{"idle-tls", "resident KiB per idle TLS connection, of 10,000", "tls", brokerBytes, []string{"idle"}, fewIdle, false},
	{"sleeping", "per message stored for 200 sleeping sessions, 100 each, QoS 1", "tcp", brokerCPU, []string{"sleeping"}, []string{"--sessions", "50"}, false},
	{"p99-qos0", "p99 in µs at 4,000 messages/s, QoS 0", "tcp", p99, []string{"latency"}, nil, true},
	{"p99-qos1", "p99 in µs at 4,000 messages/s, QoS 1", "tcp", p99, []string{"latency", "--qos", "1"}, nil, true},
}

var (
	fewConnects = []string{"--connections", "1000"}
	fewIdle     = []string{"--connections", "1000", "--settle", "1s"}
)

// runVersus is the sub-command peers.
func runVersus(ctx context.Context, args []string, out io.Writer) error {
	v, err := parseVersus(args)
	if err != nil {
		return err
	}
	v.out = out
	ctx, cancel := context.WithTimeout(ctx, v.limit)
	defer cancel()
	dir, err := os.MkdirTemp(v.dir, "rollcall-peers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	v.dir = dir
	if err := v.prepare(ctx); err != nil {
		return err
	}
	t := newTable(machine(), loadAverage(), v)
	for i := range rows {
		r := &rows[i]
		if len(v.only) > 0 && !slices.Contains(v.only, r.name) {
			continue
		}
		if err := v.row(ctx, t, r); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	text := t.markdown()
	fmt.Fprintln(out, "\n"+text)
	if v.markdown != "" {
		err = os.WriteFile(v.markdown, []byte(text), 0o644)
	}
	if v.json != "" {
		err = errors.Join(err, t.write(v.json))
	}
	return err
}

func parseVersus(args []string) (*versus, error) {
	s := &settings{}
	v := &versus{bench: &bench{settings: s}}
	f := flag.NewFlagSet("bench peers", flag.ContinueOnError)
	var only, peers string
	var all []string
	for _, c := range contenders {
		all = append(all, c.name)
	}
	f.StringVar(&only, "only", "", "comma-separated `rows` (default: all)")
	f.StringVar(&peers, "peers", strings.Join(all, ","), "comma-separated `brokers`")
	f.IntVar(&v.rounds, "rounds", 3, "turns of each broker in each row, 1 to 100")
	f.BoolVar(&v.quick, "quick", false, "little load: to see that it works, not to measure")
	f.DurationVar(&v.duration, "duration", 3*time.Second, "of each measurement that runs for a time")
	f.StringVar(&s.binary, "binary", "", "`file` of the rollcall to measure (default: one built from this tree)")
	f.StringVar(&v.generator, "generator", "", "`file` of the rollcall that makes the load (default: the one to measure)")
	f.StringVar(&s.dir, "dir", "", "`directory` for the data, on the disk to measure (default: a temporary one)")
	f.StringVar(&s.json, "json", "", "write every value to `file` too")
	f.StringVar(&v.markdown, "markdown", "", "write the table to `file` too")
	f.DurationVar(&s.limit, "limit", 2*time.Hour, "bound of the whole run")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "Usage: go run ./bench peers [flags]\n\nRows:")
		for _, r := range rows {
			fmt.Fprintf(f.Output(), "  %-12s %s\n", r.name, r.about)
		}
		fmt.Fprintln(f.Output(), "\nBrokers:")
		for _, c := range contenders {
			fmt.Fprintf(f.Output(), "  %-12s %s\n", c.name, c.about)
		}
		fmt.Fprintln(f.Output(), "\nFlags:")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case v.rounds < 1 || v.rounds > 100:
		return nil, fmt.Errorf("-rounds: %d is not between 1 and 100", v.rounds)
	case v.duration <= 0 || s.limit <= 0:
		return nil, errors.New("-duration and -limit are positive")
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	var err error
	if v.only, err = chosen("-only", only, names); err != nil {
		return nil, err
	}
	if v.peers, err = chosen("-peers", peers, all); err == nil && len(v.peers) == 0 {
		err = errors.New("-peers: name at least one broker")
	}
	return v, err
}

// chosen splits a list whose elements must be known.
func chosen(flag, list string, known []string) ([]string, error) {
	var out []string
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%s: there is no %q", flag, name)
		}
		out = append(out, name)
	}
	return out, nil
}

// prepare builds what is not of the distribution, and makes the certificate.
func (v *versus) prepare(ctx context.Context) error {
	build := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-ldflags", "-s -w"}, args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build: %w\n%s", err, text)
		}
		return nil
	}
	if v.binary == "" {
		v.binary = filepath.Join(v.dir, "rollcall")
		if err := build("-o", v.binary, "rollcall/cmd/rollcall"); err != nil {
			return err
		}
	}
	if v.generator == "" {
		v.generator = v.binary
	}
	v.peerBin = v.dir
	if slices.Contains(v.peers, "nats") || slices.Contains(v.peers, "mochi") {
		root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "rollcall").Output()
		if err != nil {
			return fmt.Errorf("find the module: %w", err)
		}
		// They have a module of their own, so that the product's dependencies
		// stay its own.
		module := filepath.Join(strings.TrimSpace(string(root)), "bench", "peers")
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", v.dir+string(filepath.Separator), "github.com/nats-io/nats-server/v2", "./mochi")
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the peers: %w\n%s", err, text)
		}
	}
	return v.certify()
}

// row measures one row: all contenders in turns.
func (v *versus) row(ctx context.Context, t *table, r *row) error {
	line := t.begin(r)
	for range v.rounds {
		for _, c := range contenders {
			if !slices.Contains(v.peers, c.name) || line.cell(c.name).Absent != "" {
				continue
			}
			got, why, err := v.turn(ctx, &c, r)
			if err != nil {
				return err
			}
			line.cell(c.name).add(r, got, why)
		}
	}
	v.say("%s", line.text(r.about))
	return nil
}

// turn measures one contender once. Why it can't be measured is no error of
// ours.
func (v *versus) turn(ctx context.Context, c *contender, r *row) (got *load.Report, why string, err error) {
	data := v.data()
	defer os.RemoveAll(data)
	p, target, err := c.start(ctx, v, data, r.transport)
	if ctx.Err() != nil {
		return nil, "", errors.Join(context.Cause(ctx), err)
	}
	if err != nil { // it is not installed, or cannot do this transport
		return nil, strings.Join(strings.Fields(err.Error()), " "), nil
	}
	defer p.kill()
	args := append([]string{"bench"}, r.args...)
	if v.quick {
		args = append(args, r.quick...)
	}
	if r.timed {
		d := v.duration
		if v.quick {
			d = min(d, 500*time.Millisecond)
		}
		args = append(args, "--duration", d.String())
	}
	if r.name == "shared-qos0" && c.name != "nats" { // which speaks 3.1.1 only
		args = append(args, "--mqtt", "5")
	}
	args = append(args, target, "--json", "--cafile", v.cert, "--pid", strconv.Itoa(p.cmd.Process.Pid))
	cmd := exec.CommandContext(ctx, v.generator, args...)
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	failed := cmd.Run()
	if ctx.Err() != nil {
		return nil, "", context.Cause(ctx)
	}
	if out.Len() == 0 {
		why = strings.TrimPrefix(strings.TrimSpace(bad.String()), "rollcall: ")
		if why == "" {
			return nil, "", fmt.Errorf("%s: rollcall bench printed nothing: %w", c.name, failed)
		}
		return nil, why, nil
	}
	got = &load.Report{}
	if err := json.Unmarshal(out.Bytes(), got); err != nil {
		return nil, "", fmt.Errorf("%s: rollcall bench printed %q: %w", c.name, out.String(), err)
	}
	return got, "", nil
}
