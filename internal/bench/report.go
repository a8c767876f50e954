package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"rollcall/internal/mqtt/packet"
)

// Report is what a run has measured. Fields that are nil were not measured:
// the broker's process is unknown, or the scenario has no such figure.
type Report struct {
	Scenario  Scenario `json:"scenario"`
	Broker    string   `json:"broker"`    // host:port
	Transport string   `json:"transport"` // tcp, tls, ws or wss
	Version   string   `json:"mqtt"`      // 3.1.1 or 5
	QoS       int      `json:"qos"`
	Size      int      `json:"payloadBytes,omitempty"`
	InFlight  int      `json:"inFlight,omitempty"`
	Burst     bool     `json:"burst,omitempty"`
	Rate      int      `json:"rate,omitempty"` // messages a second that were asked for

	// Unit is what was counted: message, delivery, stored message, connect or
	// connection.
	Unit        string `json:"unit"`
	Count       int64  `json:"count"`
	Connections int    `json:"connections"`
	// Subscriptions are those of each connection, Sessions those that sleep.
	Subscriptions int     `json:"subscriptions,omitempty"`
	Sessions      int     `json:"sessions,omitempty"`
	Seconds       float64 `json:"seconds"`
	PerSecond     float64 `json:"perSecond"`

	BrokerCPU    *float64 `json:"brokerCPUMicroseconds,omitempty"` // for each of Count
	GeneratorCPU float64  `json:"generatorCPUMicroseconds"`        // for each of Count
	BrokerCores  *float64 `json:"brokerCores,omitempty"`           // used on the average
	// GeneratorBusy is the share of its threads that the generator used; above
	// 0.85 it may have been the bottleneck. It is 0 where connections are made
	// by any number of threads.
	GeneratorBusy float64 `json:"generatorBusy"`

	Memory *Memory       `json:"brokerMemory,omitempty"`
	Times  *Distribution `json:"latency,omitempty"`
	// Lateness is how late the generator sent what was due in an open loop. It
	// is part of the latency.
	Lateness *Distribution `json:"generatorLateness,omitempty"`

	Lost       int64 `json:"lost"`
	Duplicates int64 `json:"duplicates"`
	Reordered  int64 `json:"reordered"`
	Arrived    int64 `json:"arrived,omitempty"` // of the stored ones, after waking

	Warnings []string `json:"warnings,omitempty"`
	// Failures say what MQTT promises and the broker did not keep.
	Failures []string `json:"failures,omitempty"`
}

// Memory is the broker's, in bytes.
type Memory struct {
	Resident int64 `json:"resident"`
	// Proportional counts shared pages in proportion; 0 where it is unknown.
	Proportional int64 `json:"proportional,omitempty"`
	// PerConnection is how much Resident grew for each connection.
	PerConnection float64 `json:"perConnection,omitempty"`
}

// Distribution is of durations, in microseconds.
type Distribution struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

func (h *histogram) distribution() *Distribution {
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	return &Distribution{us(h.quantile(0.5)), us(h.quantile(0.99)), us(h.quantile(0.999)), us(h.most)}
}

func newReport(o *Options, t *target) *Report {
	r := &Report{Scenario: o.Scenario, Broker: t.address, Transport: t.transport(), Version: versionName(o.Version), QoS: int(o.QoS), Unit: "message"}
	switch o.Scenario {
	case Connect:
		r.Unit, r.QoS = "connect", 0
	case Idle:
		r.Unit, r.QoS = "connection", 0
	case Latency:
		r.Size, r.Rate = max(o.Size, stampSize), o.Rate
	case FanOut:
		r.Unit = "delivery"
		r.Size, r.InFlight, r.Burst = o.Size, o.InFlight, o.Burst
	case Sleeping:
		r.Unit = "stored message"
		r.Size, r.InFlight, r.Burst = o.Size, o.InFlight, o.Burst
	default:
		r.Size, r.InFlight, r.Burst = o.Size, o.InFlight, o.Burst
	}
	return r
}

func versionName(v packet.Version) string {
	if v == packet.V5 {
		return "5"
	}
	return "3.1.1"
}

