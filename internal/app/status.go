package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"rollcall/internal/event"
	"rollcall/internal/store/pebble"
	"rollcall/internal/store/setaside"
)

// Status is how a server is doing.
type Status struct {
	Version      string      `json:"version"`
	Profile      string      `json:"profile"`
	Node         string      `json:"node"`
	Boot         uint64      `json:"boot"`
	StartedAt    event.Time  `json:"startedAt"`
	Namespace    string      `json:"namespace"`
	Endpoints    Endpoints   `json:"endpoints"`
	Storage      Storage     `json:"storage"`
	OpenSessions int         `json:"openSessions"`
	Damage       Damage      `json:"damage"`
	Descriptors  Descriptors `json:"descriptors"`
}

// Damage is what of the stored data could not be read.
type Damage struct {
	Findings []pebble.Finding  `json:"findings"` // damaged files, of this start and earlier ones, the newest 100
	SetAside map[string]uint64 `json:"setAside"` // items passed over since the start, by table
	Items    []setaside.Item   `json:"items"`    // some of them
}

// Storage is the space that a server takes and has left, in bytes.
type Storage struct {
	Bytes     uint64 `json:"bytes"`
	Limit     uint64 `json:"limit"`
	FreeBytes uint64 `json:"freeBytes"`
	Full      bool   `json:"full"`
}

// Status returns how the server is doing.
func (s *Server) Status() Status {
	u := s.engine.Usage()
	return Status{
		Version: s.version, Profile: string(s.cfg.Profile), Node: s.cfg.Node, Boot: s.ledger.Self().Boot,
		StartedAt: event.Time{Time: s.started}, Namespace: s.cfg.Resource.NamespaceID(), Endpoints: s.Endpoints(),
		Storage:      Storage{Bytes: u.Bytes, Limit: u.Limit, FreeBytes: u.FreeBytes, Full: u.Full},
		OpenSessions: s.ledger.OpenSessions(),
		Damage:       s.damage(),
		Descriptors:  s.files,
	}
}

func (s *Server) damage() Damage {
	d := Damage{Findings: s.engine.Findings(), SetAside: s.setAside.Counts(), Items: s.setAside.Items()}
	d.Findings = d.Findings[max(0, len(d.Findings)-100):]
	return d
}

// storage are the metrics of the store.
type storage struct{ engine *pebble.Engine }

var (
	descBytes     = prometheus.NewDesc("rollcall_store_bytes", "Bytes that the store takes on disk.", nil, nil)
	descFree      = prometheus.NewDesc("rollcall_store_free_bytes", "Bytes left on the store's file system.", nil, nil)
	descFull      = prometheus.NewDesc("rollcall_store_full", "1 while new work is refused because space is low.", nil, nil)
	descBatches   = prometheus.NewDesc("rollcall_store_batches_total", "Batches whose outcome was reported.", nil, nil)
	descGroups    = prometheus.NewDesc("rollcall_store_syncs_total", "Groups of batches that shared one sync.", nil, nil)
	descConflicts = prometheus.NewDesc("rollcall_store_conflicts_total", "Batches that failed with a conflict.", nil, nil)
	descDamage    = prometheus.NewDesc("rollcall_store_damage_total", "Damaged parts of the store's files that were met, by what became of them.", []string{"outcome"}, nil)
	descStarved   = prometheus.NewDesc("rollcall_store_descriptor_waits_total", "Times that the store waited for a file descriptor.", nil, nil)
	descRefused   = prometheus.NewDesc("rollcall_store_refused_total", "Batches refused because space is low.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s storage) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descBytes, descFree, descFull, descBatches, descGroups, descConflicts, descRefused, descDamage, descStarved} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s storage) Collect(ch chan<- prometheus.Metric) {
	u, st := s.engine.Usage(), s.engine.Stats()
	full := 0.0
	if u.Full {
		full = 1
	}
	ch <- prometheus.MustNewConstMetric(descBytes, prometheus.GaugeValue, float64(u.Bytes))
	ch <- prometheus.MustNewConstMetric(descFree, prometheus.GaugeValue, float64(u.FreeBytes))
	ch <- prometheus.MustNewConstMetric(descFull, prometheus.GaugeValue, full)
	ch <- prometheus.MustNewConstMetric(descBatches, prometheus.CounterValue, float64(st.Batches))
	ch <- prometheus.MustNewConstMetric(descGroups, prometheus.CounterValue, float64(st.Groups))
	ch <- prometheus.MustNewConstMetric(descConflicts, prometheus.CounterValue, float64(st.Conflicts))
	damage := s.engine.DamageCounts()
	for _, o := range []pebble.Outcome{pebble.Corrected, pebble.SetAside, pebble.Harmless} {
		ch <- prometheus.MustNewConstMetric(descDamage, prometheus.CounterValue, float64(damage[o]), string(o))
	}
	ch <- prometheus.MustNewConstMetric(descStarved, prometheus.CounterValue, float64(st.Starved))
	ch <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(st.Refused))
}
