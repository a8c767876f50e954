package cli

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"rollcall/internal/bench"
	"rollcall/internal/mqtt/packet"
)

// benchFlags are the flags that all scenarios have. Those of one scenario are
// read when it runs: their defaults differ.
type benchFlags struct {
	o                               bench.Options
	version, passwordFile           string
	cafile, cert, key, serverName   string
	insecure, asJSON, quiet, noFind bool
}

func newBench() *cobra.Command {
	f := &benchFlags{}
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure an MQTT broker under load", GroupID: "run",
		Long: `Make load for any MQTT broker and measure what it costs. The broker is
host:port or a URL (mqtt://, mqtts://, ws://, wss://); without one it is
mqtt://127.0.0.1:1883.

The figure that travels from one machine to another is the broker's CPU for each
message, in microseconds of user and system time. It is read from /proc, on
Linux, for a broker on this machine: the process that listens on the port, or
--pid. Rates stand beside it; they depend on what else runs.

Every message carries its publisher and its number. Lost, repeated and overtaken
ones are counted, and a broker that loses a message of QoS 1 or 2 or breaks the
order of a publisher makes the exit code 1. The generator measures its own CPU
and warns if it may have been the bottleneck.

Over plain TCP on Linux, load is made by event loops over epoll; TLS, WebSocket
and other systems use goroutines. The limit on open descriptors is raised as far
as the hard limit allows.`,
		Example: `  rollcall bench pairs
  rollcall bench pairs mqtt://10.0.0.7:1883 --qos 1 --inflight 16 --duration 10s
  rollcall bench pairs --burst 32
  rollcall bench latency --rate 4000 --qos 1 --json
  rollcall bench connect mqtts://127.0.0.1:8883 --cafile ca.pem --connections 5000
  rollcall bench idle --connections 10000
  rollcall bench sleeping --sessions 200 --messages 100 --wake`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("%s: there is no scenario %q", cmd.CommandPath(), args[0])
			}
			return cmd.Help()
		},
	}
	p := cmd.PersistentFlags()
	p.StringVar(&f.version, "mqtt", "3.1.1", "speak this `version` of MQTT: 3.1.1 or 5")
	p.StringVar(&f.o.User, "user", "", "connect with this user `name`")
	p.StringVar(&f.passwordFile, "password-file", "", "read the password from `file`")
	p.StringVar(&f.cafile, "cafile", "", "trust the certificates in `file` (PEM) instead of the system's")
	p.StringVar(&f.cert, "cert", "", "client certificate, PEM `file`")
	p.StringVar(&f.key, "key", "", "its private key, PEM `file`")
	p.StringVar(&f.serverName, "server-name", "", "`name` that the broker's certificate must have (default: the host)")
	p.BoolVar(&f.insecure, "insecure", false, "do not verify the broker's certificate")
	p.StringVar(&f.o.Prefix, "prefix", "", "begin client ids and topics with `text` (default: bench- and a random number)")
	p.IntVar(&f.o.PID, "pid", 0, "the broker's `process`, whose CPU and memory are read (default: who listens on the port, on loopback)")
	p.BoolVar(&f.noFind, "no-find", false, "do not look for the broker's process")
	p.IntVar(&f.o.Loops, "threads", 1, "threads that make load, for pairs and latency")
	p.BoolVar(&f.o.Portable, "portable", false, "goroutines instead of event loops over plain TCP too")
	p.DurationVar(&f.o.Timeout, "timeout", 10*time.Second, "bound of every wait for the broker")
	p.BoolVar(&f.asJSON, "json", false, "print the report as JSON")
	p.BoolVar(&f.quiet, "quiet", false, "do not say what is going on")
	cmd.AddCommand(
		f.scenario(bench.Pairs, "Pairs of a publisher and a subscriber",
			`Each publisher has a topic and a subscriber of its own. The loop is closed: the
next message is published when one has arrived at the subscriber and, with QoS 1
and 2, is acknowledged; so --inflight 1 is a round trip.`, f.loop, f.publishers("pairs")),
		f.scenario(bench.FanIn, "Many publishers to one subscriber",
			`All publish to topics of their own, and one subscriber gets it all. The loop of
each publisher is closed, as with pairs.`, f.loop, f.publishers("publishers")),
		f.scenario(bench.FanOut, "One publisher to many subscribers",
			`All subscribers get each message. What is counted are deliveries. The next
message is published when as many deliveries have arrived as one makes.`, f.loop, func(c *cobra.Command) {
				c.Flags().Int("subscribers", 1000, "`number` of subscribers")
			}),
		f.scenario(bench.Shared, "Publishers to the members of a shared subscription",
			`The members subscribe to $share/<name>/<filter>; each message must arrive at
exactly one of them.`, f.loop, f.publishers("publishers"), func(c *cobra.Command) {
				c.Flags().Int("members", 4, "`number` of members")
			}),
		f.scenario(bench.Latency, "How long messages take at a fixed rate",
			`Pairs publish at a fixed rate, whoever is late. Latency counts from the moment
at which a message was due, so that a stall counts for all messages that were
due meanwhile.`, f.timed, f.publishers("pairs"), func(c *cobra.Command) {
				c.Flags().Int("rate", 4000, "messages a second, in all (`number`)")
			}),
		f.scenario(bench.Connect, "Connections that come and go",
			`Each connection connects with a clean session, subscribes to --subscriptions
topics of its own in one SUBSCRIBE, and disconnects in order. TLS sessions are
not resumed: each handshake is a full one. The first tenth is not measured.`, func(c *cobra.Command) {
				c.Flags().Int("connections", 10_000, "`number` of connections in all")
				c.Flags().Int("concurrent", 64, "`number` under way at a time")
				c.Flags().Int("subscriptions", 0, "`number` of subscriptions of each connection")
			}),
		f.scenario(bench.Idle, "Memory of connections that rest",
			`Open connections, let them rest, and read how much the broker's resident memory
grew for each. The kernel's memory for sockets is not part of it.`, func(c *cobra.Command) {
				c.Flags().Int("connections", 10_000, "`number` of connections")
				c.Flags().Int("subscriptions", 0, "`number` of subscriptions of each connection")
				c.Flags().Duration("settle", 5*time.Second, "rest before memory is read (0: none)")
			}),
		f.scenario(bench.Sleeping, "Messages stored for sessions that are offline",
			`Sessions subscribe with QoS 1 or 2 and go offline. Publishers then send messages
to each of them; what is measured is the time and CPU until the broker has
acknowledged, and so taken charge of, each. --wake has the sessions come back and
counts what arrives. The sessions are deleted at the end.`, func(c *cobra.Command) {
				c.Flags().Int("sessions", 200, "`number` of sessions")
				c.Flags().Int64("messages", 100, "`number` of messages for each")
				c.Flags().Bool("wake", false, "reconnect, and see that everything arrives")
				c.Flags().Int("publishers", 10, "`number` of publishers")
				f.payload(c, 1, 16)
			}),
	)
	return cmd
}

