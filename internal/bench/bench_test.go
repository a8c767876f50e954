package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"rollcall/internal/bench"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/servertest"
)

// small are options of little load.
func small(s bench.Scenario, target string) bench.Options {
	return bench.Options{
		Scenario: s, Target: target, Warmup: 20 * time.Millisecond, Duration: 30 * time.Second, Messages: 300,
		Publishers: 4, Subscribers: 5, Members: 3, Rate: 2000, Sessions: 6, Timeout: 20 * time.Second, Patience: 20 * time.Second,
		Connections: 40, Concurrent: 8, Settle: 20 * time.Millisecond, PID: 0,
	}
}

func measure(t *testing.T, o bench.Options) *bench.Report {
	t.Helper()
	r, err := bench.Run(t.Context(), o)
	if err != nil {
		t.Fatalf("%s: %v", o.Scenario, err)
	}
	if len(r.Failures) > 0 || r.Lost+r.Reordered > 0 {
		t.Errorf("%s: %d lost, %d reordered, %v", o.Scenario, r.Lost, r.Reordered, r.Failures)
	}
	return r
}

// TestEveryScenario runs all of them in both versions and with all QoS, with
// both engines.
func TestEveryScenario(t *testing.T) {
	b := startFake(t, nil)
	for _, s := range []bench.Scenario{bench.Pairs, bench.FanIn, bench.FanOut, bench.Shared, bench.Latency, bench.Connect, bench.Idle, bench.Sleeping} {
		for _, v := range []packet.Version{packet.V311, packet.V5} {
			for qos := packet.QoS0; qos <= packet.QoS2; qos++ {
				if s == bench.Sleeping && qos == packet.QoS0 || (s == bench.Connect || s == bench.Idle) && qos > packet.QoS0 {
					continue
				}
				for _, portable := range []bool{false, true} {
					if portable && (s == bench.Connect || s == bench.Idle) {
						continue // they use no engine
					}
					t.Run(fmt.Sprintf("%s/%d/QoS %d/portable %v", s, v, qos, portable), func(t *testing.T) {
						o := small(s, b.addr)
						o.Version, o.QoS, o.Portable, o.Loops = v, qos, portable, 2
						o.InFlight, o.Burst = 4, qos == packet.QoS1
						o.Subscriptions, o.Wake = 3, true
						if s == bench.Sleeping {
							o.Messages = 20
						}
						r := measure(t, o)
						least, connections := int64(300), 8
						switch s {
						case bench.FanIn:
							connections = 5
						case bench.FanOut:
							connections = 6
						case bench.Shared:
							connections = 7
						case bench.Connect:
							least, connections = 36, 40
						case bench.Idle:
							least, connections = 40, 40
						case bench.Sleeping:
							least, connections = 1, 4 // so few may be all there before anybody looks
							if r.Arrived != 6*21 {
								t.Errorf("%d messages arrived after waking, want %d", r.Arrived, 6*21)
							}
						}
						if r.Count < least || r.Connections != connections || r.Seconds <= 0 || r.GeneratorCPU <= 0 && s != bench.Idle {
							t.Errorf("%+v", r)
						}
						if s == bench.Latency && (r.Times == nil || r.Times.P50 <= 0 || r.Times.P99 < r.Times.P50 || r.Times.Max < r.Times.P999) {
							t.Errorf("latency: %+v", r.Times)
						}
					})
				}
			}
		}
	}
}

