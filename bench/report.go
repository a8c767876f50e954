package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// report collects the figures of a run.
type report struct {
	Machine   string     `json:"machine"`
	Scenarios []*section `json:"scenarios"`
}

// section is one scenario's part.
type section struct {
	Name        string    `json:"name"`
	About       string    `json:"about"`
	LoadAverage string    `json:"loadAverage"` // of the machine when it began
	Figures     []*figure `json:"figures"`
}

// figure is one thing that was measured, once for each repetition.
type figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"`
	// Aim is the least or, if AtMost, the greatest value wanted; nil: none.
	Aim    *float64 `json:"aim,omitempty"`
	AtMost bool     `json:"atMost,omitempty"`
}

func (r *report) begin(name, about, load string) {
	r.Scenarios = append(r.Scenarios, &section{Name: name, About: about, LoadAverage: load})
}

// add adds a value to the figure of the scenario that began last, and returns
// the figure.
func (r *report) add(name, unit string, value float64) *figure {
	s := r.Scenarios[len(r.Scenarios)-1]
	for _, f := range s.Figures {
		if f.Name == name {
			f.Values = append(f.Values, value)
			return f
		}
	}
	f := &figure{Name: name, Unit: unit, Values: []float64{value}}
	s.Figures = append(s.Figures, f)
	return f
}

// atMost and atLeast set what is aimed at.
func (f *figure) atMost(v float64)  { f.Aim, f.AtMost = &v, true }
func (f *figure) atLeast(v float64) { f.Aim, f.AtMost = &v, false }

// aim is the aim and whether the median is within it.
func (f *figure) aim() string {
	if f.Aim == nil {
		return ""
	}
	m := median(f.Values)
	sign, met := "≥", m >= *f.Aim
	if f.AtMost {
		sign, met = "≤", m <= *f.Aim
	}
	return fmt.Sprintf("%s %s %s", sign, number(*f.Aim), map[bool]string{true: "met", false: "MISSED"}[met])
}

// table prints one scenario.
func (r *report) table(w io.Writer, name string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range r.Scenarios {
		if s.Name != name {
			continue
		}
		fmt.Fprintln(t, "  figure\tmedian\tmin–max\tunit\taim")
		for _, f := range s.Figures {
			fmt.Fprintf(t, "  %s\t%s\t%s–%s\t%s\t%s\n", f.Name, number(median(f.Values)),
				number(slices.Min(f.Values)), number(slices.Max(f.Values)), f.Unit, f.aim())
		}
	}
	fmt.Fprintln(t)
	t.Flush()
}

func (r *report) write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// number prints three significant digits, and integers whole.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// median is the middle value, or the mean of the two in the middle. There is
// at least one.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// quantile is the least value that at least the share q of all are no greater
// than; values are sorted. NaN if there are none.
func quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	return values[min(len(values)-1, max(0, int(math.Ceil(q*float64(len(values))))-1))]
}

// machine describes the machine without naming it.
func machine() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // what is not there is left out
	model := runtime.GOARCH
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	release, _, _ := strings.Cut(strings.TrimSpace(string(kernel)), "-")
	return fmt.Sprintf("%s, %d cores, %s %s, %s", model, runtime.NumCPU(), runtime.GOOS, release, runtime.Version())
}

// loadAverage is how many wanted to run in the last minute, five, fifteen.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	f := strings.Fields(string(text))
	return strings.Join(f[:min(3, len(f))], " ")
}
