package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rollcall/internal/event"
)

// sessionJSON is a session as the API shows it.
type sessionJSON struct {
	Session        string          `json:"session"`
	Owner          string          `json:"owner"`
	Connected      bool            `json:"connected"`
	Number         uint64          `json:"number"`
	Since          event.Time      `json:"since"`
	Protocol       string          `json:"protocol"`
	Transport      string          `json:"transport"`
	Remote         string          `json:"remote"`
	Method         string          `json:"method"`
	Node           string          `json:"node"`
	Boot           uint64          `json:"boot"`
	EventID        string          `json:"eventId"`
	LastDisconnect *disconnectJSON `json:"lastDisconnect,omitempty"`

	// Of one session, while it is connected or stored.
	Subscriptions *int        `json:"subscriptions,omitempty"`
	Queue         *queueJSON  `json:"queue,omitempty"`
	Stored        *storedJSON `json:"stored,omitempty"`

	Filters []filterJSON `json:"-"`
}

type queueJSON struct {
	Messages int    `json:"messages"`
	Bytes    int64  `json:"bytes"`
	Dropped  uint64 `json:"dropped"`
}

type storedJSON struct {
	Owner         string      `json:"owner"`
	ExpirySeconds *uint32     `json:"expirySeconds,omitempty"`
	ExpiresAt     *event.Time `json:"expiresAt,omitempty"`
}

type filterJSON struct {
	Filter            string `json:"filter"`
	QoS               uint8  `json:"qos"`
	NoLocal           bool   `json:"noLocal,omitempty"`
	RetainAsPublished bool   `json:"retainAsPublished,omitempty"`
	Identifier        uint32 `json:"identifier,omitempty"`
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
	Time      event.Time    `json:"time"`
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
	cmd.AddCommand(sessionList(t), sessionShow(t), sessionHistory(t), sessionSubscriptions(t), sessionEnd(t), sessionDelete(t), sessionRefusals(t))
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

// shownSubscriptions is how many subscriptions session show prints.
const shownSubscriptions = 20

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
			if s.Subscriptions != nil && *s.Subscriptions > 0 {
				page, err := a.subscriptions(cmd.Context(), args[0], "", shownSubscriptions)
				if err != nil {
					return err
				}
				s.Filters = page.Value
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			state := "not connected"
			if s.Connected {
				state = "connected"
			}
			fmt.Fprintf(w, "session\t%s\n", s.Session)
			fmt.Fprintf(w, "owner\t%s (%s)\n", s.Owner, s.Method)
			fmt.Fprintf(w, "state\t%s since %s (%s)\n", state, event.FormatTime(s.Since.Time), ago(s.Since))
			fmt.Fprintf(w, "number\t%d\n", s.Number)
			fmt.Fprintf(w, "connection\t%s over %s from %s\n", s.Protocol, s.Transport, s.Remote)
			fmt.Fprintf(w, "event\t%s\n", s.EventID)
			if d := s.LastDisconnect; d != nil {
				fmt.Fprintf(w, "last reason\t%s\n", d.Reason)
				fmt.Fprintf(w, "evidence\t%s\n", d.Evidence)
			}
			s.printBroker(w)
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printBroker prints what the broker has of the session, if anything.
func (s *sessionJSON) printBroker(w io.Writer) {
	if s.Queue == nil || s.Subscriptions == nil {
		fmt.Fprintf(w, "stored\tnothing\n")
		return
	}
	switch st := s.Stored; {
	case st == nil:
		fmt.Fprintf(w, "stored\tnothing: it ends with its connection\n")
	case st.ExpiresAt != nil:
		fmt.Fprintf(w, "stored\tfor %s, until %s\n", st.Owner, st.ExpiresAt.Format(time.RFC3339))
	case st.ExpirySeconds != nil:
		fmt.Fprintf(w, "stored\tfor %s, for %s after its connection\n", st.Owner, time.Duration(*st.ExpirySeconds)*time.Second)
	default:
		fmt.Fprintf(w, "stored\tfor %s, without end\n", st.Owner)
	}
	fmt.Fprintf(w, "queue\t%d messages", s.Queue.Messages)
	if s.Stored != nil {
		fmt.Fprintf(w, ", %d bytes", s.Queue.Bytes)
	}
	if s.Queue.Dropped > 0 {
		fmt.Fprintf(w, "; %d dropped because it was full", s.Queue.Dropped)
	}
	fmt.Fprintf(w, "\nsubscriptions\t%d\n", *s.Subscriptions)
	for _, f := range s.Filters {
		fmt.Fprintf(w, "\t%s\n", f)
	}
	if n := *s.Subscriptions - len(s.Filters); n > 0 {
		fmt.Fprintf(w, "\tand %d more: rollcall session subscriptions %q\n", n, s.Session)
	}
}

// String renders a subscription as one line.
func (f filterJSON) String() string {
	s := fmt.Sprintf("%s (QoS %d", f.Filter, f.QoS)
	if f.NoLocal {
		s += ", no local"
	}
	if f.RetainAsPublished {
		s += ", retain as published"
	}
	if f.Identifier != 0 {
		s += fmt.Sprintf(", identifier %d", f.Identifier)
	}
	return s + ")"
}

// filterPage is a page of a session's subscriptions.
type filterPage struct {
	Value     []filterJSON `json:"value"`
	NextAfter string       `json:"nextAfter,omitempty"`
}

func (a *api) subscriptions(ctx context.Context, session, after string, limit int) (page filterPage, err error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		q.Set("after", after)
	}
	err = a.get(ctx, "/rollcall/v1/sessions/"+url.PathEscape(session)+"/subscriptions?"+q.Encode(), &page)
	return page, err
}

func sessionSubscriptions(t *target) *cobra.Command {
	var asJSON bool
	var limit int
	var after string
	cmd := &cobra.Command{
		Use: "subscriptions SESSION", Short: "List the subscriptions of a session that is connected or stored", Args: arguments("SESSION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			page, err := a.subscriptions(cmd.Context(), args[0], after, limit)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), page)
			}
			for _, f := range page.Value {
				fmt.Fprintln(cmd.OutOrStdout(), f)
			}
			if page.NextAfter != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "more: rollcall session subscriptions %q --after %q\n", args[0], page.NextAfter)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&after, "after", "", "only `filters` after this one")
	f.IntVar(&limit, "limit", 100, "at most so many (1 to 1000)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func sessionDelete(t *target) *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "delete SESSION", Short: "End a session with everything that is stored of it", Args: arguments("SESSION"),
		Long: `End a session, connected or not, with everything that the broker keeps of it:
subscriptions, messages that wait, packet identifiers. Its client id is free for
any client from then on. The ledger keeps its history. A Will that waits for its
delay is published.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			path := "/rollcall/v1/sessions/" + url.PathEscape(args[0])
			if why != "" {
				path += "?" + url.Values{"why": {why}}.Encode()
			}
			_, err = a.do(cmd.Context(), http.MethodDelete, path, nil, nil)
			return err
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "`text` for the ledger, if the session is connected")
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
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", tr.Number, tr.Kind, event.FormatTime(tr.Time.Time), tr.Remote, reason, evidence)
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