// TestRollcall runs the scenarios against the product, over all transports.
func TestRollcall(t *testing.T) {
	s := servertest.Start(t, nil)
	for _, transport := range []string{"tcp", "tls", "ws", "wss"} {
		for _, scenario := range []bench.Scenario{bench.Pairs, bench.FanIn, bench.FanOut, bench.Latency, bench.Connect, bench.Idle} {
			for qos := packet.QoS0; qos <= packet.QoS1; qos++ {
				if qos > packet.QoS0 && (scenario == bench.Connect || scenario == bench.Idle) {
					continue // they publish nothing
				}
				t.Run(fmt.Sprintf("%s/%s/QoS %d", transport, scenario, qos), func(t *testing.T) {
					o := small(scenario, s.Target(transport))
					o.TLS, o.QoS, o.Version, o.PID = s.TLS(), qos, packet.V5, 0
					o.InFlight, o.Subscriptions = 3, 2
					o.FindPID = true
					r := measure(t, o)
					if r.Transport != transport || r.Count == 0 {
						t.Errorf("%+v", r)
					}
					if r.BrokerCPU == nil || r.Memory == nil || r.Memory.Resident < 1<<20 {
						t.Errorf("the broker's process was not found: %+v", r)
					}
				})
			}
		}
	}
	for _, scenario := range []bench.Scenario{bench.Pairs, bench.Shared, bench.Sleeping} {
		for _, v := range []packet.Version{packet.V311, packet.V5} {
			t.Run(fmt.Sprintf("%s/%d/QoS 2", scenario, v), func(t *testing.T) {
				o := small(scenario, s.Target("tcp"))
				o.QoS, o.Version, o.InFlight, o.Wake, o.Messages = packet.QoS2, v, 4, true, 20
				if r := measure(t, o); r.Duplicates > 0 || scenario == bench.Sleeping && r.Arrived != 6*21 {
					t.Errorf("%+v", r)
				}
			})
		}
	}
}

// TestFaultsAreFound sees that a broker that breaks a promise is found out.
func TestFaultsAreFound(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*fake)
		set  func(*bench.Options)
		want string
	}{
		{"QoS 1 lost", func(b *fake) { b.lose = 50 }, nil, "lost"},
		{"QoS 2 lost", func(b *fake) { b.lose = 50 }, func(o *bench.Options) { o.QoS = packet.QoS2 }, "lost"},
		{"shared lost", func(b *fake) { b.lose = 50 }, func(o *bench.Options) { o.Scenario = bench.Shared }, "lost"},
		{"stored lost", func(b *fake) { b.lose = 50 }, func(o *bench.Options) { o.Scenario, o.Messages = bench.Sleeping, 20 }, "stored messages were lost"},
		{"QoS 2 twice", func(b *fake) { b.repeat = 20 }, func(o *bench.Options) { o.QoS = packet.QoS2 }, "more than once"},
		{"QoS 0 twice", func(b *fake) { b.repeat = 20 }, func(o *bench.Options) { o.QoS = packet.QoS0 }, "more than once"},
		{"overtaken", func(b *fake) { b.swap = 10 }, nil, "overtaken"},
		{"publishes refused", func(b *fake) { b.refuse = true }, func(o *bench.Options) { o.Version = packet.V5 }, "refused (Quota exceeded)"},
		{"nothing arrives", func(b *fake) { b.lose = 1 }, nil, "nothing arrived"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := startFake(t, c.edit)
			o := small(bench.Pairs, b.addr)
			o.QoS, o.Publishers, o.InFlight, o.Wake = packet.QoS1, 1, 8, true
			o.Timeout, o.Duration = 3*time.Second, 200*time.Millisecond
			if c.set != nil {
				c.set(&o)
			}
			r, err := bench.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(r.Failures, "; "), c.want) {
				t.Errorf("failures %q, want one with %q", r.Failures, c.want)
			}
		})
	}
}

// TestLostQoS0IsNoFailure sees that the load goes on.
func TestLostQoS0IsNoFailure(t *testing.T) {
	b := startFake(t, func(b *fake) { b.lose = 40 })
	o := small(bench.Pairs, b.addr)
	o.Publishers, o.Patience, o.Messages = 1, 5*time.Millisecond, 100
	r, err := bench.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost < 2 || r.Count < 100 || len(r.Failures) > 0 || len(r.Warnings) == 0 {
		t.Errorf("%+v", r)
	}
}

