// Command rollcall-audit checks what Rollcall promises about presence against
// what a receiver of events got and what devices saw.
//
//	rollcall-audit -deliveries received.jsonl [-sightings devices.jsonl] [-skips skips.jsonl]
//
// Each line of -deliveries is an object with at, subscription, outputId and
// event; each line of -sightings one with session, sent, acked, closed,
// goodbye and reason; each line of -skips one with session, number and skipped,
// as a session's history has them where a part of the store was lost. It prints a report and exits with 1 if it found a
// violation, with 2 if it could not judge.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"rollcall/internal/audit"
)

func main() {
	deliveries := flag.String("deliveries", "", "file of what the receiver got, one JSON object a line")
	sightings := flag.String("sightings", "", "file of what devices saw, one JSON object a line")
	skips := flag.String("skips", "", "file of the numbers that sessions skipped after a loss, one JSON object a line")
	subs := flag.String("subscriptions", "", "comma-separated names that must each have got every event")
	slack := flag.Duration("slack", 0, "how far the clocks of devices and server may differ (default 50ms)")
	flag.Parse()
	if *deliveries == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	in := audit.Input{Slack: *slack}
	if *subs != "" {
		in.Subscriptions = strings.Split(*subs, ",")
	}
	err := lines(*deliveries, &in.Deliveries)
	if *sightings != "" {
		err = errors.Join(err, lines(*sightings, &in.Sightings))
	}
	if *skips != "" {
		err = errors.Join(err, lines(*skips, &in.Skips))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rollcall-audit:", err)
		os.Exit(2)
	}
	r := audit.Check(in)
	for _, v := range r.Violations {
		fmt.Println(v)
	}
	fmt.Printf("%d deliveries, %d events, %d sessions, %d connection attempts: %d violations\n",
		r.Deliveries, r.Events, r.Sessions, r.Sightings, len(r.Violations))
	if len(r.Violations) > 0 {
		os.Exit(1)
	}
}

// lines reads one JSON object a line.
func lines[T any](file string, into *[]T) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	dec := json.NewDecoder(bufio.NewReader(f))
	for n := 1; ; n++ {
		var v T
		if err := dec.Decode(&v); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: object %d: %w", file, n, err)
		}
		*into = append(*into, v)
	}
}
