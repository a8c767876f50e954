package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	load "rollcall/internal/bench"
)

// table is what was measured of all contenders.
type table struct {
	Machine     string  `json:"machine"`
	LoadAverage string  `json:"loadAverage"` // when it began
	Rounds      int     `json:"rounds"`
	Quick       bool    `json:"quick,omitempty"` // too little load for a measurement
	Rows        []*line `json:"rows"`

	peers []string
}

// line is a row of the table.
type line struct {
	Name  string  `json:"name"`
	About string  `json:"about"`
	Unit  string  `json:"unit"`
	Cells []*cell `json:"cells"`
}

// cell is one contender's part of a row.
type cell struct {
	Peer   string       `json:"peer"`
	Values []float64    `json:"values,omitempty"` // one for each round
	Rates  []float64    `json:"perSecond,omitempty"`
	Absent string       `json:"absent,omitempty"`   // why there are none
	Flaws  []string     `json:"failures,omitempty"` // promises of MQTT that were not kept, and warnings
	Last   *load.Report `json:"lastReport,omitempty"`
}

func newTable(machine, load string, v *versus) *table {
	return &table{Machine: machine, LoadAverage: load, Rounds: v.rounds, Quick: v.quick, peers: v.peers}
}

func (t *table) begin(r *row) *line {
	l := &line{Name: r.name, About: r.about, Unit: [...]string{"µs of CPU", "KiB", "µs"}[r.measured]}
	for _, c := range contenders {
		if slices.Contains(t.peers, c.name) {
			l.Cells = append(l.Cells, &cell{Peer: c.name})
		}
	}
	t.Rows = append(t.Rows, l)
	return l
}

// cell is the contender's; nil if it does not take part.
func (l *line) cell(peer string) *cell {
	for _, c := range l.Cells {
		if c.Peer == peer {
			return c
		}
	}
	return nil
}

// add adds a round: a report, or why there is none.
func (c *cell) add(r *row, got *load.Report, why string) {
	if got == nil {
		c.Absent, c.Values = why, nil
		return
	}
	c.Last = got
	for _, f := range slices.Concat(got.Failures, got.Warnings) {
		if !slices.Contains(c.Flaws, f) {
			c.Flaws = append(c.Flaws, f)
		}
	}
	c.Rates = append(c.Rates, got.PerSecond)
	switch {
	case r.measured == brokerCPU && got.BrokerCPU != nil:
		c.Values = append(c.Values, *got.BrokerCPU)
	case r.measured == brokerBytes && got.Memory != nil:
		c.Values = append(c.Values, got.Memory.PerConnection/1024)
	case r.measured == p99 && got.Times != nil:
		c.Values = append(c.Values, got.Times.P99)
	}
}

// reference is whom the others are compared with.
const reference = "mosquitto"

// show is the median, its ratio to the reference, and the least and greatest
// value.
func (l *line) show(c *cell) string {
	if len(c.Values) == 0 {
		return "–"
	}
	m := median(c.Values)
	text := number(m)
	if ref := l.cell(reference); ref != nil && ref != c && len(ref.Values) > 0 && median(ref.Values) > 0 {
		text += fmt.Sprintf(" (%s×)", number(m/median(ref.Values)))
	}
	if len(c.Values) > 1 {
		text += fmt.Sprintf(" [%s–%s]", number(slices.Min(c.Values)), number(slices.Max(c.Values)))
	}
	return text
}

// text is the row on one line, as it is printed while others are measured.
func (l *line) text(about string) string {
	parts := []string{about + ":"}
	for _, c := range l.Cells {
		parts = append(parts, c.Peer, l.show(c)+";")
	}
	return strings.TrimSuffix(strings.Join(parts, " "), ";")
}

// markdown is the whole table, with notes on what is missing or flawed.
func (t *table) markdown() string {
	var b, notes strings.Builder
	fmt.Fprintf(&b, "%s; load average before: %s; medians of %d rounds, (ratio to %s), [least–greatest].\n", t.Machine, t.LoadAverage, t.Rounds, reference)
	if t.Quick {
		b.WriteString("A quick run: too little load for a measurement.\n")
	}
	b.WriteString("Broker CPU in µs per message unless the row says otherwise; less is better.\n\n|")
	for _, name := range append([]string{""}, t.peers...) {
		fmt.Fprintf(&b, " %s |", name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(t.peers)) + "\n")
	for _, l := range t.Rows {
		fmt.Fprintf(&b, "| %s |", l.About)
		for _, name := range t.peers {
			c := l.cell(name)
			fmt.Fprintf(&b, " %s |", l.show(c))
			if c.Absent != "" {
				fmt.Fprintf(&notes, "- %s, %s: %s\n", l.Name, name, c.Absent)
			}
			for _, f := range c.Flaws {
				fmt.Fprintf(&notes, "- %s, %s: %s\n", l.Name, name, f)
			}
		}
		b.WriteString("\n")
	}
	if notes.Len() > 0 {
		b.WriteString("\n" + notes.String())
	}
	return b.String()
}

func (t *table) write(file string) error {
	text, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
