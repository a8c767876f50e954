package cli

import (
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rollcall/internal/event"
)

// refusalJSON is a client that was not let in, as the API shows it.
type refusalJSON struct {
	Time      event.Time `json:"time"`
	Remote    string     `json:"remote"`
	Transport string     `json:"transport"`
	ClientID  string     `json:"clientId,omitempty"`
	UserName  string     `json:"userName,omitempty"`
	Reason    string     `json:"reason"`
	Code      string     `json:"code,omitempty"`
	Detail    string     `json:"detail"`
}

func sessionRefusals(t *target) *cobra.Command {
	var asJSON bool
	var limit int
	cmd := &cobra.Command{
		Use: "refusals", Short: "See who was not let in, and why", Args: arguments(),
		Long: `The clients that were not let in lately, the newest first: when, from where,
under which client id and user name, and why. At most the last 1,000 are known,
since the start of the server; rollcall_mqtt_refusals_total counts all of them.`,
		Example: "  rollcall session refusals --limit 20",
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			var page struct {
				Value []refusalJSON `json:"value"`
			}
			if err := a.get(cmd.Context(), "/rollcall/v1/refusals?limit="+strconv.Itoa(limit), &page); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), page)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "TIME\tREMOTE\tCLIENT ID\tUSER NAME\tREASON\tDETAIL")
			for _, r := range page.Value {
				fmt.Fprintf(w, "%s\t%s %s\t%s\t%s\t%s\t%s\n", r.Time.Format(time.RFC3339), r.Remote, r.Transport,
					orDash(r.ClientID), orDash(r.UserName), r.Reason, r.Detail)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many, up to 1000")
	return cmd
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
