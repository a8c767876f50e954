package broker

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/mqtt/packet"
)

type metrics struct {
	connects  *prometheus.CounterVec
	accepted  prometheus.Counter
	sessions  *prometheus.CounterVec
	dropped   *prometheus.CounterVec
	published *prometheus.CounterVec
	byQoS     [3]prometheus.Counter
	congested prometheus.Counter // the reason for dropping that comes in floods
	panics    prometheus.Counter
	in, out   [16]prometheus.Counter // by packet type
	packets   *prometheus.CounterVec

	refusedSubscriptions prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		connects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_mqtt_connects_total", Help: "CONNECT packets judged, by result."}, []string{"result"}),
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_mqtt_dropped_sessions_total", Help: "Stored sessions that ended without their clients' doing, by reason."}, []string{"reason"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_mqtt_messages_dropped_total", Help: "Messages not sent to a subscriber, by reason."}, []string{"reason"}),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_mqtt_messages_published_total", Help: "Messages accepted from clients, by QoS."}, []string{"qos"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_mqtt_connection_faults_total", Help: "Connections ended by a fault inside the server."}),
		refusedSubscriptions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_mqtt_subscriptions_refused_total", Help: "Subscriptions refused because all took as much memory as they may."}),
		packets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_mqtt_packets_total", Help: "MQTT packets, by direction and type."}, []string{"direction", "type"}),
	}
	for q := range m.byQoS {
		m.byQoS[q] = m.published.WithLabelValues(strconv.Itoa(q))
	}
	m.accepted = m.connects.WithLabelValues("accepted")
	m.congested = m.dropped.WithLabelValues("congested")
	for t := packet.CONNECT; t <= packet.AUTH; t++ {
		m.in[t] = m.packets.WithLabelValues("in", t.String())
		m.out[t] = m.packets.WithLabelValues("out", t.String())
	}
	m.in[0], m.out[0] = m.in[packet.AUTH], m.out[packet.AUTH] // no such type
	return m
}

func (m *metrics) drop(why string) {
	if why == "congested" {
		m.congested.Inc()
		return
	}
	m.dropped.WithLabelValues(why).Inc()
}

// Register adds the broker's metrics to r.
func (b *Broker) Register(r prometheus.Registerer) error {
	m := b.metrics
	subs := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rollcall_mqtt_subscriptions", Help: "MQTT subscriptions of connected clients."},
		func() float64 { return float64(b.subscriptions()) })
	bytes := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rollcall_mqtt_subscription_bytes", Help: "Memory that subscriptions take, estimated."},
		func() float64 { return float64(b.subscriptionBytes()) })
	return errors.Join(r.Register(bytes), r.Register(b.refusals.counter), r.Register(m.refusedSubscriptions), r.Register(m.connects), r.Register(m.dropped), r.Register(m.sessions), r.Register(m.published),
		r.Register(m.panics), r.Register(m.packets), r.Register(subs))
}
