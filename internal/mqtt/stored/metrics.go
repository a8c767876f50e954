package stored

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/store"
)

type metrics struct {
	published prometheus.Counter
	stored    prometheus.Counter
	settled   prometheus.Counter
	collected prometheus.Counter
	orphans   prometheus.Counter
	refused   prometheus.Counter
	failures  *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		published: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_mqtt_stored_messages_total", Help: "Messages stored for sessions."}),
		stored: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_mqtt_stored_entries_total", Help: "Queue entries stored, one per message and session."}),
		settled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_mqtt_stored_settled_total", Help: "Queue entries deleted after acknowledgement or with their session."}),
		collected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_mqtt_stored_collected_total", Help: "Ended sessions whose queues are deleted."}),
		orphans: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_mqtt_stored_orphans_total", Help: "Messages deleted that earlier runs had left without a session."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_mqtt_retained_refused_total", Help: "Retained messages refused because the quota was used up."}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_mqtt_stored_failures_total", Help: "Commits that failed, by reason."}, []string{"reason"}),
	}
}

// outcome counts a failure.
func (m *metrics) outcome(err error) {
	switch {
	case err == nil:
	case errors.Is(err, store.ErrFull):
		m.failures.WithLabelValues("full").Inc()
	case errors.Is(err, store.ErrConflict):
		m.failures.WithLabelValues("conflict").Inc()
	case errors.Is(err, store.ErrUnknown):
		m.failures.WithLabelValues("unknown").Inc()
	case errors.Is(err, store.ErrClosed):
		m.failures.WithLabelValues("closed").Inc()
	default:
		m.failures.WithLabelValues("invalid").Inc()
	}
}

// Register adds the store's metrics to r.
func (st *Store) Register(r prometheus.Registerer) error {
	m := st.metrics
	shared := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rollcall_mqtt_stored_shared_messages", Help: "Messages stored once for several sessions, as far as they are counted."},
		func() float64 { return float64(st.refs.messages()) })
	backlog := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rollcall_mqtt_stored_backlog", Help: "Keys that are settled and not deleted yet."},
		func() float64 { return float64(st.reap.backlog()) })
	retained := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rollcall_mqtt_retained_messages", Help: "Retained messages."},
		func() float64 { n, _ := st.Retained(); return float64(n) })
	bytes := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rollcall_mqtt_retained_bytes", Help: "Bytes of topics and payloads of retained messages."},
		func() float64 { _, n := st.Retained(); return float64(n) })
	for _, c := range []prometheus.Collector{m.published, m.stored, m.settled, m.collected, m.orphans, m.refused, m.failures, shared, backlog, retained, bytes} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// Retained returns how many retained messages there are, and the bytes of their
// topics and payloads.
func (st *Store) Retained() (messages int, bytes int64) {
	st.retained.mu.RLock()
	defer st.retained.mu.RUnlock()
	return st.retained.count, st.retained.bytes
}

// Size estimates the bytes that queues and messages take on disk. It asks the
// engine once per partition and table.
func (st *Store) Size() (uint64, error) {
	var sum uint64
	for p := range st.partitions {
		for _, t := range []store.Table{store.TableQueue, store.TableMessage} {
			n, err := st.engine.Size(tableBounds(uint8(p), t))
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}
