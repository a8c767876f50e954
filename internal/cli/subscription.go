package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rollcall/internal/event"
	"rollcall/internal/fault"
)

// subscriptionJSON is an event subscription with what became of it.
type subscriptionJSON struct {
	Name            string      `json:"name"`
	ID              string      `json:"id"`
	State           string      `json:"state"`
	Paused          bool        `json:"paused"`
	EndpointBaseURL string      `json:"endpointBaseUrl"`
	Schema          string      `json:"schema"`
	Backlog         uint64      `json:"backlog"`
	OldestPending   *event.Time `json:"oldestPending,omitempty"`
	LastError       *struct {
		Time    event.Time `json:"time"`
		Outcome string     `json:"outcome"`
		Status  int        `json:"status,omitempty"`
		Detail  string     `json:"detail,omitempty"`
	} `json:"lastError,omitempty"`
	Tally     json.RawMessage `json:"tally"`
	Narration []struct {
		Time event.Time `json:"time"`
		Text string     `json:"text"`
	} `json:"narration"`
	Failure *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"failure,omitempty"`
	DeadLetterDirectory string     `json:"deadLetterDirectory,omitempty"`
	Created             event.Time `json:"created"`
	Updated             event.Time `json:"updated"`
}

func (s subscriptionJSON) state() string {
	if s.Paused {
		return s.State + ", paused"
	}
	return s.State
}

// exists says what may be done instead of creating s once more.
func (s subscriptionJSON) exists() error {
	if s.State != "Failed" {
		return fmt.Errorf("event subscription %s exists; change it with rollcall event-subscription update", s.Name)
	}
	why := ""
	if s.Failure != nil {
		why = ": " + s.Failure.Message
	}
	return fmt.Errorf("event subscription %[1]s exists, and its endpoint has not consented%[2]s\n"+
		"To ask the endpoint again, which changes nothing else: rollcall event-subscription update %[1]s --endpoint URL", s.Name, why)
}

func (s subscriptionJSON) lastError() string {
	e := s.LastError
	if e == nil {
		return "-"
	}
	text := e.Outcome
	if e.Status != 0 {
		text += fmt.Sprintf(" %d", e.Status)
	}
	return text + " " + ago(e.Time)
}

const sideSubscriptions = "/rollcall/v1/eventSubscriptions"

func armSubscription(name string) string {
	return "/providers/Microsoft.EventGrid/eventSubscriptions/" + url.PathEscape(name)
}

func newSubscription(t *target) *cobra.Command {
	cmd := &cobra.Command{
		Use: "event-subscription", Aliases: []string{"sub", "subscription"}, GroupID: "set",
		Short: "Have events delivered to webhooks",
		Long: `An event subscription delivers events to a webhook: as CloudEvents 1.0 or in
the Event Grid schema, filtered, with retries, in no particular order. When one is
created, its endpoint is asked whether it wants the events.`,
	}
	t.flags(cmd)
	cmd.AddCommand(subCreate(t), subUpdate(t), subList(t), subShow(t),
		subAct(t, "pause", "Hold deliveries back; events accumulate, their time to live goes on"),
		subAct(t, "resume", "Deliver what accumulated"), subDelete(t))
	return cmd
}

// subFlags are the properties that create and update take.
type subFlags struct {
	endpoint, schema, begins, ends, deadLetter string
	types, labels, headers                     []string
	caseSensitive                              bool
	maxEvents, batchKB, attempts, ttl          int
	expires                                    string
	wait                                       time.Duration
}

func (f *subFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.endpoint, "endpoint", "", "`URL` of the webhook")
	fl.StringVar(&f.schema, "schema", "cloudevents", "schema of deliveries: cloudevents or eventgrid (`schema`)")
	fl.StringArrayVar(&f.types, "type", nil, "only events of `TYPE` (the last part, such as MQTTClientSessionConnected, will do); repeatable")
	fl.StringVar(&f.begins, "subject-begins-with", "", "only events whose subject begins with `text`")
	fl.StringVar(&f.ends, "subject-ends-with", "", "only events whose subject ends with `text`")
	fl.BoolVar(&f.caseSensitive, "subject-case-sensitive", false, "compare subjects with regard to case")
	fl.IntVar(&f.maxEvents, "max-events-per-batch", 1, "events in one request, 1 to 5000")
	fl.IntVar(&f.batchKB, "preferred-batch-kb", 64, "size that a batch should have, 1 to 1024")
	fl.IntVar(&f.attempts, "max-attempts", 30, "delivery attempts for an event, 1 to 30")
	fl.IntVar(&f.ttl, "ttl", 1440, "`minutes` that an event is worth delivering, 1 to 1440")
	fl.StringVar(&f.deadLetter, "dead-letter", "", "`directory`, below the server's dead-letter directory, for events that are given up")
	fl.StringArrayVar(&f.headers, "header", nil, "send this header with every delivery, `NAME=VALUE`; NAME:=FIELD takes the value from a field of the event; repeatable")
	fl.StringArrayVar(&f.labels, "label", nil, "free `text`; repeatable")
	fl.StringVar(&f.expires, "expires", "", "remove the subscription at this `time` (RFC 3339)")
	fl.DurationVar(&f.wait, "wait", 30*time.Second, "how long to wait for the endpoint's consent; 0 returns at once")
}

// properties returns what the flags that were given say, all of them if every.
func (f *subFlags) properties(cmd *cobra.Command, every bool) (map[string]any, error) {
	given := func(names ...string) bool {
		for _, n := range names {
			if every || cmd.Flags().Changed(n) {
				return true
			}
		}
		return false
	}
	p := map[string]any{}
	if given("endpoint", "max-events-per-batch", "preferred-batch-kb", "header") {
		headers, err := f.attributes()
		if err != nil {
			return nil, err
		}
		d := map[string]any{}
		if given("endpoint") {
			d["endpointUrl"] = f.endpoint
		}
		if given("max-events-per-batch") {
			d["maxEventsPerBatch"] = f.maxEvents
		}
		if given("preferred-batch-kb") {
			d["preferredBatchSizeInKilobytes"] = f.batchKB
		}
		if given("header") {
			d["deliveryAttributeMappings"] = headers
		}
		p["destination"] = map[string]any{"endpointType": "WebHook", "properties": d}
	}
	if given("schema") {
		switch f.schema {
		case "cloudevents":
			p["eventDeliverySchema"] = "CloudEventSchemaV1_0"
		case "eventgrid":
			p["eventDeliverySchema"] = "EventGridSchema"
		default:
			return nil, usagef("--schema: %q is neither cloudevents nor eventgrid", f.schema)
		}
	}
	if given("type", "subject-begins-with", "subject-ends-with", "subject-case-sensitive") {
		filter := map[string]any{}
		if given("subject-begins-with") {
			filter["subjectBeginsWith"] = f.begins
		}
		if given("subject-ends-with") {
			filter["subjectEndsWith"] = f.ends
		}
		if given("subject-case-sensitive") {
			filter["isSubjectCaseSensitive"] = f.caseSensitive
		}
		if len(f.types) > 0 {
			types := make([]string, len(f.types))
			for i, t := range f.types {
				if types[i] = t; !strings.Contains(t, ".") {
					types[i] = "Microsoft.EventGrid." + t
				}
			}
			filter["includedEventTypes"] = types
		}
		p["filter"] = filter
	}
	if given("max-attempts", "ttl") {
		retry := map[string]any{}
		if given("max-attempts") {
			retry["maxDeliveryAttempts"] = f.attempts
		}
		if given("ttl") {
			retry["eventTimeToLiveInMinutes"] = f.ttl
		}
		p["retryPolicy"] = retry
	}
	if f.deadLetter != "" || cmd.Flags().Changed("dead-letter") {
		p["rollcall"] = map[string]any{"deadLetterDirectory": f.deadLetter}
	}
	if len(f.labels) > 0 {
		p["labels"] = f.labels
	}
	if f.expires != "" {
		p["expirationTimeUtc"] = f.expires
	}
	return p, nil
}

func (f *subFlags) attributes() ([]map[string]any, error) {
	var all []map[string]any
	for _, h := range f.headers {
		if name, field, ok := strings.Cut(h, ":="); ok {
			all = append(all, map[string]any{"name": name, "type": "Dynamic", "properties": map[string]any{"sourceField": field}})
			continue
		}
		name, value, ok := strings.Cut(h, "=")
		if !ok {
			return nil, usagef("--header %s: write NAME=VALUE or NAME:=FIELD", h)
		}
		all = append(all, map[string]any{"name": name, "type": "Static", "properties": map[string]any{"value": value, "isSecret": false}})
	}
	return all, nil
}

func subCreate(t *target) *cobra.Command {
	var f subFlags
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a subscription and tell what its endpoint says", Args: arguments("NAME"),
		Example: `  rollcall event-subscription create hook --endpoint https://example.com/events
  rollcall event-subscription create gone --endpoint http://127.0.0.1:9000/ \
    --type MQTTClientSessionDisconnected --subject-begins-with clients/pump --dead-letter pumps`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.endpoint == "" {
				return usagef("--endpoint is missing")
			}
			p, err := f.properties(cmd, true)
			if err != nil {
				return err
			}
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			var have subscriptionJSON
			err = a.get(cmd.Context(), sideSubscriptions+"/"+url.PathEscape(args[0]), &have)
			if err == nil {
				return have.exists()
			}
			if e, ok := fault.As(err); !ok || e.Code != fault.NotFound {
				return err
			}
			if _, err := a.do(cmd.Context(), http.MethodPut, a.arm(armSubscription(args[0])), map[string]any{"properties": p}, nil); err != nil {
				return err
			}
			return narrate(cmd, a, args[0], f.wait)
		},
	}
	f.add(cmd)
	return cmd
}

func subUpdate(t *target) *cobra.Command {
	var f subFlags
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Change a subscription", Args: arguments("NAME"),
		Long: `Change what the given flags name. A new endpoint is asked for its consent
first; until then the old one stays in effect. Destination, schema, batching and
limits apply to pending events too; a changed filter applies to events accepted
afterwards.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			p, err := f.properties(cmd, false)
			if err != nil {
				return err
			}
			if len(p) == 0 {
				return usagef("nothing to change: give a flag; see %s --help", cmd.CommandPath())
			}
			if _, err := a.do(cmd.Context(), http.MethodPatch, a.arm(armSubscription(args[0])), p, nil); err != nil {
				return err
			}
			return narrate(cmd, a, args[0], f.wait)
		},
	}
	f.add(cmd)
	return cmd
}

