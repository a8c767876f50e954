package httpd

import (
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	refused  *prometheus.CounterVec
	panics   prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_http_requests_total", Help: "HTTP requests answered, by route and class of status."}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rollcall_http_request_seconds", Help: "Time from a request's headers to the end of its answer, streams included.",
			Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30}}, []string{"route"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_http_refused_total", Help: "Connections and requests refused before they reached a handler, by reason."}, []string{"reason"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_http_panics_total", Help: "Requests whose handler failed with a panic."}),
	}
	for _, reason := range []string{"connections", "host", "origin", "token", "body"} {
		m.refused.WithLabelValues(reason)
	}
	return m
}

// routeOf names what a path leads to, for metrics. The set is small and closed.
func routeOf(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch strings.ToLower(first) {
	case "subscriptions", "providers":
		return "control"
	case "rollcall":
		return "side"
	case "eventsubscriptions":
		return "validation"
	case "mqtt":
		return "mqtt"
	case "metrics":
		return "metrics"
	case "healthz", "readyz":
		return "health"
	}
	return "other"
}

// statusClass is "2xx" for 204.
func statusClass(status int) string { return strconv.Itoa(status/100) + "xx" }
