package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"rollcall/internal/app"
	"rollcall/internal/config"
)

// serveFlags are the flags of serve. Those that were given win over
// environment and file.
type serveFlags struct {
	config, data, profile, cert, key, anonymous, readyFile, logLevel, logFormat, keyType string
	mqtt, mqtts, http, https, hosts, origins                                             []string
	allowAll, noAuth, devKeys, behindProxy                                               bool
}

func newServe() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the server", Args: arguments(), GroupID: "run",
		Long: `Run the server until it is told to stop (SIGTERM or Ctrl-C), then close every
session in order.

Without any flag it works at once: MQTT on 1883 and 8883, HTTP on 8080, HTTPS on
8443, all on loopback only, with a certificate of a local CA made at the first
start. Clients that show no credentials are let in from loopback, their client
id being their authentication name. MQTT over WebSocket is at /mqtt, /ws and / of
the HTTP and HTTPS listeners.

An address flag can be repeated; port 0 picks a free port; an empty address
turns the listener off. Settings come from --config (YAML), then from ROLLCALL_
environment variables, then from flags; rollcall config check lists them all.`,
		Example: `  rollcall serve
  rollcall serve --mqtt 127.0.0.1:1884 --http 127.0.0.1:9080 --data ./data
  rollcall serve --mqtts :8883 --allow-all --cert server.pem --key server.key --mqtt "" --http "" --https ""
  rollcall serve --profile azure`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(cmd)
			if err != nil {
				return usage{err}
			}
			return serve(cmd, cfg)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", os.Getenv(config.EnvPrefix+"CONFIG"), "YAML `file` of settings ($ROLLCALL_CONFIG)")
	fl.StringVar(&f.data, "data", "", "`directory` of everything durable (default /var/lib/rollcall for root, else in your state directory)")
	fl.StringVar(&f.profile, "profile", "", "open: every feature, your limits; azure: the limits and refusals of the documented `service` (default open)")
	fl.StringArrayVar(&f.mqtt, "mqtt", nil, "listen for MQTT on `address` (default localhost:1883)")
	fl.StringArrayVar(&f.mqtts, "mqtts", nil, "listen for MQTT over TLS on `address` (default localhost:8883)")
	fl.StringArrayVar(&f.http, "http", nil, "listen for HTTP and WebSocket on `address` (default localhost:8080)")
	fl.StringArrayVar(&f.https, "https", nil, "listen for HTTPS and WebSocket on `address` (default localhost:8443)")
	fl.StringVar(&f.cert, "cert", "", "`file` of the server certificate, PEM, leaf first (default: one of the local CA)")
	fl.StringVar(&f.key, "key", "", "`file` of its private key, PEM, mode 0600")
	fl.StringVar(&f.keyType, "tls-key-type", "both", "key of the local certificate: `ecdsa, rsa or both`, and clients get what they can use")
	fl.StringArrayVar(&f.origins, "origin", nil, "`origin` whose pages may connect to MQTT over WebSocket (https://app.example.org), or * for all")
	fl.BoolVar(&f.behindProxy, "behind-proxy", false, "a proxy stands in front: no peer counts as being on this machine")
	fl.StringArrayVar(&f.hosts, "host", nil, "further host `name` or address that clients use for this server")
	fl.StringVar(&f.anonymous, "anonymous", "", "let clients without credentials in: off, loopback or all (`where`; default loopback)")
	fl.BoolVar(&f.allowAll, "allow-all", false, "listen beyond loopback although every client may publish and subscribe anywhere")
	fl.BoolVar(&f.noAuth, "no-auth", false, "no token for the control plane (loopback only, for CI)")
	fl.BoolVar(&f.devKeys, "dev-keys", false, "well-known keys instead of random ones (loopback only, for CI)")
	fl.StringVar(&f.readyFile, "ready-file", "", "write endpoints and keys to `file` (mode 0600) once everything listens")
	fl.StringVar(&f.logLevel, "log-level", "", "debug, info, warn or error (`level`; default info)")
	fl.StringVar(&f.logFormat, "log-format", "", "text or json (`format`; default text)")
	return cmd
}

