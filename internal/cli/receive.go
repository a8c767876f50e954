package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

func newReceive() *cobra.Command {
	var addr string
	var asJSON bool
	var status int
	cmd := &cobra.Command{
		Use: "receive", Short: "Be a webhook: print what is delivered", Args: arguments(), GroupID: "see",
		Long: `Listen as a webhook endpoint that consents to both validation handshakes, and
print every event that is delivered, in either schema, one a line. It is for
trying things out; --status makes it fail, to see retries and dead-letters.`,
		Example: `  rollcall receive --listen 127.0.0.1:9000
  rollcall event-subscription create hook --endpoint http://127.0.0.1:9000/events`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if status < 200 || status > 599 {
				return usagef("--status: %d is not between 200 and 599", status)
			}
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				return err
			}
			h := &printer{out: cmd.OutOrStdout(), asJSON: asJSON, status: status}
			srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
			fmt.Fprintf(cmd.ErrOrStderr(), "listening on http://%s/\n", ln.Addr())
			done := make(chan error, 1)
			go func() { done <- srv.Serve(ln) }()
			select {
			case <-cmd.Context().Done():
				err := srv.Close()
				<-done
				return err
			case err := <-done:
				return err
			}
		},
	}
	cmd.Flags().StringVar(&addr, "listen", "127.0.0.1:9000", "listen on `address`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print events as they came, one a line")
	cmd.Flags().IntVar(&status, "status", http.StatusOK, "answer deliveries with this `status`")
	return cmd
}

// printer is a webhook endpoint that prints.
type printer struct {
	asJSON bool
	status int

	mu  sync.Mutex // guards out
	out io.Writer
}

// ServeHTTP implements http.Handler.
func (p *printer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if consent(w, r) {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 8<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	events, err := split(body)
	if err != nil {
		http.Error(w, "post events", http.StatusBadRequest)
		return
	}
	if r.Header.Get("aeg-event-type") == "SubscriptionValidation" {
		answerValidation(w, events)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, raw := range events {
		line := string(raw)
		if !p.asJSON {
			var e cloudEvent
			if err := e.decode(raw); err != nil {
				continue
			}
			line = fmt.Sprintf("%s  %s attempt %s", e.line(), r.Header.Get("aeg-subscription-name"), r.Header.Get("aeg-delivery-count"))
		}
		fmt.Fprintln(p.out, line)
	}
	w.WriteHeader(p.status)
}

// consent answers the CloudEvents handshake (webhook specification 1.0.2,
// section 4) and reports whether the request was one.
func consent(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodOptions {
		return false
	}
	w.Header().Set("Allow", "POST")
	w.Header().Set("WebHook-Allowed-Origin", r.Header.Get("WebHook-Request-Origin"))
	w.Header().Set("WebHook-Allowed-Rate", "*")
	return true
}

// answerValidation answers the handshake of the Event Grid schema.
func answerValidation(w http.ResponseWriter, events []json.RawMessage) {
	var e struct {
		Data struct {
			Code string `json:"validationCode"`
		} `json:"data"`
	}
	if len(events) != 1 || json.Unmarshal(events[0], &e) != nil || e.Data.Code == "" {
		http.Error(w, "no validation event", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": e.Data.Code}) // the peer may be gone
}

// split returns the events of a body: one object, or an array.
func split(body []byte) ([]json.RawMessage, error) {
	body = bytes.TrimSpace(body)
	if !json.Valid(body) {
		return nil, errors.New("not JSON")
	}
	if body[0] != '[' {
		return []json.RawMessage{body}, nil
	}
	var all []json.RawMessage
	err := json.Unmarshal(body, &all)
	return all, err
}
