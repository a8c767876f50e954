package delivery

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are summed over all subscriptions; what concerns one of them is in
// its Tally.
type metrics struct {
	attempts      [outcomes]prometheus.Counter
	dropped       [reasons]prometheus.Counter
	deadLettered  [reasons]prometheus.Counter
	matched       prometheus.Counter
	delivered     prometheus.Counter
	writeFailures prometheus.Counter
	retained      prometheus.Counter
	deadRemoved   prometheus.Counter
	duration      prometheus.Histogram
	all           []prometheus.Collector
}

func newMetrics(d *Dispatcher) *metrics {
	m := &metrics{
		matched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_delivery_matched_events_total", Help: "Events accepted for subscriptions, counted once for each."}),
		delivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_delivery_events_total", Help: "Events that a destination took."}),
		writeFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_delivery_progress_write_failures_total", Help: "Writes of delivery progress that the store refused and that are tried again."}),
		retained: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_delivery_log_expired_events_total", Help: "Events that retention removed from the log, settled or not."}),
		deadRemoved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_delivery_dead_letter_files_removed_total", Help: "Dead-letter files removed because of their age or the directory's limit."}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rollcall_delivery_attempt_duration_seconds", Help: "Time that a destination took to answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}),
	}
	attempts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rollcall_delivery_attempts_total", Help: "Requests made to destinations, by outcome."}, []string{"outcome"})
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rollcall_delivery_dropped_events_total", Help: "Events that were lost to a subscription, by reason."}, []string{"reason"})
	dead := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rollcall_delivery_dead_lettered_events_total", Help: "Events written to a dead-letter directory, by reason."}, []string{"reason"})
	m.attempts[NoOutcome] = attempts.WithLabelValues("Abandoned")
	for o := Success; o < outcomes; o++ {
		m.attempts[o] = attempts.WithLabelValues(o.String())
	}
	m.dropped[0] = dropped.WithLabelValues("Unknown")
	m.deadLettered[0] = dead.WithLabelValues("Unknown")
	for r := Reason(1); r < reasons; r++ {
		m.dropped[r] = dropped.WithLabelValues(r.String())
		m.deadLettered[r] = dead.WithLabelValues(r.String())
	}
	m.all = []prometheus.Collector{m.matched, m.delivered, m.writeFailures, m.retained, m.deadRemoved, m.duration, attempts, dropped, dead,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rollcall_delivery_pending_events", Help: "Events not settled, over all subscriptions."},
			func() float64 { return float64(d.backlog()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rollcall_delivery_log_bytes", Help: "Keys and values of the stored events, which retention bounds."},
			func() float64 { return float64(d.events.bytes()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rollcall_delivery_dead_letter_bytes", Help: "What the dead-letter directory takes, in blocks of 4 KiB."},
			func() float64 { return float64(d.dead.size()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rollcall_delivery_dead_letters_waiting", Help: "1 while dead-lettering waits for disk space."},
			func() float64 { return d.dead.waiting() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rollcall_delivery_workers_busy", Help: "Requests under way or about to be."},
			func() float64 { return float64(int64(d.set.Workers) - d.free.Load()) }),
	}
	return m
}

func (m *metrics) attempt(o Outcome, took time.Duration) {
	m.attempts[min(o, outcomes-1)].Inc()
	m.duration.Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (d *Dispatcher) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range d.metrics.all {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (d *Dispatcher) Collect(ch chan<- prometheus.Metric) {
	for _, c := range d.metrics.all {
		c.Collect(ch)
	}
}

func (d *Dispatcher) backlog() uint64 {
	d.mu.Lock()
	queues := d.all()
	d.mu.Unlock()
	var n uint64
	for _, q := range queues {
		q.mu.Lock()
		n += q.pending()
		q.mu.Unlock()
	}
	return n
}