// load overlays defaults, file, environment and flags.
func (f *serveFlags) load(cmd *cobra.Command) (config.Config, error) {
	c, err := config.Load(f.config, os.Environ(), f.profile)
	if err != nil {
		return c, err
	}
	given := func(name string) bool { return cmd.Flags().Changed(name) }
	for _, s := range []struct {
		name string
		from string
		into *string
	}{
		{"data", f.data, &c.Data}, {"cert", f.cert, &c.TLS.Cert}, {"key", f.key, &c.TLS.Key},
		{"anonymous", f.anonymous, &c.Access.Anonymous}, {"ready-file", f.readyFile, &c.ReadyFile},
		{"log-format", f.logFormat, &c.Log.Format},
	} {
		if given(s.name) {
			*s.into = s.from
		}
	}
	for _, l := range []struct {
		name string
		from []string
		into *[]string
	}{{"mqtt", f.mqtt, &c.Listen.MQTT}, {"mqtts", f.mqtts, &c.Listen.MQTTS}, {"http", f.http, &c.Listen.HTTP}, {"https", f.https, &c.Listen.HTTPS}} {
		if given(l.name) {
			*l.into = nil
			for _, addr := range l.from {
				if addr != "" {
					*l.into = append(*l.into, addr)
				}
			}
		}
	}
	if given("tls-key-type") {
		c.TLS.KeyType = f.keyType
	}
	c.Access.Hosts = append(c.Access.Hosts, f.hosts...)
	c.Access.Origins = append(c.Access.Origins, f.origins...)
	for _, b := range []struct {
		name string
		from bool
		into *bool
	}{{"allow-all", f.allowAll, &c.Access.AllowAll}, {"no-auth", f.noAuth, &c.Access.NoAuth}, {"dev-keys", f.devKeys, &c.Access.DevKeys}, {"behind-proxy", f.behindProxy, &c.Access.BehindProxy}} {
		if given(b.name) {
			*b.into = b.from
		}
	}
	if given("log-level") {
		if err := c.Log.Level.UnmarshalText([]byte(f.logLevel)); err != nil {
			return c, fmt.Errorf("--log-level: %q is none of debug, info, warn and error", f.logLevel)
		}
	}
	if c.Data != "" {
		if c.Data, err = filepath.Abs(c.Data); err != nil {
			return c, err
		}
	}
	return c, c.Validate()
}

func logger(c config.Log, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.Level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func serve(cmd *cobra.Command, cfg config.Config) error {
	ctx := cmd.Context()
	s, err := app.Open(ctx, cfg, app.Options{Log: logger(cfg.Log, cmd.ErrOrStderr()), Version: buildVersion()})
	if err != nil {
		return err
	}
	info := s.Info(os.Getpid())
	files := []string{app.ServerFile(cfg.Data)}
	if cfg.ReadyFile != "" {
		files = append(files, cfg.ReadyFile)
	}
	err = s.Run(ctx, func() error {
		for _, f := range files {
			if err := info.WriteInfo(f); err != nil {
				return fmt.Errorf("write the ready file: %w", err)
			}
		}
		banner(cmd.OutOrStdout(), cfg, info, s.Descriptors())
		return nil
	})
	for _, f := range files {
		if e := os.Remove(f); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// banner prints the one block that tells what is where.
func banner(w io.Writer, cfg config.Config, i app.ReadyInfo, d app.Descriptors) {
	row := func(name string, values ...string) {
		if len(values) > 0 && values[0] != "" {
			fmt.Fprintf(w, "  %-11s %s\n", name, strings.Join(values, "  "))
		}
	}
	fmt.Fprintf(w, "rollcall %s, profile %s\n", buildVersion(), cfg.Profile)
	row("MQTT", i.MQTT...)
	row("MQTT + TLS", i.MQTTS...)
	row("HTTP", i.HTTP...)
	row("HTTPS", i.HTTPS...)
	var sockets []string
	for _, list := range [][]string{i.HTTP, i.HTTPS} {
		if len(list) > 0 {
			sockets = append(sockets, "ws"+strings.TrimPrefix(list[0], "http")+"/mqtt")
		}
	}
	row("WebSocket", sockets...)
	if i.CA != "" {
		row("CA", i.CA)
	} else {
		row("certificate", cfg.TLS.Cert)
	}
	row("data", cfg.Data)
	switch {
	case d.Limit == 0:
		row("connections", fmt.Sprintf("up to %d", d.Connections))
	case d.Connections < d.Configured:
		row("connections", fmt.Sprintf("up to %d, not %d: the process may have %d file descriptors, %d are kept for the store; raise LimitNOFILE or ulimit -n",
			d.Connections, d.Configured, d.Limit, d.Store))
	default:
		row("connections", fmt.Sprintf("up to %d, of %d file descriptors", d.Connections, d.Limit))
	}
	switch {
	case cfg.Access.NoAuth:
		row("keys", "none needed (--no-auth)")
	case cfg.Access.DevKeys:
		row("keys", "well-known (--dev-keys); rollcall keys show prints them")
	default:
		row("keys", filepath.Join(cfg.Data, app.KeysFile)+"; rollcall keys show prints them")
	}
	row("anonymous", map[string]string{
		"off": "refused", "loopback": "let in from loopback, client id = authentication name", "all": "let in from everywhere",
	}[cfg.Access.Anonymous])
	if cfg.Profile == config.Azure {
		row("not built", "JWT and webhook authentication, session limits of a client, topic spaces, routing, rate limits")
	}
}
