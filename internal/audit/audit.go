// Package audit checks, from the outside, what Rollcall promises about
// presence. It takes what a receiver of events got and what devices saw, and
// shares no code with the server: it knows the documented events and MQTT's
// CONNACK, nothing else.
package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// Delivery is one event in one request that a receiver answered with success.
type Delivery struct {
	At           time.Time       `json:"at"`                 // when it arrived
	Subscription string          `json:"subscription"`       // from the delivery headers
	OutputID     string          `json:"outputId,omitempty"` // empty: unknown, as for events of a batch
	Event        json.RawMessage `json:"event"`              // as delivered, CloudEvents 1.0 or Event Grid schema
}

// Sighting is what one device saw of one connection attempt.
type Sighting struct {
	Session string    `json:"session"`
	Sent    time.Time `json:"sent"`             // when it sent CONNECT
	Acked   time.Time `json:"acked,omitzero"`   // when a CONNACK of success came; zero: none did
	Closed  time.Time `json:"closed,omitzero"`  // when it saw or caused the end; zero: still connected
	Goodbye bool      `json:"goodbye"`          // it sent DISCONNECT
	Reason  string    `json:"reason,omitempty"` // the only acceptable reason, where the device can know
}

// Input is everything there is to judge.
type Input struct {
	Deliveries []Delivery
	Sightings  []Sighting
	// Subscriptions that must each have got every event. Empty: whichever
	// occur in Deliveries.
	Subscriptions []string
	// FirstNumber is the number that sessions begin with; 0: 1.
	FirstNumber uint64
	// Skips are the numbers that sessions passed over, as their histories say:
	// a part of the store was lost.
	Skips []Skip
	// Slack is how far the clocks of devices and server may differ. Default
	// 50 ms.
	Slack time.Duration
}

// Skip says that a session passed over the Skipped numbers before Number,
// because it cannot be known whether they were given out. Events with them may
// have been delivered, and need not alternate.
type Skip struct {
	Session string `json:"session"`
	Number  uint64 `json:"number"`
	Skipped uint64 `json:"skipped"`
}

// Violation is one broken promise.
type Violation struct {
	Promise string // "P1" to "P5"
	Session string
	Detail  string
}

// String renders a violation as one line.
func (v Violation) String() string { return v.Promise + " " + v.Session + ": " + v.Detail }

// Report is the result of an audit.
type Report struct {
	Violations []Violation
	Deliveries int // judged, repeats included
	Events     int // distinct
	Sessions   int
	Sightings  int
	Reasons    map[string]int
}

// reasons are those that the documentation lists.
var reasons = []string{
	"ClientAuthenticationError", "ClientAuthorizationError", "ClientError", "ClientInitiatedDisconnect",
	"ConnectionLost", "IpForbidden", "QuotaExceeded", "ServerError", "ServerInitiatedDisconnect",
	"SessionOverflow", "SessionTakenOver",
}

const (
	connectedType    = "Microsoft.EventGrid.MQTTClientSessionConnected"
	disconnectedType = "Microsoft.EventGrid.MQTTClientSessionDisconnected"
)

// transition is a session event as delivered.
type transition struct {
	id, session, reason string
	number              uint64
	connected           bool
	at                  time.Time
}

// Check judges in.
func Check(in Input) Report {
	a := auditor{in: in, report: Report{Deliveries: len(in.Deliveries), Sightings: len(in.Sightings), Reasons: map[string]int{}}}
	if a.in.Slack == 0 {
		a.in.Slack = 50 * time.Millisecond
	}
	if a.in.FirstNumber == 0 {
		a.in.FirstNumber = 1
	}
	a.collect()
	a.complete()
	sessions := make(map[string][]transition)
	for _, t := range a.events {
		sessions[t.session] = append(sessions[t.session], t)
	}
	seen := make(map[string][]Sighting)
	for _, s := range in.Sightings {
		seen[s.Session] = append(seen[s.Session], s)
		if _, ok := sessions[s.Session]; !ok {
			sessions[s.Session] = nil
		}
	}
	for _, name := range sorted(sessions) {
		a.serial(name, sessions[name])
		a.witnessed(name, sessions[name], seen[name])
	}
	a.report.Events, a.report.Sessions = len(a.events), len(sessions)
	return a.report
}

