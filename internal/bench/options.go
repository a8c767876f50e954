package bench

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"rollcall/internal/mqtt/packet"
)

// Scenario names what is measured.
type Scenario string

// The scenarios.
const (
	Pairs    Scenario = "pairs"    // publishers with a subscriber each
	FanIn    Scenario = "fan-in"   // many publishers, one subscriber
	FanOut   Scenario = "fan-out"  // one publisher, many subscribers
	Shared   Scenario = "shared"   // publishers, and a shared subscription's members
	Latency  Scenario = "latency"  // pairs at a fixed rate, and how long messages take
	Connect  Scenario = "connect"  // connections come and go
	Idle     Scenario = "idle"     // connections rest
	Sleeping Scenario = "sleeping" // messages are stored for sessions that are offline
)

// Options say what to measure. The zero value of a field is its default.
type Options struct {
	Scenario Scenario
	Target   string         // host:port, or a URL of mqtt, mqtts, ws or wss
	Version  packet.Version // default 3.1.1
	User     string         // empty: anonymous
	Password []byte         // nil: none
	TLS      *tls.Config    // for mqtts and wss; default: the system's trust
	Prefix   string         // of client ids and topics; default: "bench-" and chance

	// PID is the broker's process, whose CPU and memory are read; 0: unknown.
	// FindPID looks for it by the port that it listens on, where it is 0.
	PID     int
	FindPID bool

	Loops    int  // threads that make load, 1 to 64; default 1
	Portable bool // goroutines instead of event loops, over plain TCP too

	QoS      packet.QoS
	Size     int  // of a payload, bytes, 16 to 16 MiB; default 64
	InFlight int  // messages in flight of each publisher, 1 to 10,000; default 1
	Burst    bool // the next InFlight only when none of the last is in flight

	Publishers  int // or pairs; default 100
	Subscribers int // FanOut; default 1,000
	Members     int // Shared; default 4
	Rate        int // Latency: messages a second in all; default 4,000

	Connections   int // Connect: in all, default 10,000; Idle: default 10,000
	Concurrent    int // Connect: under way at a time; default 64
	Subscriptions int // Connect: of each, after CONNACK; 0 to 1,000

	Sessions int   // Sleeping; default 200
	Messages int64 // most messages to measure; Sleeping: for each session, default 100; else 0 is no bound
	Wake     bool  // Sleeping: reconnect, and see that everything arrives

	Warmup   time.Duration // not measured; default 500 ms, negative: none
	Duration time.Duration // default 3 s
	Settle   time.Duration // Idle: rest before memory is read; default 5 s, negative: none
	Timeout  time.Duration // of every wait for the broker; default 10 s
	Patience time.Duration // after which a QoS 0 message is given up; default 1 s

	Progress io.Writer // is told what is going on; nil: nobody
}

// maxConnections bounds what one run opens.
const maxConnections = 1_000_000

// Check fills in defaults and reports all mistakes. Run calls it too.
func (o *Options) Check() error {
	var wrong []error
	def(&o.Version, packet.V311)
	def(&o.Loops, 1)
	def(&o.Size, 64)
	def(&o.InFlight, 1)
	def(&o.Publishers, 100)
	def(&o.Subscribers, 1000)
	def(&o.Members, 4)
	def(&o.Rate, 4000)
	def(&o.Connections, 10_000)
	def(&o.Concurrent, 64)
	def(&o.Sessions, 200)
	def(&o.Warmup, 500*time.Millisecond)
	def(&o.Duration, 3*time.Second)
	def(&o.Settle, 5*time.Second)
	def(&o.Timeout, 10*time.Second)
	def(&o.Patience, time.Second)
	if o.Scenario == Sleeping {
		def(&o.Messages, 100)
	}
	if o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if o.TLS.CurvePreferences == nil {
		// What devices offer. The hybrid with ML-KEM would be taken by servers
		// that have it, at twice the price, and compare unlike things.
		o.TLS = o.TLS.Clone()
		o.TLS.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
	}
	if o.Prefix == "" {
		b := make([]byte, 4)
		rand.Read(b) // never fails
		o.Prefix = "bench-" + hex.EncodeToString(b)
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	between := func(name string, n, least, most int) {
		if n < least || n > most {
			wrong = append(wrong, fmt.Errorf("%s: %d is not between %d and %d", name, n, least, most))
		}
	}
	if !slices.Contains(scenarios, o.Scenario) {
		wrong = append(wrong, fmt.Errorf("there is no scenario %q", o.Scenario))
	}
	if o.Version != packet.V311 && o.Version != packet.V5 {
		wrong = append(wrong, errors.New("the MQTT version is neither 3.1.1 nor 5"))
	}
	if strings.ContainsAny(o.Prefix, "+#") || len(o.Prefix) > 100 {
		wrong = append(wrong, errors.New("the prefix holds a wildcard or is longer than 100 bytes"))
	}
	between("QoS", int(o.QoS), 0, 2)
	between("threads", o.Loops, 1, 64)
	between("payload size", o.Size, stampSize, 16<<20)
	between("messages in flight", o.InFlight, 1, 10_000)
	between("publishers", o.Publishers, 1, maxConnections)
	between("subscribers", o.Subscribers, 1, maxConnections)
	between("members", o.Members, 1, maxConnections)
	between("rate", o.Rate, 1, 10_000_000)
	between("connections", o.Connections, 1, maxConnections)
	between("concurrent connections", o.Concurrent, 1, 10_000)
	between("subscriptions", o.Subscriptions, 0, 1000)
	between("sessions", o.Sessions, 1, maxConnections)
	if o.Messages < 0 {
		wrong = append(wrong, errors.New("the number of messages is negative"))
	}
	if o.Duration < 0 || o.Timeout < 0 || o.Patience < 0 {
		wrong = append(wrong, errors.New("a duration is negative"))
	}
	if o.Scenario == Sleeping && o.QoS == packet.QoS0 {
		wrong = append(wrong, errors.New("messages of QoS 0 are not stored for sessions that are offline"))
	}
	if _, err := parseTarget(o.Target); err != nil {
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}

var scenarios = []Scenario{Pairs, FanIn, FanOut, Shared, Latency, Connect, Idle, Sleeping}

// def sets a default.
func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