// narrate prints what happens while the endpoint is asked, until it is
// decided or wait is over.
func narrate(cmd *cobra.Command, a *api, name string, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), wait+time.Second)
	defer cancel()
	end := time.Now().Add(wait)
	told := 0
	for {
		var s subscriptionJSON
		path := fmt.Sprintf("%s/%s?watch=%d", sideSubscriptions, url.PathEscape(name), told)
		if told == 0 {
			path = sideSubscriptions + "/" + url.PathEscape(name)
		}
		if err := a.get(ctx, path, &s); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: not decided yet; rollcall event-subscription show %s tells more\n", name, name)
				return nil
			}
			return err
		}
		for ; told < len(s.Narration); told++ {
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", s.Narration[told].Time.Format("15:04:05.000"), s.Narration[told].Text)
		}
		switch {
		case s.State == "Succeeded":
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", name, s.state())
			return nil
		case s.State == "Failed":
			if s.Failure != nil {
				return errors.New(s.Failure.Message)
			}
			return errors.New("the endpoint did not consent")
		case time.Now().After(end):
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", name, s.state())
			return nil
		}
	}
}

func subList(t *target) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List subscriptions with backlog, oldest age and last error", Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			var all struct {
				Value []subscriptionJSON `json:"value"`
			}
			if err := a.get(cmd.Context(), sideSubscriptions, &all); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), all.Value)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATE\tENDPOINT\tBACKLOG\tOLDEST\tLAST ERROR")
			for _, s := range all.Value {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", s.Name, s.state(), s.EndpointBaseURL, s.Backlog, oldest(s.OldestPending), s.lastError())
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func oldest(t *event.Time) string {
	if t == nil {
		return "-"
	}
	return ago(*t)
}

func subShow(t *target) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show a subscription: state, backlog, counts, what its endpoint said", Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			var s subscriptionJSON
			if err := a.get(cmd.Context(), sideSubscriptions+"/"+url.PathEscape(args[0]), &s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			return showSubscription(cmd.OutOrStdout(), s)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showSubscription(out io.Writer, s subscriptionJSON) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "name\t%s\n", s.Name)
	fmt.Fprintf(w, "state\t%s\n", s.state())
	if s.Failure != nil {
		fmt.Fprintf(w, "failure\t%s: %s\n", s.Failure.Code, s.Failure.Message)
	}
	fmt.Fprintf(w, "endpoint\t%s\n", s.EndpointBaseURL)
	fmt.Fprintf(w, "schema\t%s\n", s.Schema)
	if s.DeadLetterDirectory != "" {
		fmt.Fprintf(w, "dead-letter\t%s\n", s.DeadLetterDirectory)
	}
	fmt.Fprintf(w, "backlog\t%d, oldest %s\n", s.Backlog, oldest(s.OldestPending))
	last := s.lastError()
	if s.LastError != nil && s.LastError.Detail != "" {
		last += ": " + s.LastError.Detail
	}
	fmt.Fprintf(w, "last error\t%s\n", last)
	var tally map[string]any
	if err := json.Unmarshal(s.Tally, &tally); err == nil {
		for _, k := range []string{"matched", "delivered", "deadLettered", "retrying"} {
			if v, ok := tally[k]; ok {
				fmt.Fprintf(w, "%s\t%v\n", k, v)
			}
		}
		for _, k := range []string{"dropped", "failedAttempts"} {
			counts, _ := tally[k].(map[string]any)
			names := make([]string, 0, len(counts))
			for n := range counts {
				names = append(names, n)
			}
			sort.Strings(names)
			for _, n := range names {
				fmt.Fprintf(w, "%s\t%s: %v\n", k, n, counts[n])
			}
		}
	}
	for i, step := range s.Narration {
		label := ""
		if i == 0 {
			label = "handshake"
		}
		fmt.Fprintf(w, "%s\t%s  %s\n", label, step.Time.Format(time.RFC3339), step.Text)
	}
	return w.Flush()
}

func subAct(t *target, verb, short string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			_, err = a.do(cmd.Context(), http.MethodPost, sideSubscriptions+"/"+url.PathEscape(args[0])+"/"+verb, nil, nil)
			return err
		},
	}
}

func subDelete(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a subscription; its pending events are dropped and counted", Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			status, err := a.do(cmd.Context(), http.MethodDelete, a.arm(armSubscription(args[0])), nil, nil)
			if err == nil && status == http.StatusNoContent {
				fmt.Fprintf(cmd.ErrOrStderr(), "there was no event subscription %s\n", args[0])
			}
			return err
		},
	}
}
