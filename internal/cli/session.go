package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// sessionJSON is a session as the API shows it.
type sessionJSON struct {
	Session        string          `json:"session"`
	Owner          string          `json:"owner"`
	Connected      bool            `json:"connected"`
	Number         uint64          `json:"number"`
	Since          time.Time       `json:"since"`
	Protocol       string          `json:"protocol"`
	Transport      string          `json:"transport"`
	Remote         string          `json:"remote"`
	Method         string          `json:"method"`
	Node           string          `json:"node"`
	Boot           uint64          `json:"boot"`
	EventID        string          `json:"eventId"`
	LastDisconnect *disconnectJSON `json:"lastDisconnect,omitempty"`
}

type disconnectJSON struct {
	Reason   string       `json:"reason"`
	Evidence evidenceJSON `json:"evidence"`
}

type evidenceJSON struct {
	Kind   string `json:"kind"`
	Packet string `json:"packet,omitempty"`
	Code   *uint8 `json:"code,omitempty"`
	Detail string `json:"detail"`
}

type transitionJSON struct {
	Number    uint64        `json:"number"`
	Kind      string        `json:"kind"`
	Time      time.Time     `json:"time"`
	EventID   string        `json:"eventId"`
	Owner     string        `json:"owner"`
	Protocol  string        `json:"protocol"`
	Transport string        `json:"transport"`
	Remote    string        `json:"remote"`
	Method    string        `json:"method"`
	Node      string        `json:"node"`
	Boot      uint64        `json:"boot"`
	Skipped   uint64        `json:"skipped,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	Evidence  *evidenceJSON `json:"evidence,omitempty"`
}

func (s sessionJSON) reason() string {
	if s.LastDisconnect == nil {
		return "-"
	}
	return s.LastDisconnect.Reason
}

func newSession(t *target) *cobra.Command {
	cmd := &cobra.Command{
		Use: "session", Short: "See who is here, since when, and why who left", GroupID: "see",
		Long: `A session is the state of one MQTT client id. The ledger numbers its
comings and goings; the number never resets.`,
	}
	t.flags(cmd)
	cmd.AddCommand(sessionList(t), sessionShow(t), sessionHistory(t), sessionEnd(t), sessionRefusals(t))
	return cmd
}

func sessionList(t *target) *cobra.Command {
	var connected, gone, asJSON bool
	var limit int
	var after string
	cmd := &cobra.Command{
		Use: "list", Short: "List sessions by name", Args: arguments(),
		Example: `  rollcall session list --connected
  rollcall session list --after thermostat-0500 --limit 50`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if connected && gone {
				return usagef("--connected and --gone exclude each other")
			}
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			q := url.Values{"limit": {strconv.Itoa(limit)}}
			if connected || gone {
				q.Set("connected", strconv.FormatBool(connected))
			}
			if after != "" {
				q.Set("after", after)
			}
			var page struct {
				Value     []sessionJSON `json:"value"`
				NextAfter string        `json:"nextAfter,omitempty"`
			}
			if err := a.get(cmd.Context(), "/rollcall/v1/sessions?"+q.Encode(), &page); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), page)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "SESSION\tOWNER\tSTATE\tNUMBER\tSINCE\tFROM\tLAST REASON")
			for _, s := range page.Value {
				state := "gone"
				if s.Connected {
					state = "connected"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", s.Session, s.Owner, state, s.Number, ago(s.Since), s.Remote, s.reason())
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if page.NextAfter != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "more: rollcall session list --after %q\n", page.NextAfter)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&connected, "connected", false, "only sessions that are connected")
	f.BoolVar(&gone, "gone", false, "only sessions that are not")
	f.IntVar(&limit, "limit", 100, "at most so many (1 to 1000)")
	f.StringVar(&after, "after", "", "only `names` after this one")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func sessionShow(t *target) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show SESSION", Short: "Show where a session stands, and why it last ended", Args: arguments("SESSION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			var s sessionJSON
			if err := a.get(cmd.Context(), "/rollcall/v1/sessions/"+url.PathEscape(args[0]), &s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			state := "not connected"
			if s.Connected {
				state = "connected"
			}
			fmt.Fprintf(w, "session\t%s\n", s.Session)
			fmt.Fprintf(w, "owner\t%s (%s)\n", s.Owner, s.Method)
			fmt.Fprintf(w, "state\t%s since %s (%s)\n", state, s.Since.Format(time.RFC3339Nano), ago(s.Since))
			fmt.Fprintf(w, "number\t%d\n", s.Number)
			fmt.Fprintf(w, "connection\t%s over %s from %s\n", s.Protocol, s.Transport, s.Remote)
			fmt.Fprintf(w, "event\t%s\n", s.EventID)
			if d := s.LastDisconnect; d != nil {
				fmt.Fprintf(w, "last reason\t%s\n", d.Reason)
				fmt.Fprintf(w, "evidence\t%s\n", d.Evidence)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// String renders evidence as one line.
func (e evidenceJSON) String() string {
	s := e.Kind
	if e.Packet != "" {
		s += " " + e.Packet
	}
	if e.Code != nil {
		s += fmt.Sprintf(" 0x%02x", *e.Code)
	}
	return s + ": " + e.Detail
}

func sessionHistory(t *target) *cobra.Command {
	var asJSON, oldest bool
	var limit int
	var from uint64
	cmd := &cobra.Command{
		Use: "history SESSION", Short: "Print the ledger's pages of a session, newest first", Args: arguments("SESSION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			q := url.Values{"limit": {strconv.Itoa(limit)}, "order": {"newest"}}
			if oldest {
				q.Set("order", "oldest")
			}
			if from > 0 {
				q.Set("from", strconv.FormatUint(from, 10))
			}
			var page struct {
				Value    []transitionJSON `json:"value"`
				NextFrom uint64           `json:"nextFrom,omitempty"`
			}
			if err := a.get(cmd.Context(), "/rollcall/v1/sessions/"+url.PathEscape(args[0])+"/history?"+q.Encode(), &page); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), page)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "NUMBER\tKIND\tTIME\tFROM\tREASON\tEVIDENCE")
			for _, tr := range page.Value {
				reason, evidence := "", ""
				if tr.Evidence != nil {
					reason, evidence = tr.Reason, tr.Evidence.String()
				}
				if tr.Skipped > 0 {
					evidence = strings.TrimSpace(fmt.Sprintf("%s (a part of the store was lost: %d numbers before this one were skipped)", evidence, tr.Skipped))
				}
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", tr.Number, tr.Kind, tr.Time.Format("2006-01-02T15:04:05.0000000Z"), tr.Remote, reason, evidence)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if page.NextFrom > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "more: rollcall session history %q --from %d\n", args[0], page.NextFrom)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&limit, "limit", 100, "at most so many transitions (1 to 1000)")
	f.Uint64Var(&from, "from", 0, "begin with this `number`")
	f.BoolVar(&oldest, "oldest", false, "oldest first")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func sessionEnd(t *target) *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "end SESSION", Short: "End a connected session (ServerInitiatedDisconnect)", Args: arguments("SESSION"),
		Long: `End the connection of a session. The client is told with DISCONNECT 0x98
(administrative action) where its MQTT version has that; the ledger and the event
say ServerInitiatedDisconnect. Nothing keeps the client from connecting again;
to lock it out, disable it: rollcall client update NAME --state Disabled.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			_, err = a.do(cmd.Context(), http.MethodPost, "/rollcall/v1/sessions/"+url.PathEscape(args[0])+"/end", map[string]string{"why": why}, nil)
			return err
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "`text` for the ledger")
	return cmd
}
