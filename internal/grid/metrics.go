package grid

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	published, matched, tailDropped prometheus.Counter
	handshakes                      *prometheus.CounterVec
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &metrics{
		published:   counter("rollcall_grid_events_total", "Events committed, wanted by a subscription or not."),
		matched:     counter("rollcall_grid_matched_events_total", "Events committed that at least one subscription wants."),
		tailDropped: counter("rollcall_grid_tail_missed_events_total", "Events that readers of live tails were too slow for."),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_grid_handshakes_total", Help: "Endpoint validations that ended, by result."}, []string{"result"}),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.published, m.matched, m.tailDropped, m.handshakes}
}

// Describe implements prometheus.Collector.
func (g *Grid) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range g.metrics.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (g *Grid) Collect(ch chan<- prometheus.Metric) {
	for _, c := range g.metrics.all() {
		c.Collect(ch)
	}
}