// scenario is a sub-command.
func (f *benchFlags) scenario(s bench.Scenario, short, long string, flags ...func(*cobra.Command)) *cobra.Command {
	cmd := &cobra.Command{
		Use: string(s) + " [broker]", Short: short, Long: short + ".\n\n" + long, Args: optionalBroker,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, s, args) },
	}
	for _, add := range flags {
		add(cmd)
	}
	return cmd
}

// optionalBroker takes one argument or none.
func optionalBroker(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%s: unexpected argument %q", cmd.CommandPath(), args[1])
	}
	return nil
}

// loop adds the flags of closed loops.
func (f *benchFlags) loop(c *cobra.Command) {
	f.timed(c)
	c.Flags().Int("inflight", 1, "`number` of messages in flight of each publisher")
	c.Flags().Int("burst", 0, "publish bursts of this `number`, the next when all of the last have arrived")
	c.Flags().Duration("patience", time.Second, "give a QoS 0 message up after this time")
}

// timed adds the flags of what runs for a time.
func (f *benchFlags) timed(c *cobra.Command) {
	c.Flags().Int("qos", 0, "`QoS` of messages and subscriptions: 0, 1 or 2")
	c.Flags().Int("size", 64, "`bytes` of payload, at least 16")
	c.Flags().Duration("duration", 3*time.Second, "measure for this time")
	c.Flags().Int64("messages", 0, "measure no more than about this `number` (0: no bound)")
	c.Flags().Duration("warmup", 500*time.Millisecond, "load before the measurement begins (0: none)")
}

// payload adds the flags of messages where time is not a bound.
func (f *benchFlags) payload(c *cobra.Command, qos, inFlight int) {
	c.Flags().Int("qos", qos, "`QoS` of messages and subscriptions: 1 or 2")
	c.Flags().Int("size", 64, "`bytes` of payload, at least 16")
	c.Flags().Int("inflight", inFlight, "`number` of messages in flight of each publisher")
}

func (f *benchFlags) publishers(name string) func(*cobra.Command) {
	return func(c *cobra.Command) { c.Flags().Int(name, 100, "`number` of "+name) }
}