// TestRefusals sees that what a broker does not have is a *RefusedError.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*fake)
		set  func(*bench.Options)
		code packet.ReasonCode
	}{
		{"the connection", func(b *fake) { b.code = packet.NotAuthorized }, nil, packet.NotAuthorized},
		{"QoS 2", func(b *fake) { b.maxQoS = packet.QoS1 }, func(o *bench.Options) { o.QoS = packet.QoS2 }, packet.QoSNotSupported},
		{"shared", func(b *fake) { b.noShare = true }, func(o *bench.Options) { o.Scenario = bench.Shared }, packet.SharedSubscriptionsNotSupported},
		{"sleeping", func(b *fake) { b.forget = true }, func(o *bench.Options) { o.Scenario, o.QoS = bench.Sleeping, packet.QoS1 }, packet.ImplementationSpecificError},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := startFake(t, c.edit)
			o := small(bench.Pairs, b.addr)
			o.Version = packet.V5
			if c.set != nil {
				c.set(&o)
			}
			_, err := bench.Run(t.Context(), o)
			var refused *bench.RefusedError
			if !errors.As(err, &refused) || refused.Code != c.code {
				t.Errorf("error %v, want a refusal with %v", err, c.code)
			}
		})
	}
}

// TestEnds sees that a run ends with its context, and that a broker that goes
// away is an error.
func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	b := startFake(t, func(b *fake) { b.at50 = func() { cancel(why) } })
	o := small(bench.Pairs, b.addr)
	o.Messages = 0
	if _, err := bench.Run(ctx, o); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	for _, portable := range []bool{false, true} {
		b := startFake(t, func(b *fake) {
			b.at50 = func() {
				for nc := range b.conns {
					nc.Close()
				}
			}
		})
		o.Target, o.Portable = b.addr, portable
		if _, err := bench.Run(t.Context(), o); err == nil {
			t.Error("no error although the broker has closed the connections")
		}
	}
}

// TestMistakes sees that options are checked.
func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		set  func(*bench.Options)
		want string
	}{
		{func(o *bench.Options) { o.Scenario = "x" }, "no scenario"},
		{func(o *bench.Options) { o.QoS = 3 }, "QoS"},
		{func(o *bench.Options) { o.Size = 15 }, "payload size"},
		{func(o *bench.Options) { o.Target = "http://x" }, "none of mqtt"},
		{func(o *bench.Options) { o.Target = "mqtt://u:p@x" }, "user name"},
		{func(o *bench.Options) { o.Prefix = "a/#" }, "wildcard"},
		{func(o *bench.Options) { o.Version = 3 }, "version"},
		{func(o *bench.Options) { o.Scenario, o.QoS = bench.Sleeping, 0 }, "not stored"},
		{func(o *bench.Options) { o.PID = 1 << 30 }, "process"},
	} {
		o := bench.Options{Scenario: bench.Pairs, Target: "127.0.0.1:1"}
		c.set(&o)
		if _, err := bench.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
	}
}

// TestReportIsStable compares JSON and text with golden files.
func TestReportIsStable(t *testing.T) {
	cpu, cores := 1.25, 0.5
	r := &bench.Report{
		Scenario: bench.Latency, Broker: "127.0.0.1:1883", Transport: "tcp", Version: "5", QoS: 1, Size: 64, Rate: 4000,
		Unit: "message", Count: 12000, Connections: 200, Seconds: 3, PerSecond: 4000,
		BrokerCPU: &cpu, BrokerCores: &cores, GeneratorCPU: 0.31, GeneratorBusy: 0.124,
		Memory:   &bench.Memory{Resident: 30 << 20, Proportional: 28 << 20, PerConnection: 1234.5},
		Times:    &bench.Distribution{P50: 80, P99: 210.5, P999: 1000, Max: 1500},
		Lateness: &bench.Distribution{P50: 8, P99: 21, P999: 100, Max: 150},
		Lost:     1, Duplicates: 2, Reordered: 3, Arrived: 4,
		Warnings: []string{"a warning"}, Failures: []string{"a failure"},
	}
	for name, write := range map[string]func(*bytes.Buffer) error{
		"testdata/report.json": func(b *bytes.Buffer) error { return r.JSON(b) },
		"testdata/report.txt":  func(b *bytes.Buffer) error { return r.Text(b) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, b.String(), want)
		}
		if strings.HasSuffix(name, ".json") {
			var back bench.Report
			if err := json.Unmarshal(want, &back); err != nil || back.Scenario != r.Scenario || back.Times.P99 != r.Times.P99 {
				t.Errorf("%s read back: %+v, %v", name, back, err)
			}
		}
	}
}