// span fills in what lies between two marks.
func (r *Report) span(a, b mark, count int64, threads int, known bool) {
	d := b.at.Sub(a.at)
	r.Count, r.Seconds = count, d.Seconds()
	if d > 0 {
		r.PerSecond = float64(count) / d.Seconds()
		r.GeneratorBusy = float64(b.own-a.own) / float64(d) / float64(threads)
	}
	if count == 0 {
		r.fail(true, "nothing arrived")
		return
	}
	each := func(cpu time.Duration) float64 { return float64(cpu) / float64(time.Microsecond) / float64(count) }
	r.GeneratorCPU = each(b.own - a.own)
	if known {
		cpu := each(b.broker - a.broker)
		cores := float64(b.broker-a.broker) / float64(max(d, 1))
		r.BrokerCPU, r.BrokerCores = &cpu, &cores
		if used := b.broker - a.broker; used < coarse && r.Scenario != Idle && r.Scenario != Latency {
			r.Warnings = append(r.Warnings, fmt.Sprintf("the broker used only %v of CPU, which is counted in steps of 10 ms: measure for longer", used))
		}
	}
}

// coarse is the CPU below which its steps show.
const coarse = 200 * time.Millisecond

// busy is from where on the generator may have been the bottleneck.
const busy = 0.85

// bottleneck warns if the generator may have been what limited.
func (r *Report) bottleneck() {
	if r.GeneratorBusy < busy || r.BrokerCores != nil && *r.BrokerCores > r.GeneratorBusy {
		return
	}
	r.Warnings = append(r.Warnings, fmt.Sprintf("the generator was busy for %.0f %% of the time and may have been the bottleneck: the rate is a lower bound, the CPU for each %s is not affected", 100*r.GeneratorBusy, r.Unit))
}

// JSON writes the report as one indented object.
func (r *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// Text writes the report for people.
func (r *Report) Text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	about := fmt.Sprintf("%s, MQTT %s over %s, %d connections", r.Scenario, r.Version, r.Transport, r.Connections)
	if r.Size > 0 {
		about += fmt.Sprintf(", QoS %d, %d bytes", r.QoS, r.Size)
	}
	if r.Subscriptions > 0 {
		about += fmt.Sprintf(" with %d subscriptions", r.Subscriptions)
	}
	if r.Sessions > 0 {
		about += fmt.Sprintf(", %d sessions asleep", r.Sessions)
	}
	switch {
	case r.Rate > 0:
		about += fmt.Sprintf(", %d/s asked for", r.Rate)
	case r.Burst:
		about += fmt.Sprintf(", bursts of %d", r.InFlight)
	case r.InFlight > 0:
		about += fmt.Sprintf(", %d in flight", r.InFlight)
	}
	line(r.Broker, "%s", about)
	if r.BrokerCPU != nil && r.Scenario != Idle {
		line("broker CPU", "%s µs per %s (%.2f cores)", figure(*r.BrokerCPU), r.Unit, *r.BrokerCores)
	}
	if r.Scenario != Idle {
		line("throughput", "%s/s (%d in %.2f s)", figure(r.PerSecond), r.Count, r.Seconds)
	}
	if d := r.Times; d != nil {
		line("latency", "p50 %s µs, p99 %s µs, p99.9 %s µs, max %s µs", figure(d.P50), figure(d.P99), figure(d.P999), figure(d.Max))
	}
	if d := r.Lateness; d != nil {
		line("generator late", "p50 %s µs, p99 %s µs, max %s µs (part of the latency)", figure(d.P50), figure(d.P99), figure(d.Max))
	}
	if m := r.Memory; m != nil {
		text := figure(float64(m.Resident)/(1<<20)) + " MiB resident"
		if m.Proportional > 0 {
			text += ", " + figure(float64(m.Proportional)/(1<<20)) + " MiB proportional"
		}
		if r.Scenario == Idle {
			text += ", " + figure(m.PerConnection/(1<<10)) + " KiB per connection"
		}
		line("broker memory", "%s", text)
	}
	text := fmt.Sprintf("%s µs per %s", figure(r.GeneratorCPU), r.Unit)
	if r.GeneratorBusy > 0 {
		text += fmt.Sprintf(" (%.0f %% busy)", 100*r.GeneratorBusy)
	}
	line("generator CPU", "%s", text)
	if r.Size > 0 && r.Scenario != Sleeping || r.Arrived > 0 {
		line("lost", "%d lost, %d duplicates, %d reordered", r.Lost, r.Duplicates, r.Reordered)
	}
	if r.Arrived > 0 {
		line("after waking", "%d arrived", r.Arrived)
	}
	for _, text := range r.Warnings {
		line("warning", "%s", text)
	}
	for _, text := range r.Failures {
		line("FAILURE", "%s", text)
	}
	return t.Flush()
}

// figure prints three significant digits or more.
func figure(v float64) string {
	switch {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}
