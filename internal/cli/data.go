package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"rollcall/internal/app"
	"rollcall/internal/config"
)

func newData() *cobra.Command {
	cmd := &cobra.Command{
		Use: "data", Short: "Check and salvage a data directory", GroupID: "run",
		Long: `Look at the data directory of a server that does not run. Damage that is met
while it runs is dealt with there and shown by rollcall status.`,
	}
	cmd.AddCommand(dataCheck(), dataSalvage())
	return cmd
}

// errDamaged is the outcome of a check that found damage; it has been printed.
var errDamaged = errors.New("the data directory is damaged")

func dataCheck() *cobra.Command {
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "check", Short: "Read all of a data directory and say what is damaged", Args: arguments(),
		Long: `Read every file of a data directory and say what is damaged, whether the server
can put it right, and what is lost with it. Nothing is changed. The server must
not run.

Exit code 0: sound. 1: damaged, or it could not look; the verdict says how badly:

  correctable  the next start puts it right, nothing is lost
  lossy        the next start sets it aside and marks what is lost
  unusable     the server does not start on it; see rollcall data salvage`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := dataDir(dir)
			if err != nil {
				return err
			}
			r, err := app.CheckData(d, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = printReport(cmd.OutOrStdout(), r)
			}
			if err == nil && r.Verdict != app.VerdictSound {
				err = errDamaged
			}
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "data", "", "`directory` of everything durable (default as for serve)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// dataDir is the directory named, or the one that serve takes.
func dataDir(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	if d := config.Default(config.Open).Data; d != "" {
		return d, nil
	}
	return "", usagef("--data is missing: name the data directory")
}

func printReport(out io.Writer, r app.DataReport) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "verdict\t%s\n", r.Verdict)
	fmt.Fprintf(w, "store\t%s, %d files, %.1f MiB read\n", r.Store.Dir, r.Store.Files, float64(r.Store.Bytes)/(1<<20))
	for _, f := range r.Store.Findings {
		where := f.File
		if f.Length > 0 {
			where += fmt.Sprintf(", %d bytes at %d", f.Length, f.Offset)
		}
		if f.Level != nil {
			where += fmt.Sprintf(", level %d", *f.Level)
		}
		fmt.Fprintf(w, "%s\t%s: %s\n", f.Outcome, where, f.Cause)
		if f.Loss != nil && f.Loss.To > f.Loss.From {
			fmt.Fprintf(w, "\tcommits %d to %d\n", f.Loss.From+1, f.Loss.To)
		}
		if len(f.Tables) > 0 {
			fmt.Fprintf(w, "\tkeys of: %s\n", strings.Join(f.Tables, ", "))
		}
	}
	for _, f := range r.Files {
		fmt.Fprintf(w, "damaged\t%s: %s\n", f.File, f.Detail)
	}
	for _, m := range r.Meaning {
		fmt.Fprintf(w, "means\t%s: %s\n", m.Table, m.Meaning)
	}
	if n := len(r.Store.Earlier); n > 0 {
		fmt.Fprintf(w, "earlier\t%d findings of earlier starts, the last: %s, %s (%s)\n", n,
			r.Store.Earlier[n-1].File, r.Store.Earlier[n-1].Cause, r.Store.Earlier[n-1].Outcome)
	}
	if r.Advice != "" {
		fmt.Fprintf(w, "do\t%s\n", r.Advice)
	}
	return w.Flush()
}

func dataSalvage() *cobra.Command {
	var dir, to string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "salvage", Short: "Copy all that can be read of a data directory into a new one", Args: arguments(),
		Long: `Copy a damaged data directory into a new one: flipped bits are put right, what
cannot be read is left out and marked as lost, so that no session number and no
event id is given out again, and a damaged list of tables is made anew from the
tables. The original is never changed. The server must not run.

  rollcall data salvage --data /var/lib/rollcall --to /var/lib/rollcall.new
  rollcall serve --data /var/lib/rollcall.new`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to == "" {
				return usagef("--to is missing: name a new directory")
			}
			d, err := dataDir(dir)
			if err != nil {
				return err
			}
			s, err := app.SalvageData(d, to, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError + 1})))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			out := cmd.OutOrStdout()
			for _, f := range s.Findings {
				fmt.Fprintf(out, "%s: %s: %s\n", f.File, f.Outcome, f.Cause)
			}
			if s.Rebuilt {
				fmt.Fprintln(out, "The list of tables could not be read: all tables and logs were merged. What was deleted a moment before the end may be back.")
			}
			fmt.Fprintf(out, "%d keys are in %s, up to commit %d. Start the server there: rollcall serve --data %s\n", s.Keys, to, s.Index, to)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "data", "", "the damaged `directory` (default as for serve)")
	cmd.Flags().StringVar(&to, "to", "", "a new `directory`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