type auditor struct {
	in     Input
	report Report
	events map[string]transition // by id
	got    map[string]map[string]bool
}

func (a *auditor) violate(promise, session, format string, args ...any) {
	a.report.Violations = append(a.report.Violations, Violation{promise, session, fmt.Sprintf(format, args...)})
}

// collect reads the deliveries and sees that repeats of an event are the same
// event: P4.
func (a *auditor) collect() {
	a.events = make(map[string]transition)
	a.got = make(map[string]map[string]bool)
	bodies := make(map[string][]byte)
	output := make(map[string]string)
	for _, s := range a.in.Subscriptions {
		a.got[s] = make(map[string]bool)
	}
	for _, d := range a.in.Deliveries {
		t, ok, err := parse(d.Event)
		if err != nil {
			a.violate("P9", "", "an event cannot be read: %v: %.200s", err, d.Event)
			continue
		}
		if !ok {
			continue // another event type
		}
		if a.got[d.Subscription] == nil {
			a.got[d.Subscription] = make(map[string]bool)
		}
		a.got[d.Subscription][t.id] = true
		body := normal(d.Event)
		if before, repeated := bodies[t.id]; repeated && !bytes.Equal(before, body) {
			a.violate("P4", t.session, "event %s was delivered as %s and as %s", t.id, before, body)
		}
		if before, repeated := output[t.id]; repeated && d.OutputID != "" && before != d.OutputID {
			a.violate("P4", t.session, "event %s has the output ids %s and %s", t.id, before, d.OutputID)
		}
		bodies[t.id] = body
		if d.OutputID != "" {
			output[t.id] = d.OutputID
		}
		a.events[t.id] = t
	}
}

