package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func newCA(t *target) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "ca", Short: "Print the server's CA certificate; register CAs of clients", GroupID: "set", Args: arguments(),
		Long: `Without a sub-command, print the certificate of the local CA that the
server's certificate is signed by. Clients trust the server with it:

  rollcall ca > ca.crt
  mosquitto_sub --cafile ca.crt -p 8883 -t '#' -i me

The sub-commands manage the CAs that sign client certificates.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			res, err := a.send(cmd.Context(), http.MethodGet, "/rollcall/v1/ca", nil)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
			if err != nil {
				return err
			}
			if res.StatusCode != http.StatusOK {
				return answer(res.StatusCode, text)
			}
			if out != "" {
				return os.WriteFile(out, text, 0o644)
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	t.flags(cmd)
	cmd.Flags().StringVar(&out, "out", "", "write it to `file`")
	cmd.AddCommand(caAdd(t), caList(t), caDelete(t))
	return cmd
}

type caJSON struct {
	Name       string `json:"name,omitempty"`
	Properties struct {
		Description        string     `json:"description,omitempty"`
		EncodedCertificate string     `json:"encodedCertificate,omitempty"`
		IssueTimeInUTC     *time.Time `json:"issueTimeInUtc,omitempty"`
		ExpiryTimeInUTC    *time.Time `json:"expiryTimeInUtc,omitempty"`
	} `json:"properties"`
}

func caPath(name string) string { return "/caCertificates/" + url.PathEscape(name) }

func caAdd(t *target) *cobra.Command {
	var description string
	cmd := &cobra.Command{
		Use: "add NAME FILE", Short: "Trust clients whose certificate this CA signed", Args: arguments("NAME", "FILE"),
		Long: `Register the certificate (PEM) of the CA that directly signs client
certificates, a root or an intermediate one.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[1])
			if err != nil {
				return err
			}
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			var c caJSON
			c.Properties.EncodedCertificate, c.Properties.Description = string(text), description
			_, err = a.do(cmd.Context(), http.MethodPut, a.arm(caPath(args[0])), c, nil)
			return err
		},
	}
	cmd.Flags().StringVar(&description, "description", "", "free `text`")
	return cmd
}

func caList(t *target) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the CAs of clients", Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			all, err := list[json.RawMessage](cmd.Context(), a, "/caCertificates")
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tISSUED\tEXPIRES\tDESCRIPTION")
			for _, raw := range all {
				var c caJSON
				if err := json.Unmarshal(raw, &c); err != nil {
					return err
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Name, day(c.Properties.IssueTimeInUTC), day(c.Properties.ExpiryTimeInUTC), c.Properties.Description)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func day(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Format(time.DateOnly)
}

func caDelete(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Distrust a CA; sessions that hang on it end at once", Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			status, err := a.do(cmd.Context(), http.MethodDelete, a.arm(caPath(args[0])), nil, nil)
			if err == nil && status == http.StatusNoContent {
				fmt.Fprintf(cmd.ErrOrStderr(), "there was no CA %s\n", args[0])
			}
			return err
		},
	}
}
