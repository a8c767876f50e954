package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"rollcall/internal/event"
)

// cloudEvent is what people want to see of an event.
type cloudEvent struct {
	ID      string     `json:"id"`
	Time    event.Time `json:"time"`
	Type    string     `json:"type"`
	Subject string     `json:"subject"`
	Data    struct {
		Number uint64 `json:"sequenceNumber"`
		Reason string `json:"disconnectionReason"`
		State  string `json:"state"`
	} `json:"data"`
}

// decode reads an event of either schema.
func (e *cloudEvent) decode(raw []byte) error {
	var grid struct {
		Type string     `json:"eventType"`
		Time event.Time `json:"eventTime"`
	}
	if err := json.Unmarshal(raw, e); err != nil {
		return err
	}
	if e.Type == "" {
		if err := json.Unmarshal(raw, &grid); err != nil {
			return err
		}
		e.Type, e.Time = grid.Type, grid.Time
	}
	return nil
}

// line renders an event on one line: what, who, number, reason.
func (e *cloudEvent) line() string {
	kind := e.Type[strings.LastIndexByte(e.Type, '.')+1:]
	kind = strings.TrimPrefix(strings.TrimPrefix(kind, "MQTTClient"), "Session")
	s := fmt.Sprintf("%s  %-16s %s", e.Time.Format("15:04:05.000"), kind, e.Subject)
	if e.Data.Number > 0 {
		s += fmt.Sprintf("  #%d", e.Data.Number)
	}
	if e.Data.Reason != "" {
		s += "  " + e.Data.Reason
	}
	if e.Data.State != "" {
		s += "  " + e.Data.State
	}
	return s
}

func newTail(t *target) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "tail", Short: "Print events as they happen", Args: arguments(), GroupID: "see",
		Long: `Print every event as it is committed, until interrupted, whether or not anyone
subscribed to it. It is a live view: what happens while it does not run, or
faster than it can print, is not shown; the ledger has it all.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			res, err := a.send(cmd.Context(), http.MethodGet, "/rollcall/v1/events/tail", nil)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			if res.StatusCode != http.StatusOK {
				text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
				return answer(res.StatusCode, text)
			}
			err = follow(res.Body, cmd.OutOrStdout(), asJSON)
			if errors.Is(cmd.Context().Err(), context.Canceled) {
				return nil
			}
			return err
		},
	}
	t.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print CloudEvents, one a line")
	return cmd
}

// follow prints a stream of events until it ends.
func follow(r io.Reader, w io.Writer, asJSON bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		text := lines.Text()
		if text == "" { // a heartbeat
			continue
		}
		if !asJSON {
			var e cloudEvent
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				return fmt.Errorf("the server sent something else than an event: %w", err)
			}
			text = e.line()
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errors.New("the server ended the stream")
}