// parse reads a session event of either schema; ok is false for other types.
func parse(raw json.RawMessage) (t transition, ok bool, err error) {
	var e struct {
		ID        string    `json:"id"`
		Type      string    `json:"type"`
		Time      time.Time `json:"time"`
		EventType string    `json:"eventType"`
		EventTime time.Time `json:"eventTime"`
		Data      struct {
			Session string  `json:"clientSessionName"`
			Number  *uint64 `json:"sequenceNumber"`
			Reason  string  `json:"disconnectionReason"`
		} `json:"data"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return t, false, err
	}
	if e.Type == "" {
		e.Type, e.Time = e.EventType, e.EventTime
	}
	if e.Type != connectedType && e.Type != disconnectedType {
		return t, false, nil
	}
	if e.ID == "" || e.Time.IsZero() || e.Data.Number == nil || e.Data.Session == "" {
		return t, false, fmt.Errorf("id, time, session or number is missing")
	}
	return transition{
		id: e.ID, session: e.Data.Session, reason: e.Data.Reason, number: *e.Data.Number,
		connected: e.Type == connectedType, at: e.Time,
	}, true, nil
}

// normal is raw without insignificant white space. Events that were delivered
// in two schemas to two subscriptions are compared by their data.
func normal(raw json.RawMessage) []byte {
	var e struct {
		ID   string          `json:"id"`
		Data json.RawMessage `json:"data"`
		Time string          `json:"time"`
		At   string          `json:"eventTime"`
	}
	if json.Unmarshal(raw, &e) != nil {
		return raw
	}
	var data bytes.Buffer
	if json.Compact(&data, e.Data) != nil {
		return raw
	}
	return fmt.Appendf(nil, "%s %s%s %s", e.ID, e.Time, e.At, data.Bytes())
}

// complete sees that every subscription got every event: P4.
func (a *auditor) complete() {
	for _, sub := range sorted(a.got) {
		missing := 0
		for _, id := range sorted(a.events) {
			if a.got[sub][id] {
				continue
			}
			if missing++; missing <= 5 {
				t := a.events[id]
				a.violate("P4", t.session, "subscription %s never got event %s (%s)", sub, id, describe(t))
			}
		}
		if missing > 5 {
			a.violate("P4", "", "subscription %s never got %d further events", sub, missing-5)
		}
	}
}

// serial sees that a session's transitions alternate, pair and rise: P1, and
// that each disconnect has a documented reason: P5.
func (a *auditor) serial(name string, ts []transition) {
	byNumber := make(map[uint64][2][]transition)
	var top uint64
	for _, t := range ts {
		pair := byNumber[t.number]
		i := 1
		if t.connected {
			i = 0
		}
		pair[i] = append(pair[i], t)
		byNumber[t.number] = pair
		top = max(top, t.number)
		if t.connected {
			continue
		}
		a.report.Reasons[t.reason]++
		if !slices.Contains(reasons, t.reason) {
			a.violate("P5", name, "disconnected %d has the reason %q", t.number, t.reason)
		}
	}
	var last transition
	for n := a.in.FirstNumber; n <= top; n++ {
		skip, lost := a.skipped(name, n)
		if lost && len(byNumber[n][0]) == 0 && len(byNumber[n][1]) == 0 {
			if next := a.nextKnown(byNumber, n, skip.Number); next > n {
				n = next - 1
				continue
			}
		}
		pair := byNumber[n]
		for i, kind := range []string{"connected", "disconnected"} {
			if len(pair[i]) > 1 {
				a.violate("P1", name, "%s %d exists %d times, as events %s and %s", kind, n, len(pair[i]), pair[i][0].id, pair[i][1].id)
			}
		}
		if len(pair[0]) > 0 {
			last = a.follows(name, last, pair[0][0])
		} else if !lost {
			a.violate("P1", name, "there is no connected %d", n)
		}
		switch {
		case len(pair[1]) > 0:
			last = a.follows(name, last, pair[1][0])
		case n < top && !lost && !a.beforeSkip(name, n):
			a.violate("P3", name, "connected %d has no disconnected although %d came after it", n, n+1)
		}
	}
	for n := range byNumber {
		if n < a.in.FirstNumber {
			a.violate("P1", name, "number %d is below the first, %d", n, a.in.FirstNumber)
		}
	}
	for n := a.in.FirstNumber; n < top; n++ {
		d, c := byNumber[n][1], byNumber[n+1][0]
		if len(d) > 0 && len(c) > 0 && d[0].reason == "SessionTakenOver" && c[0].at.Sub(d[0].at) > time.Millisecond {
			a.violate("P1", name, "taken over at %s, but connected %d is of %s", stamp(d[0].at), n+1, stamp(c[0].at))
		}
	}
}

// skipped returns the skip that n is in: among the numbers that were passed
// over, or the number after them.
func (a *auditor) skipped(name string, n uint64) (Skip, bool) {
	for _, s := range a.in.Skips {
		if s.Session == name && n <= s.Number && n+s.Skipped >= s.Number {
			return s, true
		}
	}
	return Skip{}, false
}

// beforeSkip reports whether the numbers after n were passed over: what ended n
// may have been lost.
func (a *auditor) beforeSkip(name string, n uint64) bool {
	_, lost := a.skipped(name, n+1)
	return lost
}

// nextKnown returns the lowest number from n on that has an event, at most to.
func (a *auditor) nextKnown(byNumber map[uint64][2][]transition, n, to uint64) uint64 {
	next := to
	for k := range byNumber {
		if k > n {
			next = min(next, k)
		}
	}
	return next
}

func (a *auditor) follows(name string, before, t transition) transition {
	if !before.at.IsZero() && !t.at.After(before.at) {
		a.violate("P1", name, "%s is not later than %s", describe(t), describe(before))
	}
	return t
}

// witnessed compares what devices saw with the events: every CONNACK has its
// own Connected (P2), every end its Disconnected (P3), with the reason that
// the device knows of (P5).
func (a *auditor) witnessed(name string, ts []transition, seen []Sighting) {
	var ins []transition
	outs := make(map[uint64]transition)
	for _, t := range ts {
		if t.connected {
			ins = append(ins, t)
		} else {
			outs[t.number] = t
		}
	}
	sort.Slice(ins, func(i, j int) bool { return ins[i].number < ins[j].number })
	sort.Slice(seen, func(i, j int) bool { return seen[i].ended().Before(seen[j].ended()) })
	used := make([]bool, len(ins))
	open := make(map[uint64]bool)
	for _, s := range seen {
		if s.Acked.IsZero() {
			continue
		}
		i := a.match(ins, used, s)
		if i < 0 {
			a.violate("P2", name, "the CONNACK of %s (CONNECT of %s) has no connected event of its own", stamp(s.Acked), stamp(s.Sent))
			continue
		}
		used[i] = true
		n := ins[i].number
		out, ended := outs[n]
		switch {
		case s.Closed.IsZero():
			open[n] = true
		case !ended && a.beforeSkip(name, n):
			// What ended it may have been lost.
		case !ended:
			a.violate("P3", name, "the connection of connected %d ended at %s and has no disconnected", n, stamp(s.Closed))
		case a.ambiguous(ins, i, seen, s):
			// Several connections were under way at once: which of the numbers
			// is this one's cannot be told from the outside.
		case s.Reason != "" && out.reason != s.Reason:
			a.violate("P5", name, "disconnected %d has the reason %s where the device knows it was %s", n, out.reason, s.Reason)
		case !s.Goodbye && out.reason == "ClientInitiatedDisconnect":
			a.violate("P5", name, "disconnected %d has the reason %s and the device said no good-bye", n, out.reason)
		}
	}
	for _, t := range ins {
		if _, ended := outs[t.number]; !ended && !open[t.number] && !a.beforeSkip(name, t.number) {
			a.violate("P3", name, "connected %d has no disconnected and no device says that it is connected", t.number)
		}
	}
}

// match finds the Connected that stands for a CONNACK: committed between
// CONNECT and CONNACK.
func (a *auditor) match(ins []transition, used []bool, s Sighting) int {
	for i, t := range ins {
		if !used[i] && !t.at.Before(s.Sent.Add(-a.in.Slack)) && !t.at.After(s.Acked.Add(a.in.Slack)) {
			return i
		}
	}
	return -1
}

// ambiguous reports whether the CONNACK of s could stand for another Connected
// than the i-th, or that one for another CONNACK.
func (a *auditor) ambiguous(ins []transition, i int, seen []Sighting, s Sighting) bool {
	within := func(t transition, s Sighting) bool {
		return !t.at.Before(s.Sent.Add(-a.in.Slack)) && !t.at.After(s.Acked.Add(a.in.Slack))
	}
	points, spans := 0, 0
	for _, t := range ins[max(0, i-16):min(len(ins), i+17)] {
		if within(t, s) {
			points++
		}
	}
	for _, other := range seen {
		if !other.Acked.IsZero() && within(ins[i], other) {
			spans++
		}
	}
	return points > 1 || spans > 1
}

// ended orders sightings so that the earliest deadline is matched first.
func (s Sighting) ended() time.Time {
	if s.Acked.IsZero() {
		return s.Sent
	}
	return s.Acked
}

func describe(t transition) string {
	if t.connected {
		return fmt.Sprintf("connected %d of %s", t.number, stamp(t.at))
	}
	return fmt.Sprintf("disconnected %d (%s) of %s", t.number, t.reason, stamp(t.at))
}

func stamp(t time.Time) string { return t.UTC().Format("15:04:05.0000000") }

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, strings.Compare)
	return keys
}
