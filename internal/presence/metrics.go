package presence

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connected    prometheus.Counter
	disconnected *prometheus.CounterVec
	refused      *prometheus.CounterVec
	retries      prometheus.Counter
	swept        prometheus.Counter
	trimmed      prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		connected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_presence_connected_total", Help: "Connected transitions committed."}),
		disconnected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_presence_disconnected_total", Help: "Disconnected transitions committed, by reason."}, []string{"reason"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_presence_claims_refused_total", Help: "Claims of a session that failed, by reason."}, []string{"reason"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_presence_release_retries_total", Help: "Disconnected transitions that had to be tried again."}),
		swept: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_presence_swept_total", Help: "Sessions closed that an earlier start had left open."}),
		trimmed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_presence_trimmed_total", Help: "Transitions deleted by retention."}),
	}
}

func (m *metrics) count(t *Transition) {
	if t.Kind == Connected {
		m.connected.Inc()
		return
	}
	m.disconnected.WithLabelValues(t.Reason.String()).Inc()
}

// Register adds the ledger's metrics to r.
func (l *Ledger) Register(r prometheus.Registerer) error {
	m := l.metrics
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rollcall_presence_open_sessions", Help: "Sessions held now."},
		func() float64 { return float64(l.open.Load()) })
	for _, c := range []prometheus.Collector{m.connected, m.disconnected, m.refused, m.retries, m.swept, m.trimmed, open} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}
