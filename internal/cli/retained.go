package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"rollcall/internal/event"
)

// retainedJSON is a retained message as the API shows it.
type retainedJSON struct {
	Topic   string      `json:"topic"`
	Bytes   int         `json:"bytes"`
	Expires *event.Time `json:"expiresAt,omitempty"`
}

// retainedMessageJSON is one with its payload.
type retainedMessageJSON struct {
	retainedJSON
	QoS         uint8      `json:"qos"`
	From        string     `json:"from"`
	Received    event.Time `json:"receivedAt"`
	ContentType string     `json:"contentType,omitempty"`
	Payload     []byte     `json:"payload"`
}

func newRetained(t *target) *cobra.Command {
	cmd := &cobra.Command{
		Use: "retained", Short: "List, show and delete retained MQTT messages", GroupID: "see",
		Long: `A retained message is the last one that was published to a topic with the
RETAIN flag. The broker keeps it for clients that subscribe later, until it is
replaced, expires or is deleted.`,
	}
	t.flags(cmd)
	cmd.AddCommand(retainedList(t), retainedShow(t), retainedDelete(t))
	return cmd
}

func retainedList(t *target) *cobra.Command {
	var asJSON bool
	var limit int
	var filter, after string
	cmd := &cobra.Command{
		Use: "list", Short: "List retained messages by topic", Args: arguments(),
		Example: `  rollcall retained list --filter 'fleet/+/state'
  rollcall retained list --after fleet/pump-7/state --limit 50`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			q := url.Values{"limit": {strconv.Itoa(limit)}, "filter": {filter}}
			if after != "" {
				q.Set("after", after)
			}
			var page struct {
				Value     []retainedJSON `json:"value"`
				NextAfter string         `json:"nextAfter,omitempty"`
			}
			if err := a.get(cmd.Context(), "/rollcall/v1/retained?"+q.Encode(), &page); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), page)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "TOPIC\tBYTES\tEXPIRES")
			for _, r := range page.Value {
				fmt.Fprintf(w, "%s\t%d\t%s\n", r.Topic, r.Bytes, expires(r.Expires))
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if page.NextAfter != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "more: rollcall retained list --filter %q --after %q\n", filter, page.NextAfter)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&filter, "filter", "#", "only topics that match this MQTT topic `filter`")
	f.StringVar(&after, "after", "", "only `topics` after this one")
	f.IntVar(&limit, "limit", 100, "at most so many (1 to 1000)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func expires(at *event.Time) string {
	if at == nil {
		return "never"
	}
	return at.Format(time.RFC3339)
}

func retainedPath(topic string) string { return "/rollcall/v1/retained/" + url.PathEscape(topic) }

func retainedShow(t *target) *cobra.Command {
	var asJSON, raw bool
	cmd := &cobra.Command{
		Use: "show TOPIC", Short: "Show what is retained for a topic", Args: arguments("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if asJSON && raw {
				return usagef("--json and --raw exclude each other")
			}
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			var m retainedMessageJSON
			if err := a.get(cmd.Context(), retainedPath(args[0]), &m); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			switch {
			case asJSON:
				return printJSON(out, m)
			case raw:
				_, err := out.Write(m.Payload)
				return err
			}
			w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
			fmt.Fprintf(w, "topic\t%s\n", m.Topic)
			fmt.Fprintf(w, "from\t%s at %s (%s)\n", m.From, event.FormatTime(m.Received.Time), ago(m.Received))
			fmt.Fprintf(w, "QoS\t%d\n", m.QoS)
			if m.ContentType != "" {
				fmt.Fprintf(w, "content type\t%s\n", m.ContentType)
			}
			fmt.Fprintf(w, "expires\t%s\n", expires(m.Expires))
			fmt.Fprintf(w, "payload\t%s\n", payloadText(m.Payload))
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the payload in Base64")
	cmd.Flags().BoolVar(&raw, "raw", false, "print the payload alone, as it is")
	return cmd
}

// payloadText is a payload as a terminal may show it.
func payloadText(b []byte) string {
	const most = 200
	if !utf8.Valid(b) {
		return fmt.Sprintf("%d bytes that are no text; --raw prints them", len(b))
	}
	if len(b) > most {
		return fmt.Sprintf("%q and so on, %d bytes; --raw prints them", string(b[:most]), len(b))
	}
	return strconv.Quote(string(b))
}

func retainedDelete(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "delete TOPIC", Short: "Delete what is retained for a topic; subscribers are not told", Args: arguments("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			_, err = a.do(cmd.Context(), http.MethodDelete, retainedPath(args[0]), nil, nil)
			return err
		},
	}
}
