package registry

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	authentications *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{authentications: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rollcall_registry_authentications_total",
		Help: "Clients judged at CONNECT, by method and result.",
	}, []string{"method", "result"})}
}

func (m *metrics) count(method string, err error) {
	result := "admitted"
	var d *Denied
	switch {
	case errors.As(err, &d):
		result = string(d.Reason)
	case err != nil:
		result = "fault"
	}
	m.authentications.WithLabelValues(method, result).Inc()
}

// Register adds the registry's metrics to reg.
func (r *Registry) Register(reg prometheus.Registerer) error {
	gauge := func(name, help string, f func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f()) })
	}
	return errors.Join(
		reg.Register(r.metrics.authentications),
		reg.Register(gauge("rollcall_registry_clients", "Client resources.", func() int { n, _ := r.Count(); return n })),
		reg.Register(gauge("rollcall_registry_cas", "CA certificates.", func() int { _, n := r.Count(); return n })),
		reg.Register(gauge("rollcall_registry_events_owed", "Clients whose event waits to be emitted.", r.Owed)),
		reg.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "rollcall_registry_password_hashes_total", Help: "Password hashes computed.",
		}, func() float64 { return float64(r.passwords.hasher.Hashes()) })),
	)
}
