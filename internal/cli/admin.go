package cli

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"rollcall/internal/app"
	"rollcall/internal/config"
)

func newStatus(t *target) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show how the server is doing", Args: arguments(), GroupID: "see",
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			var s app.Status
			if err := a.get(cmd.Context(), "/rollcall/v1/status", &s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintf(w, "version\t%s, profile %s\n", s.Version, s.Profile)
			fmt.Fprintf(w, "started\t%s, start %d of node %s\n", ago(s.StartedAt), s.Boot, s.Node)
			fmt.Fprintf(w, "sessions\t%d connected\n", s.OpenSessions)
			storage := fmt.Sprintf("%.1f MiB used, %.1f GiB free", float64(s.Storage.Bytes)/(1<<20), float64(s.Storage.FreeBytes)/(1<<30))
			if s.Storage.Full {
				storage += "; FULL: new connects are refused"
			}
			fmt.Fprintf(w, "storage\t%s\n", storage)
			printDamage(w, s.Damage)
			for _, e := range []struct {
				name  string
				addrs []string
			}{{"mqtt", s.Endpoints.MQTT}, {"mqtts", s.Endpoints.MQTTS}, {"http", s.Endpoints.HTTP}, {"https", s.Endpoints.HTTPS}} {
				if len(e.addrs) > 0 {
					fmt.Fprintf(w, "%s\t%s\n", e.name, strings.Join(e.addrs, "  "))
				}
			}
			fmt.Fprintf(w, "namespace\t%s\n", s.Namespace)
			return w.Flush()
		},
	}
	t.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printDamage says what of the stored data could not be read, if anything.
func printDamage(w io.Writer, d app.Damage) {
	for i := len(d.Findings) - 1; i >= max(0, len(d.Findings)-5); i-- {
		f := d.Findings[i]
		tables := ""
		if len(f.Tables) > 0 {
			tables = " (" + strings.Join(f.Tables, ", ") + ")"
		}
		fmt.Fprintf(w, "damage\t%s, %s: %s, %s%s\n", ago(f.At), f.File, f.Cause, f.Outcome, tables)
	}
	if n := len(d.Findings); n > 5 {
		fmt.Fprintf(w, "\tand %d earlier; rollcall status --json lists them\n", n-5)
	}
	for _, table := range slices.Sorted(maps.Keys(d.SetAside)) {
		fmt.Fprintf(w, "unreadable\t%d items of %s are passed over\n", d.SetAside[table], table)
	}
}

func newKeys(t *target) *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "Show the keys that callers need", GroupID: "set"}
	t.flags(cmd)
	var asJSON bool
	show := &cobra.Command{
		Use: "show", Short: "Print the keys of the server", Args: arguments(),
		Long: `Print the bearer token that control-plane requests need:

  curl -H "Authorization: Bearer $(rollcall keys show)" …

Locally it is read from the data directory; with --url the server is asked,
which takes a token already.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys := map[string]string{}
			if t.url != "" {
				a, err := t.open(cmd.Context())
				if err != nil {
					return err
				}
				if _, err := a.do(cmd.Context(), http.MethodPost, "/rollcall/v1/keys", nil, &keys); err != nil {
					return err
				}
			} else {
				token, err := t.localToken()
				if err != nil {
					return err
				}
				keys["token"] = token
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), keys)
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), keys["token"])
			return err
		},
	}
	show.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(show)
	return cmd
}

// localToken is that of the running server, else that of the data directory.
func (t *target) localToken() (string, error) {
	if info, err := t.info(); err == nil && info.Token != "" {
		return info.Token, nil
	}
	data := t.data
	if data == "" {
		if data = os.Getenv(config.EnvPrefix + "DATA"); data == "" {
			data = config.Default(config.Open).Data
		}
	}
	k, err := app.ReadKeys(data)
	return k.Token, err
}

func newConfig() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check the configuration", GroupID: "set"}
	var f serveFlags
	var variables bool
	check := &cobra.Command{
		Use: "check", Short: "Check a configuration and print what is in force", Args: arguments(),
		Long: `Read the configuration as serve would, from file, environment and defaults,
report every mistake in it, and print the settings in force as YAML.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if variables {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(config.Variables(), "\n"))
				return err
			}
			c, err := f.load(cmd)
			if err != nil {
				return err
			}
			if u, err := url.Parse(c.Webhook.Proxy); err == nil {
				c.Webhook.Proxy = u.Redacted()
			}
			text, err := yaml.Marshal(c)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	check.Flags().StringVar(&f.config, "config", os.Getenv(config.EnvPrefix+"CONFIG"), "YAML `file` of settings ($ROLLCALL_CONFIG)")
	check.Flags().StringVar(&f.profile, "profile", "", "open or azure (`profile`)")
	check.Flags().BoolVar(&variables, "variables", false, "print the names of all environment variables instead")
	cmd.AddCommand(check)
	return cmd
}
