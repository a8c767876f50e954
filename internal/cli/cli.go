// Package cli is the command line. Apart from serve and demo, which run a
// server, its commands talk HTTP to one like any other client.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"rollcall/internal/fault"
)

// Version is set when a release is built.
var version = ""

// Main runs the command line and returns the process's exit code: 0, 1 for a
// failure, 2 for a command line that is wrong.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var u usage
	code := 1
	if errors.As(err, &u) {
		code = 2
	}
	printError(errOut, err)
	return code
}

// usage is a command line that is wrong.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usage{fmt.Errorf(format, args...)} }

func printError(w io.Writer, err error) {
	f, ok := fault.As(err)
	if !ok {
		fmt.Fprintln(w, "rollcall:", err)
		return
	}
	all := f.Details
	if len(all) == 0 {
		all = []*fault.Error{f}
	}
	for _, e := range all {
		if e.Target != "" {
			fmt.Fprintf(w, "rollcall: %s: %s\n", e.Target, e.Message)
		} else {
			fmt.Fprintf(w, "rollcall: %s (%s)\n", e.Message, e.Code)
		}
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "rollcall",
		Short: "A self-hosted event grid for device fleets",
		Long: `Rollcall is an event grid for device fleets in one binary. Devices connect to
its MQTT broker; it knows, in order and durably, when each one came, went and
why; and it delivers that as events to whoever subscribed.

Start a server, subscribe a webhook, and watch a device come and go:

  rollcall serve
  rollcall receive
  rollcall event-subscription create hook --endpoint http://127.0.0.1:9000/events
  mosquitto_pub -V 5 -i thermostat-7 -t room/1 -m 21.5
  rollcall session history thermostat-7

Or see all of it at once, with nothing to set up:

  rollcall demo`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage{err} })
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "see", Title: "See who is here:"},
		&cobra.Group{ID: "set", Title: "Set up:"})
	target := &target{}
	root.AddCommand(
		newServe(), newDemo(), newReceive(), newBench(), newData(),
		newSession(target), newRetained(target), newTail(target), newStatus(target),
		newClient(target), newCA(target), newSubscription(target), newKeys(target), newConfig(), newVersion(),
	)
	return root
}

// arguments makes a wrong number of arguments a usage error that says what is
// missing.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		if len(args) > len(names) {
			return usagef("%s: unexpected argument %q", cmd.CommandPath(), args[len(names)])
		}
		return usagef("%s: %s is missing; see %s --help", cmd.CommandPath(), names[len(args)], cmd.CommandPath())
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: arguments(), GroupID: "set",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "rollcall", buildVersion())
			return err
		},
	}
}

// buildVersion is the release, or what the build knows of its commit.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	v := "devel"
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v += " " + s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				v += " (modified)"
			}
		}
	}
	return v + " " + info.GoVersion
}

// printJSON prints v indented.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
