package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"rollcall/internal/app"
	"rollcall/internal/audit"
	"rollcall/internal/config"
)

func newDemo() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use: "demo", Short: "Show the whole thing, with nothing to set up", Args: arguments(), GroupID: "run",
		Long: `Start a server in a temporary directory with a webhook receiver beside it,
register clients, and let five devices on real connections come, publish, drop
dead, be taken over and be disabled. Every webhook POST is printed as it
arrives. At the end what the receiver got is checked: each session's numbers
alternate and pair (P1), and every disconnect has a reason. The exit code is 1 if
that does not hold.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd.Context(), cmd.OutOrStdout(), keep)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "stay up at the end, until interrupted")
	return cmd
}

// demoTimeout bounds the demo as a whole.
const demoTimeout = 2 * time.Minute

func demo(ctx context.Context, out io.Writer, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "rollcall-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cfg := config.Default(config.Open)
	cfg.Data = filepath.Join(dir, "data")
	cfg.Listen = config.Listen{MQTT: []string{"127.0.0.1:0"}, MQTTS: []string{"127.0.0.1:0"}, HTTP: []string{"127.0.0.1:0"}}
	if err := cfg.Validate(); err != nil {
		return err
	}
	s, err := app.Open(ctx, cfg, app.Options{Log: slog.New(slog.DiscardHandler), Version: buildVersion()})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	up := make(chan struct{})
	done := make(chan error, 1)
	go func() { // joined below
		done <- s.Run(ctx, func() error { close(up); return nil })
	}()
	select {
	case <-up:
	case err := <-done:
		return err
	}
	info := s.Info(os.Getpid())
	if err := info.WriteInfo(app.ServerFile(cfg.Data)); err != nil {
		return err
	}
	verdict := play(ctx, out, s, info, keep)
	stop()
	return errors.Join(verdict, <-done)
}

// play runs the scenes against a server that is up.
func play(ctx context.Context, out io.Writer, s *app.Server, info app.ReadyInfo, keep bool) error {
	short, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	rc, err := newReceiver(out)
	if err != nil {
		return err
	}
	defer rc.close()
	say := func(format string, args ...any) { rc.print("\n"+format+"\n", args...) }
	say("Rollcall is up: MQTT %s, TLS %s, HTTP %s; a webhook receiver listens on %s.",
		info.MQTT[0], info.MQTTS[0], info.HTTP[0], rc.url())
	t := &target{data: s.Data()}
	a, err := t.open(short)
	if err != nil {
		return err
	}
	say("The receiver subscribes; its endpoint is asked whether it wants the events.")
	if err := subscribe(short, a, rc); err != nil {
		return err
	}
	st := &stage{ctx: short, info: info, api: a, rc: rc, say: say}
	if err := st.play(); err != nil {
		return err
	}
	if err := rc.settle(short, st.expected); err != nil {
		return err
	}
	err = summary(rc, st)
	if keep {
		say("Staying up. The data directory is %s; try:\n  rollcall --help\n  rollcall session list --data %s\nCtrl-C ends it.", s.Data(), s.Data())
		<-ctx.Done()
	}
	return err
}

func subscribe(ctx context.Context, a *api, rc *receiver) error {
	body := map[string]any{"properties": map[string]any{
		"destination":         map[string]any{"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": rc.url()}},
		"eventDeliverySchema": "CloudEventSchemaV1_0",
	}}
	if _, err := a.do(ctx, http.MethodPut, a.arm(armSubscription("demo")), body, nil); err != nil {
		return err
	}
	for told := 0; ; {
		var s subscriptionJSON
		if err := a.get(ctx, fmt.Sprintf("%s/demo?watch=%d", sideSubscriptions, told), &s); err != nil {
			return err
		}
		for ; told < len(s.Narration); told++ {
			rc.print("  %s\n", s.Narration[told].Text)
		}
		switch s.State {
		case "Succeeded":
			return nil
		case "Failed":
			return fmt.Errorf("the receiver's subscription failed: %+v", s.Failure)
		}
	}
}

// receiver is a webhook endpoint that prints what it gets.
type receiver struct {
	ln  net.Listener
	srv *http.Server

	mu       sync.Mutex // guards what follows, and writes to out
	out      io.Writer
	got      []audit.Delivery
	sessions int           // session events among got
	more     chan struct{} // closed at the next event
}

func newReceiver(out io.Writer) (*receiver, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &receiver{ln: ln, out: out, more: make(chan struct{})}
	r.srv = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	go r.srv.Serve(ln) // ends with close
	return r, nil
}

func (r *receiver) url() string { return "http://" + r.ln.Addr().String() + "/events" }
func (r *receiver) close()      { r.srv.Close() }

func (r *receiver) print(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, format, args...)
}

// ServeHTTP consents to the handshake and takes events.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if consent(w, req) {
		return
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, 2<<20))
	var e cloudEvent
	if err != nil || json.Unmarshal(body, &e) != nil {
		http.Error(w, "not an event", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, audit.Delivery{
		At: time.Now(), Subscription: req.Header.Get("aeg-subscription-name"),
		OutputID: req.Header.Get("aeg-output-event-id"), Event: body,
	})
	if e.Data.Number > 0 {
		r.sessions++
	}
	fmt.Fprintf(r.out, "  POST %s\n", e.line())
	close(r.more)
	r.more = make(chan struct{})
}

// settle waits until the receiver has got n session events.
func (r *receiver) settle(ctx context.Context, n int) error {
	for {
		r.mu.Lock()
		have, more := r.sessions, r.more
		r.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("the receiver got %d session events, %d were expected: %w", have, n, context.Cause(ctx))
		}
	}
}

// summary checks P1 on what the receiver got, and prints the verdict.
func summary(rc *receiver, st *stage) error {
	rc.mu.Lock()
	in := audit.Input{Deliveries: rc.got, Sightings: st.seen}
	rc.mu.Unlock()
	rep := audit.Check(in)
	rc.print("\n%d POSTs, %d session events of %d sessions; reasons:\n", rep.Deliveries, rep.Events, rep.Sessions)
	for _, reason := range sortedKeys(rep.Reasons) {
		rc.print("  %-28s %d\n", reason, rep.Reasons[reason])
	}
	if len(rep.Violations) == 0 {
		rc.print("P1 holds: every session's Connected and Disconnected alternate, pair and rise, each with its reason.\n")
		return nil
	}
	for _, v := range rep.Violations {
		rc.print("  %s\n", v)
	}
	return fmt.Errorf("%d violations", len(rep.Violations))
}