// run measures and prints.
func (f *benchFlags) run(cmd *cobra.Command, s bench.Scenario, args []string) error {
	o, err := f.options(cmd, s, args)
	if err != nil {
		return err
	}
	if err := o.Check(); err != nil {
		return usage{err}
	}
	report, err := bench.Run(cmd.Context(), o)
	if err != nil {
		return err
	}
	if f.asJSON {
		err = report.JSON(cmd.OutOrStdout())
	} else {
		err = report.Text(cmd.OutOrStdout())
	}
	if err == nil && len(report.Failures) > 0 {
		err = errors.New("the broker did not keep what MQTT promises: " + report.Failures[0])
	}
	return err
}

// options are what the flags say.
func (f *benchFlags) options(cmd *cobra.Command, s bench.Scenario, args []string) (bench.Options, error) {
	o := bench.Options{
		Scenario: s, Target: "mqtt://127.0.0.1:1883", User: f.o.User, Prefix: f.o.Prefix, PID: f.o.PID,
		Loops: f.o.Loops, Portable: f.o.Portable, Timeout: f.o.Timeout,
	}
	if len(args) > 0 {
		o.Target = args[0]
	}
	if err := f.own(cmd, &o); err != nil {
		return o, err
	}
	switch f.version {
	case "3.1.1", "4":
		o.Version = packet.V311
	case "5", "5.0":
		o.Version = packet.V5
	default:
		return o, usagef("--mqtt: %q is neither 3.1.1 nor 5", f.version)
	}
	o.FindPID = o.PID == 0 && !f.noFind
	if !f.quiet && !f.asJSON {
		o.Progress = cmd.ErrOrStderr()
	}
	var err error
	if f.passwordFile != "" {
		if o.Password, err = os.ReadFile(f.passwordFile); err != nil {
			return o, err
		}
		o.Password = bytes.TrimRight(o.Password, "\r\n")
	}
	o.TLS, err = f.tls()
	return o, err
}

// own reads the flags of the scenario.
func (f *benchFlags) own(cmd *cobra.Command, o *bench.Options) error {
	fl := cmd.Flags()
	var wrong []error
	number := func(name string, into *int) {
		if fl.Lookup(name) == nil {
			return
		}
		n, err := fl.GetInt(name)
		if n == 0 && name != "qos" && name != "subscriptions" && fl.Changed(name) {
			err = usagef("--%s: 0 is not positive", name) // and not the default
		}
		wrong = append(wrong, err)
		*into = n
	}
	span := func(name string, into *time.Duration) {
		if fl.Lookup(name) == nil {
			return
		}
		d, err := fl.GetDuration(name)
		optional := name == "warmup" || name == "settle"
		if d < 0 || d == 0 && !optional {
			err = usagef("--%s: %v is not positive", name, d)
		}
		if *into = d; d == 0 {
			*into = -1 // none, and not the default
		}
		wrong = append(wrong, err)
	}
	qos := 0
	number("qos", &qos)
	if qos < 0 || qos > 2 {
		return usagef("--qos: %d is none of 0, 1 and 2", qos)
	}
	o.QoS = packet.QoS(qos)
	number("size", &o.Size)
	number("inflight", &o.InFlight)
	if fl.Changed("burst") {
		if fl.Changed("inflight") {
			return usagef("--inflight and --burst exclude each other")
		}
		number("burst", &o.InFlight)
		o.Burst = true
	}
	number("pairs", &o.Publishers)
	number("publishers", &o.Publishers)
	number("subscribers", &o.Subscribers)
	number("members", &o.Members)
	number("rate", &o.Rate)
	number("connections", &o.Connections)
	number("concurrent", &o.Concurrent)
	number("subscriptions", &o.Subscriptions)
	number("sessions", &o.Sessions)
	span("duration", &o.Duration)
	span("warmup", &o.Warmup)
	span("settle", &o.Settle)
	span("patience", &o.Patience)
	if fl.Lookup("messages") != nil {
		n, err := fl.GetInt64("messages")
		if n == 0 && o.Scenario == bench.Sleeping {
			err = usagef("--messages: 0 is not positive")
		}
		o.Messages = n
		wrong = append(wrong, err)
	}
	if fl.Lookup("wake") != nil {
		wake, err := fl.GetBool("wake")
		o.Wake = wake
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}

// tls is the configuration for mqtts and wss. Sessions are not resumed.
func (f *benchFlags) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.serverName, InsecureSkipVerify: f.insecure}
	if f.cafile != "" {
		text, err := os.ReadFile(f.cafile)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", f.cafile)
		}
	}
	if (f.cert == "") != (f.key == "") {
		return nil, usagef("--cert and --key belong together")
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
